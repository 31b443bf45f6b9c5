#!/usr/bin/env bash
# clang-tidy over the reference (.clang-tidy says which checks).
. "$(dirname "$0")/common.sh"
need_packages "${build_packages[@]}" clang-tidy
cmake -G Ninja -S . -B build/tidy -DCMAKE_CXX_COMPILER=clang++ -DTOUCHSTONE_TESTS=OFF >/dev/null
git ls-files 'reference/*.cpp' | xargs -P "$jobs" -n 1 clang-tidy -p build/tidy --quiet --warnings-as-errors='*'
