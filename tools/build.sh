#!/usr/bin/env bash
# Builds dsa-reference.
. "$(dirname "$0")/common.sh"
build_reference dsa-reference
