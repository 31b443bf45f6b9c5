"""How long does a kernel take? Medians of CUDA-graph replays, the L2 cache flushed before each, inputs rotated.

The flush stands in the stream before the replayed graph and not in the measured interval: events stand around the
replay alone. It reads: a flush that writes leaves the cache full of dirty lines, and the call that is measured pays for
their way to memory (some 20 % of a call whose bound is memory). Spread is the distance between the quartiles. A graph's
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
        graphs = [self._captured(call) for call in calls]
        times: list[float] = []
        total = 0.0
        warm_up, least = WARM_UP, LEAST_REPLAYS
        for i in range(WARM_UP + MOST_REPLAYS):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.amax(self.flush, dim=0, out=self.largest)
            begin.record()
            graphs[i % len(graphs)].replay()
            end.record()
            end.synchronize()
            took = begin.elapsed_time(end) * 1000
            if i == 0 and took * 1e-6 > SLOW:
                warm_up, least = 1, 3
            if i < warm_up:
                continue
            times.append(took)
            total += took * 1e-6
            if len(times) >= least and total > SECONDS:
                break
        low, median, high = statistics.quantiles(times, n=4)
        return Time(median, high - low, len(times))

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


def ceilings(clock: Clock) -> dict[str, float]:
    """What this card reaches today: bytes a second of a copy, FLOPs a second of large products."""
    n = 8192
    big = [torch.empty(1 << 30, dtype=torch.uint8, device="cuda") for _ in range(2)]
    copy = clock.time([lambda: big[1].copy_(big[0])])
    result = {"copy_bytes_a_second": 2 * big[0].numel() / (copy.median * 1e-6)}
    del big
    a = torch.randn(n, n, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(n, n, device="cuda", dtype=torch.bfloat16)
    out = torch.empty(n, n, device="cuda", dtype=torch.bfloat16)
    product = clock.time([lambda: torch.mm(a, b, out=out)])
    result["bf16_flops_a_second"] = 2 * n**3 / (product.median * 1e-6)
    a8, b8 = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t()
    one = torch.ones((), device="cuda")
    product = clock.time(
        [lambda: torch._scaled_mm(a8, b8, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True, out=out)]
    )
    result["fp8_flops_a_second"] = 2 * n**3 / (product.median * 1e-6)
    return result
