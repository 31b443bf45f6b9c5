"""Steps of decoding over pages from Python, on the simulator: the bits of the flat ops, and the reference's tokens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from touchstone import Refusal, cases, contract, text
from touchstone.telling.inputs import Inputs

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.append(str(REPOSITORY / "optimized" / "python"))

from dsa_optimized import BadArgument, Library, Misaligned, PagedModel  # noqa: E402
from dsa_optimized.library import NUMPY  # noqa: E402
from dsa_optimized.serving import page_shapes  # noqa: E402

LIBRARY = Path(os.environ.get("TOUCHSTONE_SIMULATED_LIBRARY") or REPOSITORY / "build" / "libdsa_simulated.so")
TOKENS, TOPK = 12, 5  # the last queries select
STEPS = {"dsa_attention": ("plan_serving_step", "x"), "transformer_block": ("plan_serving_block_step", "hidden")}


@pytest.fixture(scope="module")
def dsa() -> Library:
    assert LIBRARY.is_file(), f"{LIBRARY} is not built: run `cmake --build build --target dsa_simulated`"
    return Library(LIBRARY)


class Asked:
    """The first tokens of a small case without a cache, as a flat op is asked them, and as a step of one request from nothing."""

    def __init__(self, op: str):
        case = next(c for c in cases.choose([op], "small") if not {"start", "cache_kv"} & set(c.description()["tensors"]))
        described = case.description() | {"tier": "deployed"}
        inputs = Inputs.of_case(described)
        self.arrays = {n: np.ascontiguousarray(inputs.stored(n)).view(NUMPY[inputs.dtype(n)]) for n in inputs.tensors}
        self.plan, self.tokens = STEPS[op]
        for name in (self.tokens, "positions"):
            self.arrays[name] = self.arrays[name][:TOKENS].copy()
        self.parameters = {n: v for n, v in described["parameters"].items() if n in contract.OPS[op].parameters} | {"topk": TOPK}
        given = described["conventions"]
        self.parameters["conventions"] = ({"preset": given} if isinstance(given, str) else given) | {"kv_latent_fp8": True}
        self.weights = {n: a for n, a in self.arrays.items() if n not in (self.tokens, "positions")}

    def pages(self) -> dict[str, np.ndarray]:
        """Pools of two pages more than the request needs; its own come from the end."""
        P = -(-TOKENS // 64)
        R_kv, key = len(self.weights["kv_norm"]), len(self.weights["k_norm"])
        shapes = page_shapes(P + 2, R_kv, self.weights["W_dkv"].shape[1] - R_kv, key)
        kv_pages, k_pages = (np.full(shape, 0xFF, np.uint8) for shape in shapes)
        return {"kv_pages": kv_pages, "k_pages": k_pages, "block_table": np.arange(P + 1, 1, -1, dtype=np.int32)[None],
                "context_lens": np.array([TOKENS], np.int32)}  # fmt: skip

    def planned(self, dsa: Library, **other):
        """The plan, some arguments exchanged."""
        given = {self.tokens: self.arrays[self.tokens], "positions": self.arrays["positions"], "weights": self.weights} | self.pages()
        return getattr(dsa, self.plan)(**given | self.parameters | other)


@pytest.mark.parametrize("op", STEPS)
def test_a_prompt_over_pages_gives_the_bits_of_the_flat_op(dsa, op):
    asked = Asked(op)
    pages = asked.pages()
    with dsa.at_level(1):
        plan = asked.planned(dsa, **pages)
        y = plan.run()
        expected = getattr(dsa, op)(**asked.arrays, **asked.parameters)
    assert y is plan.y and y.dtype == ml_dtypes.bfloat16
    assert y.tobytes() == expected.tobytes()
    assert (pages["kv_pages"][:2] == 0xFF).all() and not (pages["kv_pages"][2:] == 0xFF).all()  # of its own pages only


def test_a_plan_sees_what_lies_in_its_arrays_at_each_run(dsa):
    """Three tokens one by one, the lengths and rows written into the same arrays, against all at once."""
    asked = Asked("transformer_block")
    whole, pages = asked.planned(dsa), asked.pages()
    hidden, positions = np.empty((1, asked.arrays["hidden"].shape[1]), ml_dtypes.bfloat16), np.zeros(1, np.int32)
    with dsa.at_level(1):
        expected = whole.run()
        plan = asked.planned(dsa, **pages, hidden=hidden, positions=positions, y=hidden)
        for p in range(3):
            hidden[:], positions[0], pages["context_lens"][0] = asked.arrays["hidden"][p], asked.arrays["positions"][p], p + 1
            assert plan.run() is hidden
            assert hidden.tobytes() == expected[p : p + 1].tobytes(), p


def test_plans_may_share_their_scratch_and_arrays_of_the_library_go_in(dsa):
    asked = Asked("dsa_attention")
    own = {n: dsa.put(a) for n, a in asked.pages().items()}
    room = np.empty(asked.planned(dsa).workspace_bytes, np.uint8)
    y = asked.planned(dsa, workspace=room).run()
    stages = {}
    plan = asked.planned(dsa, **own, x=dsa.put(asked.arrays["x"])).bind(room)
    plan.run(stages=lambda name, array: stages.setdefault(name, dsa.numpy(array)))
    assert dsa.numpy(plan.y).tobytes() == y.tobytes() == stages["attention_y"].tobytes()


def as_tensor(array: np.ndarray):
    """A copy as PyTorch's tensor."""
    import torch

    plain = {"bfloat16": np.int16, "float8_e4m3fn": np.uint8}.get(array.dtype.name)
    return torch.from_numpy(array.copy()) if plain is None else torch.from_numpy(array.view(plain).copy()).view(getattr(torch, array.dtype.name))


