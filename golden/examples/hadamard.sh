#!/bin/sh
# A program of one's own, in any language: PROGRAM OP IN_DIR OUT_DIR. `touchstone check --exec golden/examples/hadamard.sh`
[ "$1" = hadamard ] || exit 77 # 77: I do not implement this
exec python3 - "$2" "$3" <<'PYTHON'
import sys, numpy as np
bits = np.load(sys.argv[1] + "/x.npy")                           # bf16 is stored as uint16
x = (bits.astype(np.uint32) << 16).view(np.float32)
n = x.shape[-1]
H = np.array([[1.0]], np.float32)
while len(H) < n:
    H = np.block([[H, H], [H, -H]])
y = (x @ H * np.float32(n ** -0.5)).view(np.uint32)
y = (y + 0x7FFF + (y >> 16 & 1)) >> 16                           # to bf16, to nearest even
np.save(sys.argv[2] + "/y.npy", y.astype(np.uint16))
PYTHON
