"""The book keeps its word: code that it quotes is ours, links lead somewhere, chapters begin with a question."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted(REPOSITORY.glob("*.md")) + sorted((REPOSITORY / "docs").glob("*.md"))
CHAPTERS = [page for page in PAGES if re.match(r"\d\d-", page.name)]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_quoted_code_stands_in_the_file_that_it_names(page):
    for source, code in re.findall(r"```cpp from=(\S+)\n(.*?)```", page.read_text(), re.DOTALL):
        assert code in (REPOSITORY / source).read_text(), f"{page.name} quotes {source}, which does not say:\n{code}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_paths_in_code_quotes_exist(page):
    for path in re.findall(r"`((?:reference|golden|tests|tools|docs|notebooks)/[\w./-]+)`", page.read_text()):
        assert (REPOSITORY / path).exists() or "<" in path, f"{page.name} names {path}"


def test_there_are_chapters():
    assert len(CHAPTERS) == 14


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda p: p.name)
def test_a_chapter_begins_with_its_question_and_ends_with_exercises(page):
    lines = [line for line in page.read_text().splitlines() if line]
    assert lines[0].startswith("# ")
    assert re.fullmatch(r"\*.*\?\*", lines[1]), lines[1]
    assert "## Exercises" in lines


def test_every_case_that_the_book_names_exists():
    families = {path.stem: path.read_text() for path in (REPOSITORY / "golden" / "cases").glob("*.json")}
    for page in PAGES:
        for op, name in re.findall(r"`(?:build/golden/)?([a-z_]+)/([a-z0-9_]+)`", page.read_text()):
            if op in families:
                assert f'"name": "{name}"' in families[op], f"{page.name} names {op}/{name}"
