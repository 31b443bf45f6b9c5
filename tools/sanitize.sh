#!/usr/bin/env bash
# The C++ tests, and every kernel on the simulator, built with AddressSanitizer and UndefinedBehaviorSanitizer.
# With clang++, so that this build is also another compiler's for tests/reference/reproducible.sh. Warnings are the first
# build's business.
. "$(dirname "$0")/common.sh"
need_packages "${build_packages[@]}" clang libclang-rt-dev
cmake -G Ninja -S . -B build/sanitize -DCMAKE_CXX_COMPILER=clang++ -DTOUCHSTONE_SANITIZE=ON -DTOUCHSTONE_NATIVE=OFF -DTOUCHSTONE_CUDA=OFF -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS='-O1 -w' >/dev/null
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
