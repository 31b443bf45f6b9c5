#!/usr/bin/env bash
# On a machine with an sm_90 GPU, nvcc and PyTorch: builds the CUDA tree, checks every level, runs the sanitizers, times,
# and writes the receipt and its table. Arguments go to optimized/bench/device.py; DEVICE_PYTHON names a Python that has
# PyTorch (default: python3), DEVICE_BUILD a folder that is built already.
. "$(dirname "$0")/common.sh"
command -v nvidia-smi >/dev/null || { echo "make device needs an NVIDIA GPU of compute capability 9.0 and its driver; there is none here: make test checks the kernels on the simulator" >&2; exit 2; }
python=${DEVICE_PYTHON:-python3}
"$python" -c 'import torch' 2>/dev/null || { echo "make device needs PyTorch with CUDA in $python: pip install torch, or name another Python in DEVICE_PYTHON" >&2; exit 2; }
build=${DEVICE_BUILD:-}
if [ -z "$build" ]; then
    say "building"
    build_reference dsa-reference dsa-optimized conformance-device
    build=$TOUCHSTONE_BUILD
fi
export TOUCHSTONE_REFERENCE="$build/dsa-reference"
export PYTHONPATH="$PWD:$PWD/golden:$PWD/optimized/python${PYTHONPATH:+:$PYTHONPATH}"
"$python" -c 'import dsa_optimized' 2>/dev/null || "$python" -m pip install -q ./optimized/python ||
    { echo "make device needs the CUDA tree's Python binding in $python: pip install ./optimized/python (it needs nanobind and scikit-build-core)" >&2; exit 2; }
"$python" -m optimized.bench.device --build "$build" "$@" && status=0 || status=$?
"$python" -m optimized.bench.receipts
exit $status
