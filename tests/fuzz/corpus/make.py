"""Makes the kept corpus of the file readers: what NumPy and the safetensors library write, and files that lie.

    python tests/fuzz/corpus/make.py

A file named good_* must be accepted by its reader and a bad_* refused; tests/reference/test_files.cpp and the
fuzzers read them all. Needs numpy and safetensors.
"""

import io
import json
import struct
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format
from safetensors.numpy import save

HERE = Path(__file__).parent


def npy(array, version=None):
    out = io.BytesIO()
    npy_format.write_array(out, array, version=version)
    return out.getvalue()


def npy_with(header, data=b"", version=1):
    """A .npy file with any header."""
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header.encode("latin1") + data


def npy_of(descr="'<f4'", order="False", shape="(2,)", data=bytes(8)):
    return npy_with(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n", data)


six = np.arange(6, dtype="<f4").reshape(2, 3)
good = npy(six)
NPY = {
    "good_float32": good,
    "good_float32_fortran": npy(np.asfortranarray(six)),
    "good_float64_scalar": npy(np.array(1.5)),
    "good_int64": npy(np.array([[1, -2], [2**31 - 1, -(2**31)]], dtype="<i8")),
    "good_int64_beyond_int32": npy(np.array([2**31], dtype="<i8")),
    "good_uint16_as_bfloat16": npy(np.array([0x3F80, 0xC000, 0x7FC0], dtype="<u2")),
    "good_uint8": npy(np.arange(5, dtype="u1")),
    "good_bool": npy(np.array([True, False])),
    "good_empty": npy(np.zeros((0, 7), dtype="<i4")),
    "good_version_2": npy(six, (2, 0)),
    "good_version_3": npy(six, (3, 0)),
    "bad_big_endian": npy(six.astype(">f4")),
    "bad_float16": npy(six.astype("<f2")),
    "bad_void_of_bfloat16": npy_of("'<V2'", data=bytes(4)),
    "bad_structure": npy(np.zeros(2, dtype=[("a", "<f4")])),
    "bad_cut_in_data": good[:-1],
    "bad_cut_in_header": good[:40],
    "bad_cut_in_magic": good[:5],
    "bad_bytes_left_over": good + b"\0",
    "bad_version": npy_with("{}", version=9),
    "bad_header_longer_than_file": b"\x93NUMPY\x02\x00" + b"\xff" * 4 + b"{",
    "bad_overflowing_shape": npy_of(shape="(4294967296, 4294967296)", data=b""),
    "bad_overflowing_extent": npy_of(shape="(18446744073709551618,)"),
    "bad_negative_extent": npy_of(shape="(-2,)"),
    "bad_number_for_shape": npy_of(shape="(2)"),
    "bad_key_twice": npy_with("{'descr': '<f4', 'descr': '<f8', 'fortran_order': False, 'shape': (1,), }\n", bytes(8)),
    "bad_many_axes": npy_of(shape="(" + "1, " * 65 + ")", data=bytes(4)),
    "bad_bool_of_2": npy_of("'|b1'", data=b"\0\2"),
}


def st(header, data=b"", size=None):
    """A .safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def entry(dtype="F32", shape=(2,), begin=0, end=8):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


SAFETENSORS = {
    "good_saved_by_library": save(
        {"b.weight": six, "a.bias": np.array([7, -8], dtype="<i8"), "mask": np.array([True]), "bytes": np.arange(3, dtype="u1")},
        {"format": "pt"},
    ),
    "good_no_tensors": st({}),
    "good_bfloat16_and_e4m3": st({"w": entry("BF16", (2,), 0, 4), "f": entry("F8_E4M3", (1, 3), 4, 7)}, bytes(range(7))),
    "good_scalar_and_empty": st({"s": entry("F64", (), 0, 8), "e": entry("I32", (0, 5), 8, 8)}, bytes(8)),
    "bad_cut_in_size": b"\x08\0\0",
    "bad_size_beyond_file": st(b"{}", size=2**40),
    "bad_size_wraps": st(b"{}", size=2**64 - 8),
    "bad_empty_header": st(b""),
    "bad_leading_space": st(b" {}"),
    "bad_list_for_header": st([]),
    "bad_not_utf8": st(b'{"\xff": 1}'),
    "bad_name_twice": st(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    "bad_dtype": st({"w": entry("F16", (4,))}, bytes(8)),
    "bad_dtype_is_number": st({"w": entry(3)}, bytes(8)),
    "bad_negative_extent": st({"w": entry(shape=(-2,))}, bytes(8)),
    "bad_fractional_extent": st({"w": entry(shape=(2.0,))}, bytes(8)),
    "bad_overflowing_shape": st({"w": entry(shape=(2**32, 2**32), end=0)}),
    "bad_offsets_backwards": st({"w": entry(begin=8, end=0)}, bytes(8)),
    "bad_offsets_beyond_file": st({"w": entry(begin=2**63, end=2**63 + 8)}, bytes(8)),
    "bad_size_of_tensor": st({"w": entry(shape=(3,))}, bytes(8)),
    "bad_hole": st({"a": entry(), "b": entry(begin=12, end=20)}, bytes(20)),
    "bad_overlap": st({"a": entry(), "b": entry(begin=4, end=12)}, bytes(12)),
    "bad_cut_in_data": st({"w": entry()}, bytes(7)),
    "bad_bytes_left_over": st({"w": entry()}, bytes(9)),
    "bad_unknown_entry": st({"w": {**entry(), "stride": [1]}}, bytes(8)),
    "bad_metadata": st({"__metadata__": {"epoch": 3}}),
    "bad_deep_header": st(b'{"w":' + b"[" * 500 + b"]" * 500 + b"}"),
}

JSON = {
    "good_case": b'{"version": 1, "op": "top_k", "tensors": {"x": {"dtype": "float32", "shape": [3, 257]}}}\n',
    "good_scalars": b'[null, true, false, -0, 1e-400, 1.5E3, 18446744073709551615, "\\u00e9\\ud83d\\ude00"]',
    "good_same_key_in_two_objects": b'[{"a": 1}, {"a": {"a": 2}}]',
    "good_64_levels": b"[" * 64 + b"]" * 64,
    "bad_65_levels": b"[" * 65 + b"]" * 65,
    "bad_deep": b"[" * 1500,
    "bad_deep_objects": b'{"a":' * 300 + b"1" + b"}" * 300,
    "bad_key_twice": b'{"a": 1,\n "b": {"c": 1, "c": 2}}',
    "bad_key_twice_by_escape": b'{"a": 1, "\\u0061": 2}',
    "bad_empty": b"",
    "bad_nan": b'{"a": NaN}',
    "bad_infinity": b"[-Infinity]",
    "bad_overflow": b"[1e999]",
    "bad_comma": b'{"a": 1,\n "b": [1, 2,]}',
    "bad_comment": b"{} // no",
    "bad_text_after": b"{}{}",
    "bad_cut": b'{"a": "b',
    "bad_not_utf8": b'["\xc3("]',
    "bad_lone_surrogate": b'["\\ud800"]',
    "bad_control_character": b'["\x01"]',
    "bad_nul": b"\0",
}

if __name__ == "__main__":
    for folder, ending, files in [("npy", ".npy", NPY), ("safetensors", ".safetensors", SAFETENSORS), ("json", ".json", JSON)]:
        (HERE / folder).mkdir(exist_ok=True)
        for old in (HERE / folder).iterdir():
            old.unlink()
        for name, content in files.items():
            assert len(content) < 2048, name
            (HERE / folder / (name + ending)).write_bytes(content)
        print(folder, len(files))