def test_pytorch_s_tensors_go_in_and_come_out(dsa):
    torch = pytest.importorskip("torch")
    asked = Asked("dsa_attention")
    own = {n: as_tensor(a) for n, a in asked.pages().items()}
    plan = asked.planned(dsa, **own, x=as_tensor(asked.arrays["x"]), weights={n: as_tensor(a) for n, a in asked.weights.items()})
    assert isinstance(plan.run(), torch.Tensor) and plan.y.dtype == torch.bfloat16
    assert plan.y.view(torch.int16).numpy().tobytes() == asked.planned(dsa).run().tobytes()


@pytest.mark.parametrize("op", STEPS)
def test_pytorch_s_ops_are_the_same_steps(dsa, op):
    """torch.ops.dsa: the pages are written in place and told to be, and shapes follow without a kernel."""
    torch = pytest.importorskip("torch")
    from dsa_optimized import torch_ops

    torch_ops.load(LIBRARY)
    asked = Asked(op)
    step = asked.plan.removeprefix("plan_")
    pages = asked.pages()
    expected = asked.planned(dsa, **pages).run()
    given = {n: as_tensor(a) for n, a in (asked.pages() | asked.arrays).items()}
    parameters = {n: v for n, v in asked.parameters.items() if n not in ("conventions", "rope")} | {
        n: json.dumps(asked.parameters[n]) for n in ("conventions", "rope") if n in asked.parameters}  # fmt: skip
    y = getattr(torch.ops.dsa, step)(**given, **parameters)
    assert y.view(torch.int16).numpy().tobytes() == expected.tobytes()
    for name in ("kv_pages", "k_pages"):
        assert given[name].numpy().tobytes() == pages[name].tobytes()
    torch.library.opcheck(getattr(torch.ops.dsa, step).default, (), given | parameters, test_utils=("test_schema", "test_faketensor"))


class OnCuda:
    """An array that says it lies on a GPU."""

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, **_):
        raise BufferError("nobody should ask")


def without(weights: dict, name: str) -> dict:
    return {n: a for n, a in weights.items() if n != name}


