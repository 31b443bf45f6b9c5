#!/usr/bin/env bash
# The C++ tests, built with AddressSanitizer and UndefinedBehaviorSanitizer.
. "$(dirname "$0")/common.sh"
cmake -G Ninja -S . -B build/sanitize -DTOUCHSTONE_SANITIZE=ON -DTOUCHSTONE_NATIVE=OFF -DTOUCHSTONE_OPTIMIZED=OFF -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS=-O1 >/dev/null
cmake --build build/sanitize
ctest --test-dir build/sanitize --output-on-failure -j "$jobs"
