#!/usr/bin/env bash
# The C++ tests, built with AddressSanitizer and UndefinedBehaviorSanitizer.
. "$(dirname "$0")/common.sh"
configure_sanitize
cmake --build "$sanitize_build"
ctest --test-dir "$sanitize_build" --output-on-failure -j "$jobs"