REFUSED = {
    "a weight that is missing": (lambda a: {"weights": without(a.weights, "W_uv")}, "serving_step needs W_uv; None was given"),
    "a weight that is none": (lambda a: {"weights": a.weights | {"W_v": a.weights["W_uv"]}}, "serving_step has no weight W_v; it has W_dq, "),
    "a dtype": (lambda a: {"x": a.arrays["x"].astype(np.float32)}, "serving_step: x must be bfloat16; it is float32"),
    "a dtype of pages": (lambda a: {"kv_pages": a.pages()["kv_pages"].view(np.bool_)}, "kv_pages must be uint8; it is bool"),
    "a shape of pages": (lambda a: {"kv_pages": a.pages()["kv_pages"][:, :, 1:].copy()}, "axis 2 of kv_pages, token_bytes, must be"),
    "pools of two sizes": (lambda a: {"k_pages": a.pages()["k_pages"][1:]}, "axis 0 of k_pages, pages, must be"),
    "pages that are read only": (lambda a: {"k_pages": read_only(a.pages()["k_pages"])}, "k_pages must be an array that speaks DLPack and can be written"),
    "lengths of 64 bits": (lambda a: {"context_lens": a.pages()["context_lens"].astype(np.int64)}, "context_lens must be int32; it is int64"),
    "rows": (lambda a: {"context_lens": np.zeros(2, np.int32), "block_table": np.zeros((2, 1), np.int32), "x": a.arrays["x"][:3], "positions": np.zeros(3, np.int32)},
             "x must have s_q rows for each of the 2 requests of block_table; it has 3"),
    "no array": (lambda a: {"block_table": [[0]]}, "block_table must be an array that speaks DLPack, of at most 4 axes; it is <class 'list'>"),
    "a device": (lambda a: {"x": OnCuda()}, "x must be an array that speaks DLPack"),
    "y's shape": (lambda a: {"y": np.empty((1, 1), ml_dtypes.bfloat16)}, "axis 0 of y, T, must be"),
    "a selection of nothing": (lambda a: {"topk": 0}, "an attention block needs the parameter topk"),
    "keys that are not quantised": (lambda a: {"conventions": {"quantizer": "none"}}, "the convention quantizer must not be none"),
    "little scratch": (lambda a: {"workspace": np.empty(7, np.uint8)}, r"the workspace must have at least \d+ bytes; it has 7"),
    "scratch of numbers": (lambda a: {"workspace": np.empty(7, np.float32)}, "the workspace must be packed uint8 numbers of one axis"),
}  # fmt: skip


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_plan_does_not_take_is_one_sentence(dsa, what):
    asked = Asked("dsa_attention")
    other, sentence = REFUSED[what]
    with pytest.raises(BadArgument, match=sentence) as caught:
        asked.planned(dsa, **other(asked))
    assert isinstance(caught.value, ValueError) and "\n" not in str(caught.value)


def test_other_refusals_have_their_own_exceptions(dsa):
    asked = Asked("dsa_attention")
    with dsa.at_level(3), pytest.raises(NotImplementedError, match="serving_step has the levels 1 and 2; there is no level 3"):
        asked.planned(dsa)
    table = np.zeros(17, np.int32)
    first = next(i for i in range(1, 17) if (table.ctypes.data + 4 * i) % 16)
    with pytest.raises(Misaligned, match="context_lens must begin at a multiple of 16 bytes"):
        asked.planned(dsa, context_lens=table[first : first + 1])


# ---- a whole model
TRAINED = text.TRAINED


def model_of(**sizes) -> PagedModel:
    return PagedModel(str(LIBRARY), str(TRAINED / "config.json"), str(TRAINED), **sizes)


def test_the_book_s_example_generates_the_reference_s_tokens():
    """Two prompts of different lengths at once, one of which steps into its second page while it decodes."""
    example = REPOSITORY / "optimized" / "python" / "examples" / "serve_over_pages.py"
    done = subprocess.run([sys.executable, example, "--library", LIBRARY, "--tokens", "6"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "request 0: 61 tokens in pages [5], next b' '; request 1: 37 tokens in pages [4], next b'a'" in done.stdout
    assert "request 0: 65 tokens in pages [5, 3], next" in done.stdout
    assert done.stdout.count("the same 6 tokens as the reference") == 2


def test_a_free_place_and_the_pieces_of_a_prompt_change_nothing():
    """And the pages are back in the end."""
    prompt = text.ALICE.tokens()[:7]
    alone, beside = model_of(requests=1, pages=1, piece=7), model_of(requests=2, pages=3, piece=3)
    tokens, logits = alone.generate([prompt], 2)
    others = beside.generate([prompt], 2)
    assert tokens.tolist() == others[0].tolist()
    np.testing.assert_array_equal(logits, others[1])
    assert sorted(beside.free) == [0, 1, 2] and not beside.lens.any() and (beside.table == -1).all()


def test_a_paged_model_s_bad_use_is_one_sentence():
    with pytest.raises(Refusal, match="a paged model needs at least 1 of pages; it is given 0"):
        model_of(requests=1, pages=0)
    model = model_of(requests=2, pages=2)
    with pytest.raises(Refusal, match="there are 2 places; 3 prompts were given"):
        model.generate([np.zeros(1, np.int32)] * 3, 1)
    with pytest.raises(Refusal, match="token ids must be from 0 to 255, the vocabulary's last"):
        model.generate([np.array([256])], 1)
    with pytest.raises(Refusal, match="a request may have 128 tokens here, .*; request 0 needs 129"):
        model._deal(0, 129)
    model._deal(0, 65)
    with pytest.raises(Refusal, match="no page is free for token 0 of request 1: make the model with more pages"):
        model._deal(1, 1)
    with pytest.raises(Refusal, match="request 0 may have 16 more tokens in this step; it has 17"):
        model.step([np.zeros(17, np.int32), np.zeros(0, np.int32)])
