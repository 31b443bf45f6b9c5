#!/usr/bin/env bash
# The file readers under libFuzzer, each for a number of seconds (20), starting from the kept corpus; all at
# once.
. "$(dirname "$0")/common.sh"
seconds=${1:-20}
need_packages clang libclang-rt-dev
cmake -G Ninja -S . -B build/fuzz -DCMAKE_CXX_COMPILER=clang++ -DTOUCHSTONE_FUZZ=ON -DTOUCHSTONE_TESTS=OFF -DTOUCHSTONE_OPTIMIZED=OFF -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS=-O1 >/dev/null
cmake --build build/fuzz --target fuzzers
running=()
for reader in npy safetensors json; do
    # New findings go to a scratch folder; the kept corpus stays as it is.
    mkdir -p "build/fuzz/found_$reader"
    build/fuzz/tests/fuzz/fuzz_$reader -max_total_time="$seconds" -max_len=4096 -artifact_prefix="build/fuzz/found_$reader/" -timeout=5 -rss_limit_mb=1024 -print_final_stats=1 -verbosity=0 \
        "build/fuzz/found_$reader" "tests/fuzz/corpus/$reader" >"build/fuzz/$reader.log" 2>&1 &
    running+=("$reader:$!")
done
bad=0
for fuzzer in "${running[@]}"; do
    rc=0
    wait "${fuzzer#*:}" || rc=$?
    echo "${fuzzer%:*}"
    grep -E "number_of_executed|ERROR|SUMMARY|stat::" "build/fuzz/${fuzzer%:*}.log" | grep -vE "slowest|new_units|peak|average" || true
    [ "$rc" -eq 0 ] || bad=1
done
exit "$bad"
