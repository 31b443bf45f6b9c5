"""What is compared takes turns, on a GPU that is a list of what it was asked to replay."""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


class Card:
    """Enough of torch for the clock. `takes`: microseconds a call, by its name; the first replay of all takes `first`."""

    def __init__(self, takes: dict[str, float], first: float | None = None):
        self.takes, self.first = takes, first
        self.calls: list[str] = []  # since a capture began
        self.replayed: list[str] = []
        card = self

        class Graph:
            name = ""

            def replay(self) -> None:
                card.replayed.append(self.name)

        class Event(MagicMock):
            def elapsed_time(self, _) -> float:
                alone = card.first is not None and len(card.replayed) == 1
                return (card.first if alone else card.takes[card.replayed[-1]]) / 1000

        @contextlib.contextmanager
        def graph(made: Graph):
            card.calls.clear()
            yield
            (made.name,) = card.calls

        self.torch = MagicMock()
        self.torch.cuda = SimpleNamespace(CUDAGraph=Graph, Event=Event, graph=graph, Stream=MagicMock, stream=lambda _: contextlib.nullcontext(),
                                          current_stream=MagicMock(), synchronize=lambda: None)  # fmt: skip

    def call(self, name: str):
        return lambda: self.calls.append(name)


def over(torch, name: str):
    """A module of optimized.bench that has this torch. No other test finds it, nor what it imported."""
    package = importlib.import_module("optimized.bench")

    def taken() -> dict:
        found = {m: sys.modules.pop(m) for m in list(sys.modules) if m == "torch" or m.startswith("optimized.bench.")}
        for m in found:
            vars(package).pop(m.removeprefix("optimized.bench."), None)
        return found

    before = taken()
    sys.modules["torch"] = torch
    try:
        return importlib.import_module(f"optimized.bench.{name}")
    finally:
        taken()
        sys.modules.update(before)
        vars(package).update({m.removeprefix("optimized.bench."): module for m, module in before.items() if m != "torch"})


def clock_of(card: Card):
    timing = over(card.torch, "timing")
    clock = timing.Clock.__new__(timing.Clock)
    clock.flush = clock.largest = None
    return timing, clock


def test_replays_alternate_and_each_has_its_own_median():
    card = Card({"ours": 10.0, "theirs on set 1": 30.0, "theirs on set 2": 50.0})
    timing, clock = clock_of(card)
    ours, theirs = clock.in_turns([[card.call("ours")], [card.call("theirs on set 1"), card.call("theirs on set 2")]])
    assert (ours.median, ours.spread, theirs.median, theirs.spread) == (10.0, 0.0, 40.0, 20.0)
    assert card.replayed[:4] == ["ours", "theirs on set 1", "ours", "theirs on set 2"]
    assert ours.replays == theirs.replays == timing.MOST_REPLAYS
    assert len(card.replayed) == 2 * (timing.WARM_UP + timing.MOST_REPLAYS)


def test_each_contestant_has_its_share_of_the_time():
    """Two of 7 and 16 ms go on for 0.6 s, 27 rounds; one of 7 ms alone for 0.3 s, 43."""
    card = Card({"a": 7_000.0, "b": 16_000.0})
    timing, clock = clock_of(card)
    assert [t.replays for t in clock.in_turns([[card.call("a")], [card.call("b")]])] == [27, 27]
    assert clock.time([card.call("a")]).replays == 43


def test_a_slow_call_is_replayed_three_times():
    """By its first replay, which is not counted."""
    card = Card({"slow": 400_000.0}, first=900_000.0)
    timing, clock = clock_of(card)
    took = clock.time([card.call("slow")])
    assert (took.median, took.replays, card.replayed) == (400_000.0, 3, ["slow"] * 4)


@pytest.mark.parametrize(("flops", "others", "taken_by_turns", "share"), [
    (2e12, {"theirs": ["t"]}, 3, 2e12 / 100e-6 / (1e12 / 300e-6)),  # 2 ms at the ceiling: beside the product
    (2e12, {}, 2, 2e12 / 100e-6 / (1e12 / 200e-6)),
    (1e11, {"theirs": ["t"]}, 2, 1e11 / 7e-6 / 1e15),
    (1e11, {}, 0, 1e11 / 7e-6 / 1e15),
])  # fmt: skip
def test_a_level_takes_turns_with_peers_and_a_long_call_with_its_ceiling(flops, others, taken_by_turns, share, monkeypatch):
    """On a clock that says 7 us of a call alone and 100, 200, 300 of those that take turns; the product has 1e12 FLOPs."""
    device = over(MagicMock(), "device")
    asked = []

    class Clock:
        def time(self, _):
            return device_time(7.0)

        def in_turns(self, contestants):
            asked.extend(contestants)
            return [device_time(100.0 * (i + 1)) for i in range(len(contestants))]

    def device_time(median: float):
        return SimpleNamespace(median=median, spread=1.0, replays=20)

    question = SimpleNamespace(op="an_op", from_level=1, make=dict, parameters=None, shape="small", ceiling="bf16", flops=flops)
    monkeypatch.setattr(device, "questions", lambda: [question])
    monkeypatch.setattr(device, "called", lambda *_: MagicMock())
    monkeypatch.setattr(device.peers, "calls", lambda *_: (others, {}))
    by = {"bf16": SimpleNamespace(name="bf16_flops_a_second", work=1e12, run=None)}
    (entry,) = device.timed(MagicMock(), "an_op", 1, Clock(), by, {"bf16_flops_a_second": 1e15}, [])
    assert len(asked) == taken_by_turns
    assert entry["share"] == pytest.approx(share) and entry["median_us"] == (100.0 if flops > 1e12 else 7.0)
    assert entry["peers"] == [{"name": n, "median_us": 200.0} for n in others]
    assert entry.get("in_turns_us") == (100.0 if others else None)


@pytest.mark.parametrize(("known", "answer", "times"), [("here", 0, ["new"]), ("before", 2, ["old"])])
def test_new_times_go_into_a_receipt_of_these_sources_only(known, answer, times, monkeypatch):
    device = over(MagicMock(), "device")
    monkeypatch.setattr(device.receipts, "sources_hash", lambda *_: "here")
    monkeypatch.setattr(device.receipts, "write", lambda _: None)
    monkeypatch.setattr(device, "timed", lambda *_: ["new"])
    monkeypatch.setattr(device, "Clock", MagicMock)
    monkeypatch.setattr(device, "ceilings", lambda _: {"copy": 1.0})
    receipt = {"ops": {"an_op": {"levels": {"1": {"sources": known, "times": ["old"]}}}}}
    assert device.times_again(MagicMock(), receipt, {"an_op": [1]}, with_peers=False) == answer
    assert receipt["ops"]["an_op"]["levels"]["1"]["times"] == times
