#!/usr/bin/env python3
"""Who did what when? A trace of the simulator as one HTML page that needs nothing else.

    DSA_SIMULATOR_TRACE=trace.json build/dsa-simulated op sparse_prefill CASE OUT --level 2
    python tools/trace_page.py trace.json trace.html

A block is a picture, a warp two rows: what its lanes do, and the copies and products that it asked for, each from the
turn of its instruction to the turn at which somebody was told that it is done. docs/20-the-simulator.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

BESIDE = 10_000  # a thread's operations are in the row of this number more (optimized/simulator/trace.cpp)
LANES = 32
MOST_BLOCKS = 16  # of one page
MOST_TRACKS = 4

# (name, colour, is it this kind?), the first that says yes. Colours of Okabe and Ito, apart for the colour-blind too.
KINDS = (
    ("runs", "#7f7f7f", lambda text, beside: text == "runs"),
    ("product (wgmma)", "#d55e00", lambda text, beside: beside and text.startswith("wgmma")),
    ("tensor copy (TMA) or bulk copy", "#0072b2", lambda text, beside: beside and "bulk" in text),
    ("other copy or operation", "#009e73", lambda text, beside: beside),
    ("waits for an mbarrier", "#e69f00", lambda text, beside: "mbarrier" in text),
    ("fence between the proxies", "#cc79a7", lambda text, beside: text.startswith("fence")),
    ("waits otherwise", "#cfc8a8", lambda text, beside: True),
)


class NoTrace(Exception):
    """The file holds no trace of the simulator."""


def kind_of(text: str, beside: bool) -> int:
    """The index in KINDS."""
    return next(i for i, (_, _, is_it) in enumerate(KINDS) if is_it(text, beside))


def events_of(path: Path) -> list[dict]:
    """The events of a trace, or a sentence."""
    try:
        events = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(events, list) and all(isinstance(e, dict) and {"ph", "pid", "tid", "name", "ts"} <= e.keys() for e in events):
            return events
    except OSError as error:
        raise NoTrace(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        pass
    raise NoTrace(f"{path} is not a trace of the simulator: DSA_SIMULATOR_TRACE={path} writes one, whole only when the program has ended")


def rows_of(events: list[dict], texts: dict[str, int]) -> list[dict]:
    """The rows of one block: {name, segments, tracks}; a segment is [begin, end, kind, text, lanes, track]."""
    rows = defaultdict(list)
    for e in sorted((e for e in events if e["ph"] in "Xi"), key=lambda e: e["ts"]):
        beside = e["tid"] >= BESIDE
        row = rows[e["tid"] % BESIDE // LANES, beside]
        begin, end = e["ts"], e["ts"] + e.get("dur", 0)
        text = texts.setdefault(e["name"], len(texts))
        # Lanes that do the same without a pause are one segment; each operation is one of its own.
        last = next((s for s in reversed(row[-16:]) if s[3] == text), None)
        if last is not None and not beside and begin <= last[1]:
            last[1] = max(last[1], end)
            last[4].add(e["tid"])
        else:
            row.append([begin, end, kind_of(e["name"], beside), text, {e["tid"]}])
    named = []
    for (warp, beside), segments in sorted(rows.items()):
        name = f"warp {warp}" + (" asked for" if beside else "")
        tracks = tracks_of(segments) if beside else [0] * len(segments)
        named.append({"name": name, "tracks": max(tracks) + 1, "segments": [[*s[:4], len(s[4]), t] for s, t in zip(segments, tracks)]})
    return named


def tracks_of(segments: list[list]) -> list[int]:
    """Operations that are under way together lie below each other, MOST_TRACKS at most."""
    ends, tracks = [0] * MOST_TRACKS, []
    for begin, end, *_ in segments:
        track = next((i for i, e in enumerate(ends) if e <= begin), min(range(MOST_TRACKS), key=lambda i: ends[i]))
        ends[track] = max(ends[track], end)
        tracks.append(track)
    return tracks


def data_of(events: list[dict]) -> dict:
    """What the page draws."""
    texts: dict[str, int] = {}
    names = {e["pid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
    blocks = []
    for pid, name in list(names.items())[:MOST_BLOCKS]:
        blocks.append({"name": name, "rows": rows_of([e for e in events if e["pid"] == pid], texts)})
    if not any(b["rows"] for b in blocks):
        raise NoTrace("the trace has no block in which something happened: no kernel ran")
    return {"blocks": blocks, "left_out": len(names) - len(blocks), "texts": list(texts),
            "kinds": [{"name": name, "colour": colour} for name, colour, _ in KINDS]}  # fmt: skip


def page_of(data: dict) -> str:
    """The page."""
    template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return template.replace("/*DATA*/null", text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path)
    parser.add_argument("page", type=Path)
    options = parser.parse_args()
    try:
        text = page_of(data_of(events_of(options.trace)))
    except NoTrace as error:
        print(error, file=sys.stderr)
        return 2
    unfinished = options.page.with_name(options.page.name + ".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.rename(options.page)
    print(f"{options.page}: {len(text) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
