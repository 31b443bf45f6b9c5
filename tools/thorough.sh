#!/usr/bin/env bash
# What takes another build of the reference, or three: sanitizers, fuzzers, other compilers and another CPU. To be run
# before a release and after changes of reference/ or optimized/simulator/; tools/test.sh has all else.
. "$(dirname "$0")/common.sh"
begin=$(date +%s)
need_packages "${build_packages[@]}" "${python_packages[@]}" clang libclang-rt-dev qemu-user g++-aarch64-linux-gnu
say "C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer"
tools/sanitize.sh
say "file readers under fuzzers"
tools/fuzz.sh 30
say "the same bytes from other compilers and CPUs"
tests/reference/reproducible.sh
say "done in $(($(date +%s) - begin)) s"
