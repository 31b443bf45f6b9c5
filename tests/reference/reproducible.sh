#!/usr/bin/env bash
# The same bytes from another compiler, another instruction set, another CPU and another architecture.
#
# dsa-reference is built several ways, each at another optimisation level than build/'s, and writes goldens of a
# few cases of every op. Every file must have the same SHA-256 as from build/dsa-reference.
. "$(dirname "$0")/../../tools/common.sh"
need_packages "${build_packages[@]}" clang qemu-user g++-aarch64-linux-gnu
work="$TOUCHSTONE_BUILD/reproducible"
mkdir -p "$work"
build_reference dsa-reference >/dev/null

# Headers that belong to no architecture, for the cross compiler.
mkdir -p "$work/include"
for library in nlohmann CLI; do ln -sfn "/usr/include/$library" "$work/include/$library"; done

# build NAME COMPILER FLAGS... : a plain static build without CMake.
build() {
    local name=$1; shift
    mkdir -p "$work/$name"
    git ls-files -co --exclude-standard 'reference/*.cpp' | xargs -P "$jobs" -I{} sh -c '
        name=$1; shift; source=$1; shift
        object="'"$work"'/$name/$(echo "$source" | tr / _).o"
        newest=$(find reference -name "*.h" -newer "$object" 2>/dev/null | head -n 1)
        [ -e "$object" ] && [ -z "$newest" ] && [ "$object" -nt "$source" ] && exit 0
        exec "$@" -std=c++20 -ffp-contract=off -I. -I"'"$work"'/include" -isystem /usr/include/eigen3 -c "$source" -o "$object"
        ' sh "$name" {} "$@"
    "$1" -static "$work/$name"/*.o -o "$work/$name/dsa-reference"
}

# hashes NAME RUNNER... : SHA-256 of every golden file of the chosen cases.
hashes() {
    local name=$1; shift
    for case in "$work"/cases/*; do
        "$@" golden "$case" "$work/$name/goldens/$(basename "$case")" >/dev/null
    done
    (cd "$work/$name/goldens" && find . -type f | sort | xargs sha256sum) >"$work/$name/hashes"
}

need_python golden
rm -rf "$work/cases" "$work"/*/goldens
touchstone cases --out "$work/cases" --flag reproducible
mkdir -p "$work/here"
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

build baseline g++ -O1
hashes baseline "$work/baseline/dsa-reference"
compare baseline "g++ -O1 for the oldest x86-64 (SSE2, no fused multiply-add)"
mkdir -p "$work/emulated"
hashes emulated qemu-x86_64 -cpu Nehalem "$work/baseline/dsa-reference"
compare emulated "that program on an emulated Nehalem (no AVX, no FMA, other cache sizes)"
build clang clang++ -O2 -march=native
hashes clang "$work/clang/dsa-reference"
compare clang "clang++ -O2 for this CPU"
build aarch64 aarch64-linux-gnu-g++ -O1 -Wno-psabi
hashes aarch64 qemu-aarch64 "$work/aarch64/dsa-reference"
compare aarch64 "g++ -O1 for AArch64 (NEON, fused multiply-add at hand) on an emulated one"
