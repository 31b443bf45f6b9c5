#!/usr/bin/env bash
# The C++ tests, and every kernel on the simulator, built with AddressSanitizer and UndefinedBehaviorSanitizer.
. "$(dirname "$0")/common.sh"
cmake -G Ninja -S . -B build/sanitize -DTOUCHSTONE_SANITIZE=ON -DTOUCHSTONE_NATIVE=OFF -DTOUCHSTONE_CUDA=OFF -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS=-O1 >/dev/null
cmake --build build/sanitize
ctest --test-dir build/sanitize --output-on-failure -j "$jobs"

# Each kernel that takes a kept golden's inputs, at every level.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
build/sanitize/dsa-simulated ops | while read -r word number _; do
    if [ "$word" != level ]; then op=$word; continue; fi
    for inputs in golden/tensors/"$op"/*/inputs; do
        [ -e "$inputs/case.json" ] || continue
        status=0
        build/sanitize/dsa-simulated op "$op" "$inputs" "$scratch/out" --level "$number" >"$scratch/log" 2>&1 || status=$?
        if [ $status -ne 0 ] && [ $status -ne 77 ]; then cat "$scratch/log"; echo "$op, level $number, on $inputs: exit status $status" >&2; exit 1; fi
    done
done
