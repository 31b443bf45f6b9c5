"""How long does a kernel take? Medians of CUDA-graph replays, the L2 cache flushed before each, inputs rotated.

The flush stands in the stream before the replayed graph and not in the measured interval: events stand around the
replay alone. It reads: a flush that writes leaves the cache full of dirty lines, and the call that is measured pays for
their way to memory (some 20 % of a call whose bound is memory). What is compared takes turns: a card at its cap on power gives
the same kernel 10 % more or less from one minute to the next. Spread is the distance between the quartiles. A graph's
start costs some microseconds that no kernel is to blame for: `overhead` is the time of the smallest kernel, measured in
the same way, and stands in every receipt.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch

FLUSH_BYTES = 256 << 20  # five times the L2 cache of an H100
WARM_UP = 5
LEAST_REPLAYS, MOST_REPLAYS = 20, 200
SECONDS = 0.3  # to spend on one figure
SLOW = 0.05  # seconds: a call that takes as long has no cold start to speak of, and is replayed three times only


@dataclass
class Time:
    """Microseconds: the median of `replays`, and the distance between the quartiles."""

    median: float
    spread: float
    replays: int


class Clock:
    """Times calls on the current device."""

    def __init__(self):
        self.flush = torch.zeros(FLUSH_BYTES // 4, dtype=torch.float32, device="cuda")
        self.largest = torch.empty((), dtype=torch.float32, device="cuda")
        one = torch.zeros(1, device="cuda")
        self.overhead = self.time([lambda: one.add_(1)]).median

    def time(self, calls: list[Callable[[], None]]) -> Time:
        """The time of one call. Each of `calls` does the same work on other inputs; they take turns."""
        return self.in_turns([calls])[0]

    def in_turns(self, contestants: list[list[Callable[[], None]]]) -> list[Time]:
        """The time of one call of each, replay by replay in turns: all find the card as warm, and under its cap on power."""
        graphs = [[self._captured(call) for call in calls] for calls in contestants]
        rounds: list[list[float]] = []  # microseconds: a number of each contestant
        total = 0.0
        warm_up, least = WARM_UP, LEAST_REPLAYS
        for i in range(WARM_UP + MOST_REPLAYS):
            took = [self._replayed(own[i % len(own)]) for own in graphs]
            if i == 0 and took[0] * 1e-6 > SLOW:
                warm_up, least = 1, 3
            if i < warm_up:
                continue
            rounds.append(took)
            total += sum(took) * 1e-6
            if len(rounds) >= least and total > SECONDS * len(contestants):
                break
        found = []
        for times in zip(*rounds):
            low, median, high = statistics.quantiles(times, n=4)
            found.append(Time(median, high - low, len(times)))
        return found

    def _replayed(self, graph: torch.cuda.CUDAGraph) -> float:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.amax(self.flush, dim=0, out=self.largest)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1000

    @staticmethod
    def _captured(call: Callable[[], None]) -> torch.cuda.CUDAGraph:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            call()  # what a library sets up at its first call must not fall into the capture
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return graph


@dataclass(frozen=True)
class Ceiling:
    """What a card can do: `work` (bytes, or FLOPs) in a call."""

    name: str
    work: float
    run: Callable[[], None]


def ceiling_calls() -> dict[str, Ceiling]:
    """What shares are of: a copy of 1 GB, large products. Their tensors stay as long as the calls do."""
    n = 8192
    big = [torch.empty(1 << 30, dtype=torch.uint8, device="cuda") for _ in range(2)]
    a = torch.randn(n, n, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(n, n, device="cuda", dtype=torch.bfloat16)
    out = torch.empty(n, n, device="cuda", dtype=torch.bfloat16)
    a8, b8 = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t()
    one = torch.ones((), device="cuda")
    product_of_codes = {"scale_a": one, "scale_b": one, "out_dtype": torch.bfloat16, "use_fast_accum": True, "out": out}
    return {
        "copy": Ceiling("copy_bytes_a_second", 2 * big[0].numel(), lambda: big[1].copy_(big[0])),
        "bf16": Ceiling("bf16_flops_a_second", 2 * n**3, lambda: torch.mm(a, b, out=out)),
        "fp8": Ceiling("fp8_flops_a_second", 2 * n**3, lambda: torch._scaled_mm(a8, b8, **product_of_codes)),
    }


def ceilings(clock: Clock) -> dict[str, float]:
    """What this card reaches today: bytes a second of a copy, FLOPs a second of large products."""
    return {c.name: c.work / (clock.time([c.run]).median * 1e-6) for c in ceiling_calls().values()}
