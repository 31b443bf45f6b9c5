#!/usr/bin/env bash
# The same bytes from another compiler, another instruction set, another CPU and another architecture.
#
# dsa-reference is built two more ways, each at another optimisation level than build/'s, and writes goldens of a few
# cases of every op. Every file must have the same SHA-256 as from build/dsa-reference. One of the two is the build of
# tools/sanitize.sh: so every op also runs under AddressSanitizer and UndefinedBehaviorSanitizer here.
. "$(dirname "$0")/../../tools/common.sh"
need_packages "${build_packages[@]}" clang qemu-user g++-aarch64-linux-gnu
work="$TOUCHSTONE_BUILD/reproducible"
mkdir -p "$work/here" "$work/sanitize" "$work/aarch64"
# A plain static build without CMake: clang finds the architecture's libraries where its g++ keeps them. Headers that
# belong to no architecture are linked to, since /usr/include is not searched.
mkdir -p "$work/include"
for library in nlohmann CLI; do ln -sfn "/usr/include/$library" "$work/include/$library"; done
for_aarch64=(clang++ --target=aarch64-linux-gnu -O1 -std=c++20 -ffp-contract=off -I. -I"$work/include" -isystem /usr/include/eigen3)
headers="$work/aarch64/headers"  # read once: a third of the work
if [ ! "$headers.pch" -nt "$(command -v clang++)" ]; then
    printf '#include <%s>\n' Eigen/Core nlohmann/json.hpp functional map string vector >"$headers.h"
    "${for_aarch64[@]}" -x c++-header "$headers.h" -o "$headers.pch"
fi
git ls-files -co --exclude-standard 'reference/*.cpp' | xargs -P "$jobs" -I{} sh -c '
    source=$1; work=$2; shift 2
    object="$work/aarch64/$(echo "$source" | tr / _).o"
    newest=$(find reference -name "*.h" -newer "$object" 2>/dev/null | head -n 1)
    [ -e "$object" ] && [ -z "$newest" ] && [ "$object" -nt "$source" ] && exit 0
    exec "$@" -c "$source" -o "$object"
    ' sh {} "$work" "${for_aarch64[@]}" -include-pch "$headers.pch"
clang++ --target=aarch64-linux-gnu -static "$work"/aarch64/*.o -o "$work/aarch64/dsa-reference"
build_reference dsa-reference >/dev/null
configure_sanitize
cmake --build "$sanitize_build" --target dsa-reference

# hashes NAME RUNNER... : SHA-256 of every golden file of the chosen cases.
hashes() {
    local name=$1; shift
    ls "$work/cases" | xargs -P "$jobs" -I{} sh -c '
        cases=$1 goldens=$2 case=$3; shift 3
        exec "$@" golden "$cases/$case" "$goldens/$case" >/dev/null' sh "$work/cases" "$work/$name/goldens" {} "$@"
    (cd "$work/$name/goldens" && find . -type f | sort | xargs sha256sum) >"$work/$name/hashes"
}

need_python golden
rm -rf "$work/cases" "$work"/*/goldens
touchstone cases --out "$work/cases" --flag reproducible
hashes here "$TOUCHSTONE_REFERENCE"
echo "build/: $(wc -l <"$work/here/hashes") files of $(ls "$work/cases" | wc -l) cases"

compare() {
    local name=$1 what=$2
    if ! diff "$work/here/hashes" "$work/$name/hashes" >"$work/$name/difference"; then
        echo "NOT the same bytes from $what:" >&2
        head -n 20 "$work/$name/difference" >&2
        exit 1
    fi
    echo "the same bytes from $what"
}

hashes sanitize "$sanitize_build/dsa-reference"
compare sanitize "g++ -Og for the oldest x86-64 (SSE2, no fused multiply-add), under both sanitizers"
hashes aarch64 qemu-aarch64 "$work/aarch64/dsa-reference"
compare aarch64 "clang++ -O1 for AArch64 (NEON, fused multiply-add at hand, unknown cache sizes) on an emulated one"
