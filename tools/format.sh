#!/usr/bin/env bash
# clang-format over every C++ source: checks, or with --fix rewrites.
. "$(dirname "$0")/common.sh"
need_packages clang-format
if [ "${1:-}" = "--fix" ]; then mode=(-i); else mode=(--dry-run --Werror); fi
git ls-files -co --exclude-standard '*.h' '*.cpp' '*.cu' '*.cuh' | xargs clang-format "${mode[@]}"
