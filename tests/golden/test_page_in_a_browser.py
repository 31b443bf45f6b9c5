"""Does the page work where it is read? In Chromium, from a file, by real clicks and keys; see browser.py."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from browser import PROGRAM, Browser

from touchstone import page

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium here (Debian: apt-get install chromium)")
ALICE = Path(__file__).resolve().parents[2] / "recipes" / "text" / "alice_in_wonderland.txt"
T, K = 64, 8  # as conftest's run has them
STAGES = ("dense", "warmup", "sparse")


@pytest.fixture(scope="module")
def address(looks, tmp_path_factory) -> str:
    """Of the page, as a file."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    page.write(looks, page.window_of(ALICE, None, T)[0], "a test", path)
    return path.as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def opened(browser, address):
    """The page, opened anew; whatever a test does, nothing may be complained of and nobody asked."""
    browser.events.clear()
    browser.looks(1200, 900)
    browser.open("about:blank")
    browser.open(address)
    browser.wait_for("document.querySelector('.lit') !== null")
    yield browser
    browser.run("new Promise((done) => setTimeout(done, 400))")  # the address is written after 300 ms
    assert browser.complaints() == []
    assert {url.split("#")[0] for url in browser.requests()} <= {"about:blank", address}


def positions(browser, kind: str) -> list[int]:
    """Where the bytes of a class are."""
    return browser.run(f"[...document.querySelectorAll('#text .{kind}')].map((e) => Number(e.id.slice(5)))")


def told(browser) -> tuple[str, int, int, float, float]:
    """The sentence below the text: stage, layer, query, recall and mean recall as shares of 1."""
    text = browser.run("document.getElementById('told').textContent")
    place, shares = r"(\w+), layer (\d+), query (\d+) \(.*\)", r"recall ([\d.]+)\u00a0%; mean over queries ([\d.]+)\u00a0%"
    found = re.fullmatch(place + r": \d+ of \d+ bytes chosen, " + shares, text, re.DOTALL)
    assert found, text
    return found[1], int(found[2]), int(found[3]), float(found[4]) / 100, float(found[5]) / 100


def selected(layer: page.Layer, t: int, k: int) -> list[int]:
    """The k best by a plain sort, not by the page's own order."""
    return sorted(sorted(range(t + 1), key=lambda s: (-layer.scores[t, s], s))[:k])


def slack(t: int, k: int) -> float:
    """How far a recall shown may be from the exact one: half a unit of 1 / 65535 for each share above and below the line, and
    half of the last digit shown. (a + e) / (1 + f) - a is at most (|e| + |f|) / (1 - |f|)."""
    below = (t + 1) / 2 / 65535
    return (min(k, t + 1) / 2 / 65535 + below) / (1 - below) + 0.0005 + 1e-9


def is_right(browser, looks, stage: int, layer: int, query: int, k: int) -> None:
    """What is lit and told is what NumPy says of this place."""
    own = looks[stage].layers[layer]
    chosen = [selected(own, t, k) for t in range(T)]
    recalls = [own.mass[t, chosen[t]].sum() for t in range(T)]
    assert positions(browser, "lit") == chosen[query]
    assert positions(browser, "query") == [query]
    assert positions(browser, "later") == list(range(query + 1, T))
    name, shown_layer, shown_query, recall, mean = told(browser)
    assert (name, shown_layer, shown_query) == (STAGES[stage], layer, query)
    assert abs(recall - recalls[query]) <= slack(query, k)
    assert abs(mean - np.mean(recalls)) <= np.mean([slack(t, k) for t in range(T)])
    heavy = sorted(range(query + 1), key=lambda s: -own.mass[query, s])[:k]
    for s in set(heavy) - set(chosen[query]):  # a miss, unless its mass is an even share or less; 2 units for the rounding
        if abs(own.mass[query, s] - 1 / (query + 1)) > 2 / 65535:
            assert (s in positions(browser, "missed")) == (own.mass[query, s] > 1 / (query + 1))


def test_every_stage_and_layer_lights_its_selection(opened, looks):
    for stage in range(3):
        for layer in range(2):
            opened.click(f"#stages button[data-stage='{stage}'][data-layer='{layer}']")
            for query in (T - 1, K, 3):
                opened.click(f"#byte-{query}")
                is_right(opened, looks, stage, layer, query, K)


def test_a_sparse_stage_lights_what_it_attended_to(opened, looks):
    opened.click("#stages button[data-stage='2'][data-layer='1']")
    opened.click("#byte-50")
    attended = looks[2].layers[1].attended[50]
    assert positions(opened, "lit") == attended[attended >= 0].tolist()


