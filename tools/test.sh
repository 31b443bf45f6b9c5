#!/usr/bin/env bash
# Every test that this machine can run, within half an hour on two cores; says which were skipped and why.
. "$(dirname "$0")/common.sh"
mkdir -p "$TOUCHSTONE_BUILD"
begin=$(date +%s)
skipped=()

# All at once, since later stages build beside each other.
need_packages "${build_packages[@]}" "${python_packages[@]}" python3-dev gcc clang-format nodejs gdb
# Reads the page of tests/golden/test_page_in_a_browser.py. Ubuntu has it as a snap only, which need_packages does not know.
if grep -qs '^ID=debian' /etc/os-release; then need_packages chromium; fi
# The tests make and delete small files by the ten thousand, and at each that is made ext4 looks through those deleted in
# the last five seconds (Linux, fs/ext4/ialloc.c, recently_deleted): half of all processor time of some tests. Memory does not.
scratch=
trap 'rm -rf "$scratch"' EXIT
if [ "$(df --output=avail /dev/shm 2>/dev/null | tail -n 1)" -ge $((6 << 20)) ] 2>/dev/null; then
    scratch=$(mktemp -d /dev/shm/touchstone.XXXXXX)
    printf '#!/bin/sh\n' >"$scratch/program" && chmod +x "$scratch/program"
    if "$scratch/program" 2>/dev/null; then export TMPDIR="$scratch"; fi  # programs may be forbidden there
fi
say "format"
tools/format.sh
say "reference: build and test"
# Packages are mostly waited for.
set -m  # a process group of its own, to be ended with this script
(need_python test,notebooks; need_binding) >"$TOUCHSTONE_BUILD/python.log" 2>&1 </dev/null &
packages=$!
set +m
trap 'kill -- "-$packages" 2>/dev/null || true; rm -rf "$scratch"' EXIT
build_reference all
ctest --test-dir "$TOUCHSTONE_BUILD" --output-on-failure -j "$jobs"

wait "$packages" || { cat "$TOUCHSTONE_BUILD/python.log"; exit 1; }
need_python test,notebooks
need_binding
say "goldens: make the small set and verify it"
touchstone make --set small
touchstone text
touchstone verify
say "Python tests and notebooks"
"$python" -m pytest -q -n "$jobs" --dist worksteal --durations=20 tests

command -v chromium google-chrome >/dev/null || skipped+=("the page in a browser: no chromium here")
"$python" -c 'import torch' 2>/dev/null || skipped+=("torch.ops.dsa: PyTorch is not installed (pip install torch)")
command -v nvcc >/dev/null || skipped+=("the CUDA tree compiled for Hopper: no nvcc here (its kernels ran on the simulator)")
command -v nvidia-smi >/dev/null || skipped+=("the CUDA tree on a GPU: there is none here; make device runs it on an H100")
skipped+=("sanitizers, fuzzers, other compilers and CPUs: make thorough runs them")
say "done in $(($(date +%s) - begin)) s"
for reason in "${skipped[@]}"; do echo "skipped: $reason"; done
