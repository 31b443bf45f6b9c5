"""The goldens: every case follows the format, is made the same twice, and is not believed once it has been touched."""

from __future__ import annotations

import json
import subprocess
import sys

import jsonschema
import numpy as np
import pytest
from touchstone import Refusal, cases, files, make, text, verify

SAMPLE = ["top_k/all_equal", "rms_norm/typical", "sparse_prefill/tiny", "act_quant/zero_block_no_floor"]


def quiet(*_):
    pass


def made(out, reference, names=SAMPLE):
    chosen = cases.choose(list(names))
    return make.make(chosen, out, reference, 2, quiet)


def ops(reference):
    lines = subprocess.run([reference, "ops"], capture_output=True, text=True, check=True).stdout.splitlines()
    return {line.split(" -> ")[0]: line.split(" -> ")[1].split() for line in lines}


def test_every_op_has_a_family_and_every_name_is_its_own(reference):
    names = [case.name for case in cases.all_cases()]
    assert len(names) == len(set(names)) > 200
    assert {case.op for case in cases.all_cases()} == set(ops(reference)) - {"model"}  # whose case is the text


def test_every_seed_is_its_own():
    seeds = [case.entry["seed"] for case in cases.all_cases()]
    assert len(seeds) == len(set(seeds))


def test_a_broken_family_is_refused(tmp_path):
    family = json.loads((cases.CASES / "top_k.json").read_text())
    for change, words in [
        (lambda f: f["cases"][0].pop("note"), "'note' is a required property"),
        (lambda f: f["cases"][0].update(size="big"), "'big' is not one of"),
        (lambda f: f["cases"][0]["tensors"]["logits"].update(dtype="fp8"), "'fp8' is not one of"),
        (lambda f: f.update(version=2), "1 was expected"),
        (lambda f: f["cases"].append(f["cases"][0]), "twice"),
        (lambda f: f.update(op="rope"), "must hold the family of the op top_k"),
    ]:
        broken = json.loads(json.dumps(family))
        change(broken)
        (tmp_path / "top_k.json").write_text(json.dumps(broken))
        with pytest.raises(Refusal, match=words):
            cases.read_family(tmp_path / "top_k.json")
    (tmp_path / "top_k.json").write_text("{")
    with pytest.raises(Refusal, match="well-formed JSON"):
        cases.read_family(tmp_path / "top_k.json")
    jsonschema.Draft202012Validator.check_schema(json.loads((cases.CASES / "schema.json").read_text()))


def test_made_twice_is_made_the_same_and_not_made_again(tmp_path, reference):
    first = made(tmp_path / "a", reference)
    second = made(tmp_path / "b", reference)
    assert all(m.fresh and not m.problems for m in first + second)
    for name in SAMPLE:
        assert files.hashes_of(tmp_path / "a" / name) == files.hashes_of(tmp_path / "b" / name)
    assert not any(m.fresh for m in made(tmp_path / "a", reference))


def test_a_golden_holds_what_the_contract_says(tmp_path, reference):
    made(tmp_path, reference)
    for name in SAMPLE:
        folder = tmp_path / name
        manifest = json.loads((folder / "manifest.json").read_text())
        for output in ops(reference)[name.split("/")[0]]:
            assert (folder / "deployed" / f"{output}.npy").exists()
        assert set(manifest["files"]) == {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {"manifest.json"}
    exact = np.load(tmp_path / "sparse_prefill/tiny/exact/out.npy")
    bound = np.load(tmp_path / "sparse_prefill/tiny/exact_bound/out.npy")
    assert exact.dtype == np.float64 and bound.shape == exact.shape and (bound > 0).all()
    assert np.load(tmp_path / "sparse_prefill/tiny/deployed/out.npy").dtype == np.uint16
    no_floor = json.loads((tmp_path / "act_quant/zero_block_no_floor/golden.json").read_text())
    assert no_floor["tensors"]["q"]["not_numbers"] == 256  # one row of zeros


def test_whatever_is_touched_is_noticed(tmp_path, reference):
    made(tmp_path, reference)
    assert verify.verify(tmp_path) == (len(SAMPLE), [])
    folder = tmp_path / "sparse_prefill/tiny"
    victim = folder / "deployed/out.npy"
    original = victim.read_bytes()

    def problems():
        found = verify.verify(tmp_path)[1]
        assert len(found) == 1 and "sparse_prefill/tiny" in found[0], found
        return found[0]

    victim.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    assert "deployed/out.npy is not as it was written" in problems()
    victim.write_bytes(original[:-2])
    assert "deployed/out.npy is not as it was written" in problems()
    victim.unlink()
    assert "deployed/out.npy is missing" in problems()
    victim.write_bytes(original)
    (folder / "exact/extra.npy").write_bytes(b"x")
    assert "exact/extra.npy does not belong here" in problems()
    (folder / "exact/extra.npy").unlink()
    manifest = folder / "manifest.json"
    kept = manifest.read_text()
    manifest.write_text(kept[: len(kept) // 2])
    assert "manifest.json cannot be used" in problems()
    # A forger who mends the manifest too meets the lock.
    victim.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    forged = json.loads(kept)
    forged["files"] = files.hashes_of(folder)
    manifest.write_text(json.dumps(forged))
    assert "the deployed tier is not the one in golden/tensors/lock.json" in problems()
    # Making it again mends it.
    assert any(m.fresh for m in made(tmp_path, reference))
    assert verify.verify(tmp_path) == (len(SAMPLE), [])


def test_an_input_that_differs_between_cpp_and_numpy_is_noticed(tmp_path, reference):
    made(tmp_path, reference, ["rms_norm/typical"])
    case = cases.choose(["rms_norm/typical"])[0]
    make.check_inputs(case, tmp_path / case.name)
    path = tmp_path / case.name / "inputs/x.npy"
    x = np.load(path)
    x[0, 0] ^= 1
    np.save(path, x)
    with pytest.raises(Refusal, match="the input x of rms_norm/typical differs between C\\+\\+ and NumPy"):
        make.check_inputs(case, tmp_path / case.name)


def test_the_lock_knows_every_case_and_the_kept_goldens_agree():
    locked = files.read_lock()
    assert set(locked) == {case.name for case in cases.all_cases()} | {reading.name for reading in text.READINGS}
    count, problems = verify.verify_kept()
    assert count >= 15 and problems == []
    assert sum(p.stat().st_size for p in files.KEPT.rglob("*") if p.is_file()) < 4 << 20


def test_the_command_line(tmp_path, reference):
    def touchstone(*arguments):
        return subprocess.run([sys.executable, "-m", "touchstone.cli", *arguments], capture_output=True, text=True, check=False)

    assert "top_k/all_equal" in touchstone("list", "top_k").stdout
    unknown = touchstone("make", "top_q", "--out", str(tmp_path), "--reference", str(reference))
    assert unknown.returncode == 2 and "there is no case or op named top_q" in unknown.stderr and unknown.stderr.count("\n") == 1
    assert touchstone("make", "--set", "huge").returncode == 2
    missing = touchstone("make", "--reference", str(tmp_path / "none"))
    assert missing.returncode == 2 and "is not built" in missing.stderr
    assert touchstone("make", "rope/half_split", "--out", str(tmp_path), "--reference", str(reference)).returncode == 0
    assert touchstone("verify", "--out", str(tmp_path)).returncode == 0
    (tmp_path / "rope/half_split/exact/y.npy").write_bytes(b"")
    assert touchstone("verify", "--out", str(tmp_path)).returncode == 1
    assert touchstone("verify", "--out", str(tmp_path / "empty")).returncode == 1
