"""The kernels from Python, on the simulator: the same bits as through dsa.h, and one sentence for what a call does not take."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from touchstone import cases, clib, contract, signatures
from touchstone.telling.inputs import Inputs

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.append(str(REPOSITORY / "optimized" / "python"))

from dsa_optimized import BadArgument, Library, Misaligned, NoDevice  # noqa: E402
from dsa_optimized.library import NUMPY  # noqa: E402

LIBRARY = Path(os.environ.get("TOUCHSTONE_SIMULATED_LIBRARY") or REPOSITORY / "build" / "libdsa_simulated.so")


@pytest.fixture(scope="module")
def dsa() -> Library:
    assert LIBRARY.is_file(), f"{LIBRARY} is not built: run `cmake --build build --target dsa_simulated`"
    return Library(LIBRARY)


def bf16(*shape) -> np.ndarray:
    return np.random.default_rng(5).normal(size=shape).astype(ml_dtypes.bfloat16)


def asked(op: str):
    """An op's first small case: its description, inputs by name as NumPy arrays, and the inputs as clib takes them."""
    description = cases.choose([op], "small")[0].description() | {"tier": "deployed"}
    inputs = Inputs.of_case(description)
    arrays = {name: np.ascontiguousarray(inputs.stored(name)).view(NUMPY[inputs.dtype(name)]) for name in inputs.tensors}
    return description, arrays, inputs


def test_the_methods_are_generated_from_the_contract():
    text = (REPOSITORY / "optimized" / "python" / "dsa_optimized" / "ops.py").read_text(encoding="utf-8")
    assert text == signatures.text(), "run `touchstone header --python > optimized/python/dsa_optimized/ops.py`"


def test_the_table_of_fields_is_generated_from_the_contract():
    text = (REPOSITORY / "optimized" / "tool" / "fields.inc").read_text(encoding="utf-8")
    assert text == clib.table(), "run `touchstone header --fields > optimized/tool/fields.inc`"


def test_the_library_offers_what_it_has(dsa):
    assert dsa.offers == clib.Library(str(LIBRARY)).offers
    assert not dsa.wants_device_memory


@pytest.mark.parametrize("op", contract.OPS)
def test_an_op_gives_the_bits_that_dsa_h_gives(dsa, op):
    if op not in dsa.offers:
        pytest.skip(f"the CUDA tree has no {op}")
    description, arrays, inputs = asked(op)
    expected = clib.Library(str(LIBRARY)).call(op, description, inputs)
    parameters = {n: v for n, v in description["parameters"].items() if n in contract.OPS[op].parameters}
    got = getattr(dsa, op)(**arrays, **parameters, conventions=description["conventions"])
    outputs = contract.OPS[op].outputs
    for tensor, array in zip(outputs, got if len(outputs) > 1 else (got,)):
        assert array.tobytes() == expected[tensor.name].tobytes(), tensor.name
        assert array.shape == expected[tensor.name].shape
        if tensor.dtype != "quantised":
            assert array.dtype == NUMPY[tensor.dtype]


def test_a_given_output_is_filled_and_returned(dsa):
    x, weight, y = bf16(3, 64), np.ones(64, np.float32), np.empty((3, 64), ml_dtypes.bfloat16)
    assert dsa.rms_norm(x, weight, y=y) is y
    assert y.tobytes() == dsa.rms_norm(x, weight).tobytes()


def test_arrays_of_the_library_speak_dlpack(dsa):
    """Its own arrays go in and come out by DLPack alone, and are views of one memory."""
    x, weight = dsa.put(bf16(4, 64)), dsa.put(np.ones(64, np.float32))
    y = dsa.rms_norm(x, weight)
    assert (y.dtype, y.shape, y.nbytes, y.__dlpack_device__()) == ("bfloat16", (4, 64), 512, (1, 0))
    assert dsa.numpy(y).tobytes() == dsa.rms_norm(bf16(4, 64), np.ones(64, np.float32)).tobytes()
    seen = np.from_dlpack(weight)
    seen[3] = 7  # NumPy reads and writes the library's memory
    assert dsa.numpy(weight)[3] == 7
    rows = dsa.numpy(y.rows(1, 2))
    assert rows.tobytes() == dsa.numpy(y)[1:3].tobytes()
    x.rows(0, 2).copy_from(y.rows(2, 2))
    assert dsa.numpy(x)[:2].tobytes() == dsa.numpy(y)[2:].tobytes()


def test_arrays_that_cannot_be_written_are_read(dsa):
    x = bf16(2, 64)
    x.flags.writeable = False
    weight = np.ones(64, np.float32)
    weight.flags.writeable = False
    dsa.rms_norm(x, weight)
    with pytest.raises(BadArgument, match="dweight must be an array that speaks DLPack and can be written"):
        dsa.rms_norm_backward(x, weight, x, dweight=weight)


def test_no_tokens_are_a_call(dsa):
    assert dsa.rms_norm(bf16(0, 64), np.ones(64, np.float32)).shape == (0, 64)


def test_levels_are_chosen_for_a_while(dsa):
    x, weight = bf16(3, 63), np.ones(63, np.float32)
    with dsa.at_level(2), pytest.raises(NotImplementedError, match="rows must be of a multiple of 8 numbers"):
        dsa.rms_norm(x, weight)
    dsa.rms_norm(x, weight)