def test_keys_move_the_query_and_k(opened, looks):
    opened.click("#stages button[data-stage='1'][data-layer='0']")
    opened.click("#byte-40")
    opened.run("document.getElementById('text').focus()")
    for key, query in (("ArrowRight", 41), ("ArrowLeft", 40), ("End", T - 1), ("ArrowRight", T - 1), ("Home", 0), ("ArrowLeft", 0)):
        opened.press(key)
        is_right(opened, looks, 1, 0, query, K)
    opened.press("ArrowDown")
    line = opened.run("document.querySelector('#text .query').offsetTop")
    assert line > opened.run("document.getElementById('byte-0').offsetTop")
    opened.press("ArrowUp")
    is_right(opened, looks, 1, 0, 0, K)
    opened.click("#byte-40")
    opened.run("document.getElementById('k').focus()")
    opened.press("ArrowRight")
    is_right(opened, looks, 1, 0, 40, K + 1)


def test_the_shade_is_the_mass_or_the_score(opened, looks):
    own = looks[0].layers[1]
    opened.click("#stages button[data-stage='0'][data-layer='1']")
    opened.click("#byte-30")
    for shade, values in (("mass", own.mass[30, :31]), ("score", page.prediction_of(own.scores)[30, :31])):
        opened.click(f"#shades input[value='{shade}']")
        shades = opened.run("[...document.querySelectorAll('#text span')].map((e) => Number(e.style.getPropertyValue('--a')))")
        # Of x = share / largest, each off by at most 1 / 65535 / largest; the root of that bounds how far the roots are apart.
        assert np.all(np.abs(np.array(shades[:31]) - np.sqrt(values / values.max())) <= np.sqrt(1.01 / 65535 / values.max()) + 0.0005)
        assert set(shades[31:]) == {0}


def test_a_click_into_a_matrix_picks_its_row(opened):
    opened.click("#matrix-mass", y=(20 + 0.5) / T)
    assert positions(opened, "query") == [20]


def test_a_matrix_shows_where_the_mass_is(opened, looks):
    opened.click("#stages button[data-stage='1'][data-layer='1']")
    opened.click("#byte-63")
    opacity = opened.run("""(() => { const c = document.getElementById('matrix-mass');
        const d = c.getContext('2d').getImageData(0, 0, 64, 64).data; return Array.from({length: 64 * 64}, (_, i) => d[4 * i + 3]); })()""")
    drawn = np.array(opacity).reshape(T, T)[: T - 2]  # the last rows have the query's lines
    mass = looks[1].layers[1].mass[: T - 2]
    assert not drawn[np.triu_indices(T - 2, 1, T)].any()
    assert (drawn.argmax(axis=1) == mass.argmax(axis=1)).mean() > 0.9  # shades are bytes: near maxima may be equal
    assert (drawn.max(axis=1) == 255).all()


def test_a_place_on_the_page_has_an_address(opened, looks, address):
    opened.open(address + "#stage=2&layer=0&query=33&k=5&shade=score")
    opened.wait_for("document.querySelector('#text .query').id === 'byte-33'")
    is_right(opened, looks, 2, 0, 33, 5)
    assert opened.run("document.querySelector('#shades input:checked').value") == "score"
    opened.click("#byte-34")
    opened.wait_for("location.hash.includes('query=34')")
    opened.open(address + "#stage=99&layer=-1&query=x&k=0&shade=none")  # nonsense is bent to what there is
    opened.wait_for("document.querySelector('#k-told').textContent === '1'")
    assert told(opened)[:2] == ("sparse", 0)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_fits_a_telephone_by_day_and_by_night(opened, dark):
    opened.looks(360, 740, dark)
    opened.run("new Promise(requestAnimationFrame)")
    assert opened.run("document.documentElement.scrollWidth") <= 360
    ground, ink = opened.run("(() => { const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]; })()")
    brightness = [sum(map(int, re.findall(r"\d+", colour))) for colour in (ground, ink)]
    assert (brightness[0] < brightness[1]) == dark


def test_a_reader_of_screens_is_told(opened):
    """Names and states, as the browser gives them to assistive technology."""
    opened.click("#byte-12")
    said = []
    for node in opened.call("Accessibility.getFullAXTree")["nodes"]:
        state = {p["name"]: p["value"].get("value") for p in node.get("properties", [])}
        if not node.get("ignored"):
            said.append((node.get("role", {}).get("value"), node.get("name", {}).get("value", ""), state))
    assert [name for role, name, _ in said if role == "heading"][0] == "What does the indexer choose?"
    options = [(name, state) for role, name, state in said if role == "option"]
    assert len(options) == T and options[12][0].endswith("position 12") and options[12][1].get("selected") is True
    buttons = [name for role, name, _ in said if role == "button"]
    assert len(buttons) == 6 and all(re.fullmatch(r"\w+, layer \d: mean recall [\d.]+\u00a0%", name) for name in buttons)
    assert not [role for role, name, _ in said if role in ("radio", "slider", "image", "listbox") and not name]
    assert [name for role, name, _ in said if role == "slider"] == ["k ="]  # its value, 8, is said after it
