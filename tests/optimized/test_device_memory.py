"""touchstone check --lib on a library that wants a GPU's memory, with a driver that stands in for the GPU's."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest
from touchstone import Refusal, cases, check, clib
from touchstone.memory import GUARD, DeviceLost, DeviceMemory
from touchstone.plugins import Limits, Worker
from touchstone.telling.inputs import Inputs

REPOSITORY = Path(__file__).resolve().parents[2]


class Driver:
    """libcuda's functions on the host's memory. It hands out pieces of it and knows which are not given back."""

    def __init__(self, failing: str = ""):
        self.failing, self.held, self.called = failing, {}, []

    def __getattr__(self, name: str):
        def function(*arguments) -> int:
            self.called.append(name)
            own = getattr(type(self), "_" + name, None)  # the others have nothing to do
            return 719 if name == self.failing else own(self, *arguments) if own else 0

        return function

    def _cuGetErrorString(self, _status, text) -> int:
        text._obj.value = b"unspecified launch failure"
        return 0

    def _cuMemAlloc_v2(self, address, size) -> int:
        array = np.zeros(size.value + 256, np.uint8)
        address._obj.value = array.ctypes.data + -array.ctypes.data % 256
        self.held[address._obj.value] = array
        return 0

    def _cuMemFree_v2(self, address) -> int:
        del self.held[address.value]
        return 0

    def _cuMemcpyHtoD_v2(self, to, address, size) -> int:
        ctypes.memmove(to.value, address.value, size.value)
        return 0

    def _cuMemcpyDtoH_v2(self, to, address, size) -> int:
        ctypes.memmove(to, address.value, size.value)
        return 0

    def _cuMemsetD8_v2(self, address, byte, size) -> int:
        ctypes.memset(address.value, byte.value, size.value)
        return 0


RMS_NORM = """
#include <math.h>
#include <string.h>
#include "dsa.h"
static float number(uint16_t b) { uint32_t u = (uint32_t)b << 16; float x; memcpy(&x, &u, 4); return x; }
static uint16_t rounded(float x) { uint32_t u; memcpy(&u, &x, 4); return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16); }
int dsa_wants_device_memory(void) { return 1; }
int64_t dsa_rms_norm_workspace(const dsa_rms_norm_args* a) { (void)a; return 64; }
int dsa_rms_norm(const dsa_rms_norm_args* a) {
    const int64_t T = a->x.shape[0], D = a->x.shape[1];
    for (int64_t t = 0; t < T; ++t) {
        const uint16_t* x = (const uint16_t*)a->x.data + t * D;
        float sum = 0;
        for (int64_t i = 0; i < D; ++i) sum += number(x[i]) * number(x[i]);
        const float r = 1 / sqrtf(sum / D + (float)(a->eps ? a->eps : 1e-6));
        for (int64_t i = 0; i < D; ++i)
            ((uint16_t*)a->y.data)[t * D + i] = rounded(number(x[i]) * r * ((const float*)a->weight.data)[i]);
    }
    EXTRA
    return 0;
}
"""


@pytest.fixture
def built(tmp_path):
    """built(extra) -> the path of a library whose rms_norm ends with `extra`"""

    def build(extra: str = "") -> str:
        source, library = tmp_path / "rms_norm.c", tmp_path / f"lib{len(list(tmp_path.iterdir()))}.so"
        source.write_text(RMS_NORM.replace("EXTRA", extra))
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", f"-I{REPOSITORY / 'golden'}", source, "-o", library, "-lm"], check=True)
        return str(library)

    return build


def called(path: str, driver: Driver) -> np.ndarray:
    """y of the first small case of rms_norm, through the driver."""
    case = cases.choose(["rms_norm"], "small")[0]
    description = case.description() | {"tier": "deployed"}
    library = clib.Library(path)
    library._memory = DeviceMemory(driver)
    return library.call("rms_norm", description, Inputs.of_case(description))["y"]


def test_inputs_go_to_the_device_and_outputs_come_back(built):
    driver = Driver()
    y = called(built(), driver)
    case = cases.choose(["rms_norm"], "small")[0]
    inputs = Inputs.of_case(case.description())
    x = (inputs.stored("x").astype(np.uint32) << 16).view(np.float32)
    wide = x / np.sqrt(np.mean(x.astype(np.float64) ** 2, axis=1, keepdims=True) + 1e-6) * inputs.stored("weight")
    got = (y.astype(np.uint32) << 16).view(np.float32)
    # A bf16 store of a float32 path of D + 3 roundings.
    assert not (np.abs(got - wide) > (2.0**-8 + x.shape[1] * 2.0**-24) * np.abs(wide)).any()
    assert not driver.held, "what was allocated is given back"
    assert driver.called.index("cuCtxSynchronize") < max(i for i, n in enumerate(driver.called) if n == "cuMemcpyDtoH_v2")


@pytest.mark.parametrize("extra, sentence", [
    ("((char*)a->y.data)[-1] = 0;", "wrote beyond y: before its first byte"),
    ("((char*)a->y.data)[T * D * 2] = 0;", "wrote beyond y: after its last byte"),
    ("((char*)a->weight.data)[D * 4] = 0;", "wrote beyond weight: after its last byte"),
    ("((char*)a->workspace)[a->workspace_bytes] = 0;", "wrote beyond its workspace: after its last byte"),
    ("((uint16_t*)a->x.data)[3] ^= 1;", "changed its input x: inputs are read-only"),
    ("return 3;", "dsa_rms_norm returned 3: and said nothing"),
])  # fmt: skip
def test_what_a_kernel_may_not_do_is_seen(built, extra, sentence):
    driver = Driver()
    with pytest.raises(Refusal, match=sentence):
        called(built(extra), driver)
    assert not driver.held, "and what was allocated is given back all the same"


def test_a_kernel_that_fails_costs_its_process(built):
    with pytest.raises(DeviceLost, match="a kernel failed: the GPU's driver answered cuCtxSynchronize with error 719, unspecified launch failure"):
        called(built(), Driver(failing="cuCtxSynchronize"))


def test_a_driver_that_refuses_says_which_function(built):
    with pytest.raises(Refusal, match="answered cuMemAlloc_v2 with error 719"):
        called(built(), Driver(failing="cuMemAlloc_v2"))


def test_guards_keep_the_alignment_that_kernels_want():
    assert GUARD % 256 == 0


def test_without_a_gpu_the_check_says_so(built):
    try:
        ctypes.CDLL("libcuda.so.1")
        pytest.skip("this machine has an NVIDIA driver")
    except OSError:
        pass
    worker = Worker("lib", built(), Limits(seconds=60))
    try:
        checked = check.check_case(cases.choose(["rms_norm"], "small")[0], worker.run, check.Options(private=0, runs=1))
    finally:
        worker.close()
    assert checked.state == "failed"
    assert "this machine has no NVIDIA driver (libcuda.so.1): run the check on a machine with a GPU" in checked.sentence
