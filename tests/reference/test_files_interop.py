"""The kept corpus of the file readers is what NumPy and the safetensors library write, and they read it so."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError, deserialize

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"
MADE = runpy.run_path(str(CORPUS / "make.py"))
FILES = {
    f"{folder}/{name}.{folder}": content
    for folder in ("npy", "safetensors", "json")
    for name, content in MADE[folder.upper()].items()
}


@pytest.mark.parametrize("name", FILES)
def test_kept_file_is_what_make_py_makes(name):
    assert (CORPUS / name).read_bytes() == FILES[name], "make it again: python tests/fuzz/corpus/make.py"


def test_nothing_else_is_kept():
    kept = {f"{folder}/{path.name}" for folder in ("npy", "safetensors", "json") for path in (CORPUS / folder).iterdir()}
    assert kept == set(FILES)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("npy/good_*")), ids=lambda path: path.stem)
def test_numpy_reads_what_we_read(path):
    assert isinstance(np.load(path), np.ndarray)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("safetensors/good_*")), ids=lambda path: path.stem)
def test_safetensors_reads_what_we_read(path):
    deserialize(path.read_bytes())


# Where we are stricter: F16 is in no file of ours, an entry that we do not know may change what the numbers mean,
# and the library takes two things that its README's "Format" forbids: a name given twice, space before the {.
STRICTER = {"bad_dtype", "bad_unknown_entry", "bad_name_twice", "bad_leading_space"}


@pytest.mark.parametrize(
    "path", [p for p in sorted(CORPUS.glob("safetensors/bad_*")) if p.stem not in STRICTER], ids=lambda path: path.stem
)
def test_safetensors_refuses_what_we_refuse(path):
    with pytest.raises(SafetensorError):
        deserialize(path.read_bytes())
