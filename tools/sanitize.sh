#!/usr/bin/env bash
# The C++ tests, built with AddressSanitizer and UndefinedBehaviorSanitizer; with "build", only built.
. "$(dirname "$0")/common.sh"
configure_sanitize
cmake --build "$sanitize_build"
[ "${1:-}" = build ] && exit
ctest --test-dir "$sanitize_build" --output-on-failure -j "$jobs"
