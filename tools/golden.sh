#!/usr/bin/env bash
# The front door: build the reference, run the whole stack on a real text, write and verify the goldens.
#   tools/golden.sh [--set small|full|all]
. "$(dirname "$0")/common.sh"
say "building the reference"
build_reference dsa-reference
need_python golden
say "writing the goldens"
touchstone make "$@"
touchstone text
say "verifying them"
touchstone verify
touchstone story
