#!/usr/bin/env bash
# Times the goldens cold and warm and, where PyTorch is installed, the main ops against it.
. "$(dirname "$0")/common.sh"
build_reference dsa-reference
need_python golden
scratch="$TOUCHSTONE_BUILD/bench"
for set in small full; do
    rm -rf "$scratch"
    say "$set set, cold"
    touchstone make --set $set --out "$scratch"
    say "$set set, warm"
    touchstone make --set $set --out "$scratch"
done
rm -rf "$scratch"
if "$python" -c 'import torch' 2>/dev/null; then
    say "ops against PyTorch on this CPU"
    "$python" tools/bench_ops.py --reference "$TOUCHSTONE_REFERENCE" --out "$TOUCHSTONE_BUILD/bench_ops.json"
else
    echo "no PyTorch in $python: pip install torch there to time the ops against it"
fi