def test_stages_are_shown_and_their_listener_may_fail(dsa):
    description, arrays, _ = asked("dsa_attention")
    parameters = {n: v for n, v in description["parameters"].items() if n in contract.OPS["dsa_attention"].parameters}
    shown = {}
    dsa.dsa_attention(**arrays, **parameters, conventions=description["conventions"],
                      stages=lambda name, array: shown.setdefault(name, dsa.numpy(array)))  # fmt: skip
    assert shown["topk_indices"].dtype == np.int32

    def fails(_name, _array):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        dsa.dsa_attention(**arrays, **parameters, conventions=description["conventions"], stages=fails)


WEIGHT = np.ones(64, np.float32)
REFUSED = {
    "a dtype": (lambda dsa: dsa.rms_norm(bf16(3, 64).astype(np.float32), WEIGHT), "rms_norm: x must be bfloat16; it is float32"),
    "a dtype of bytes": (lambda dsa: dsa.rms_norm(bf16(3, 64).view(np.uint16), WEIGHT), "x is of a dtype that dsa.h does not have, uint16"),
    "a shape": (lambda dsa: dsa.rms_norm(bf16(3, 32), WEIGHT), r"axis 0 of weight, D, must be 32; the shape is \[64\]"),
    "an output's shape": (lambda dsa: dsa.rms_norm(bf16(3, 64), WEIGHT, y=bf16(2, 64)), r"axis 0 of y, T, must be 3; the shape is \[2, 64\]"),
    "strides": (lambda dsa: dsa.rms_norm(bf16(64, 3).T, WEIGHT), "x must be packed, row after row: the stride of axis 1 must be 1; it is 3"),
    "too many axes": (lambda dsa: dsa.rms_norm(bf16(1, 1, 1, 3, 64), WEIGHT), "x has 5 axes; a tensor of dsa.h has at most 4"),
    "no array": (lambda dsa: dsa.rms_norm([1, 2], WEIGHT), "x must be an array that speaks DLPack, of at most 4 axes; it is <class 'list'>"),
    "nothing": (lambda dsa: dsa.rms_norm(None, WEIGHT), "rms_norm needs x; None was given"),
    "an unknown size": (lambda dsa: dsa.top_k(np.zeros((1, 8), np.float32), np.zeros(1, np.int32), np.zeros(1, np.int32)),
                        "the shape of indices of top_k does not follow from what was given: the size topk of the axis topk is not known"),
    "a convention": (lambda dsa: dsa.rms_norm(bf16(3, 64), WEIGHT, conventions="deepseek-v4"), 'there is no preset of conventions named "deepseek-v4"'),
    "a path": (lambda _: Library("/nowhere/libdsa.so"), "the library /nowhere/libdsa.so cannot be loaded"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_call_does_not_take_is_one_sentence(dsa, what):
    call, sentence = REFUSED[what]
    with pytest.raises(BadArgument, match=sentence) as caught:
        call(dsa)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


def test_misaligned_is_told(dsa):
    memory = np.zeros(3 * 64 + 8, np.float32).view(ml_dtypes.bfloat16)
    first = -(memory.ctypes.data // 2) % 8 + 1  # two bytes beyond a multiple of 16
    with pytest.raises(Misaligned, match="x must begin at a multiple of 16 bytes; it begins at 2 beyond one"):
        dsa.rms_norm(memory[first : first + 3 * 64].reshape(3, 64), WEIGHT)


class OnCuda:
    """An array that says it lies on a GPU: a DLPack capsule made by hand (dlpack.h, DLManagedTensor)."""

    class Managed(ctypes.Structure):
        _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32), ("ndim", ctypes.c_int32),
                    ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
                    ("strides", ctypes.c_void_p), ("byte_offset", ctypes.c_uint64), ("manager", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]  # fmt: skip

    def __init__(self, *shape):
        self.shape = (ctypes.c_int64 * len(shape))(*shape)
        self.managed = self.Managed(0x1000, 2, 0, len(shape), 2, 32, 1, ctypes.cast(self.shape, ctypes.POINTER(ctypes.c_int64)), None, 0, None, None)

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, **_):
        make = ctypes.pythonapi.PyCapsule_New
        make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return make(ctypes.addressof(self.managed), b"dltensor", None)


def test_the_wrong_device_is_told(dsa):
    with pytest.raises(BadArgument, match=r"weight lies on DLPack's device type 2 \(CUDA\); this library reads the host's memory: copy the array there"):
        dsa.rms_norm(bf16(3, 64), OnCuda(64))


def test_a_gpu_s_library_wants_a_gpu(tmp_path):
    source, path = tmp_path / "wants.c", tmp_path / "libwants.so"
    source.write_text('#include "dsa.h"\nint dsa_wants_device_memory(void) { return 1; }\nint dsa_rms_norm(const dsa_rms_norm_args* a) { (void)a; return 3; }\n')
    subprocess.run(["gcc", "-shared", "-fPIC", f"-I{REPOSITORY / 'golden'}", source, "-o", path], check=True)
    library = Library(path)
    assert library.wants_device_memory
    with pytest.raises(BadArgument, match=r"x lies on DLPack's device type 1 \(the host\); this library reads a GPU's memory: copy the array there"):
        library.rms_norm(bf16(3, 64), WEIGHT)
    with pytest.raises(NotImplementedError, match="has no dsa_top_k"):
        library.top_k(bf16(1, 8), WEIGHT, WEIGHT)
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        with pytest.raises(NoDevice, match="this machine has no NVIDIA driver"):
            library.empty((3,), "float32")
