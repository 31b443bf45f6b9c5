"""A trace of the simulator as a page: what it holds, what it refuses, and that it works in a browser."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "tools"), str(REPOSITORY / "tests" / "golden")]

import trace_page  # noqa: E402
from browser import PROGRAM, Browser  # noqa: E402

CONFORMANCE = Path(os.environ.get("TOUCHSTONE_SIMULATED_LIBRARY") or REPOSITORY / "build" / "libdsa_simulated.so").with_name("conformance-simulated")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with trace.json and trace.html of the warp-specialised product."""
    home = tmp_path_factory.mktemp("trace")
    environment = os.environ | {"DSA_SIMULATOR_TRACE": str(home / "trace.json")}
    subprocess.run([CONFORMANCE, home, "product"], check=True, capture_output=True, env=environment, timeout=120)
    subprocess.run([sys.executable, REPOSITORY / "tools" / "trace_page.py", home / "trace.json", home / "trace.html"], check=True)
    return home


def test_a_block_has_its_warps_and_what_they_asked_for(home):
    data = trace_page.data_of(trace_page.events_of(home / "trace.json"))
    rows = {row["name"]: row["segments"] for row in data["blocks"][0]["rows"]}

    def kinds(row):
        return {data["kinds"][s[2]]["name"] for s in rows[row]}

    # Warp 0 of the producer's warpgroup copies; those of the consumers multiply and wait (product.cuh).
    assert kinds("warp 0 asked for") == {"tensor copy (TMA) or bulk copy"}
    assert kinds("warp 4 asked for") == {"product (wgmma)"}
    assert {"runs", "waits for an mbarrier"} <= kinds("warp 4")
    assert all(begin <= end for segments in rows.values() for begin, end, *_ in segments)
    assert max(s[4] for s in rows["warp 4"]) == 32


def test_lanes_that_do_the_same_are_one_segment():
    events = [{"ph": "M", "pid": 1, "tid": 0, "ts": 0, "name": "process_name", "args": {"name": "block (0, 0, 0)"}}]
    events += [{"ph": "X", "pid": 1, "tid": t, "ts": t, "dur": 1, "name": "runs"} for t in (0, 1, 2, 5)]
    (row,) = trace_page.data_of(events)["blocks"][0]["rows"]
    assert row == {"name": "warp 0", "tracks": 1, "segments": [[0, 3, 0, 0, 3, 0], [5, 6, 0, 0, 1, 0]]}


def test_what_is_under_way_together_lies_apart():
    assert trace_page.tracks_of([[0, 9], [1, 3], [2, 4], [3, 5], [9, 10]]) == [0, 1, 2, 1, 0]
    assert max(trace_page.tracks_of([[0, 9]] * 6)) == trace_page.MOST_TRACKS - 1


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"ph": "X"}]', '[\n{"name":"runs",'])
def test_what_is_no_trace_is_refused(tmp_path, text, capsys, monkeypatch):
    (tmp_path / "t.json").write_text(text)
    monkeypatch.setattr(sys, "argv", ["trace_page.py", str(tmp_path / "t.json"), str(tmp_path / "t.html")])
    assert trace_page.main() == 2
    assert "is not a trace of the simulator" in capsys.readouterr().err
    assert not (tmp_path / "t.html").exists()


def test_an_empty_trace_is_refused():
    with pytest.raises(trace_page.NoTrace, match="no kernel ran"):
        trace_page.data_of([])


@pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium here (Debian: apt-get install chromium)")
def test_in_a_browser(home, tmp_path):
    browser = Browser(tmp_path)
    try:
        browser.looks(1200, 900)
        browser.open((home / "trace.html").as_uri())
        browser.wait_for("document.getElementById('block').options.length > 0")
        blocks = len(trace_page.data_of(trace_page.events_of(home / "trace.json"))["blocks"])
        assert browser.run("document.getElementById('block').options.length") == blocks
        whole = browser.run("[first, last]")
        # The first product of warp 4, under the mouse.
        said = browser.run("""(() => {
            const i = block.rows.findIndex((row) => row.name === "warp 4 asked for"), s = block.rows[i].segments[0];
            say(x_of((s[0] + s[1]) / 2), TOP + ROW * i + 4);
            return document.getElementById("said").textContent;
        })()""")
        assert said.startswith("warp 4 asked for, turns ") and "wgmma" in said and "product.cuh:" in said
        browser.run("canvas.dispatchEvent(new WheelEvent('wheel', {deltaY: -1, cancelable: true}))")
        nearer = browser.run("[first, last]")
        assert whole[0] <= nearer[0] < nearer[1] <= whole[1] and nearer[1] - nearer[0] < whole[1] - whole[0]
        browser.run("document.getElementById('all').click()")
        assert browser.run("[first, last]") == whole
        assert browser.complaints() == []
        assert {url.split("#")[0] for url in browser.requests()} <= {"about:blank", (home / "trace.html").as_uri()}
    finally:
        browser.close()
