"""The book's walk through a kernel in gdb says what gdb says.

`python tests/docs/test_gdb_session.py` writes the answers into the chapter, after a change of the kernel.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CHAPTER = REPOSITORY / "docs" / "21-a-warp-specialised-kernel.md"
sys.path.insert(0, str(REPOSITORY / "tools"))

import pipeline_faults  # noqa: E402

BLOCK = re.compile(r"^```gdb\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PROMPT = "(gdb) "
NOISE = re.compile(r"$|Temporary breakpoint|\[Thread debugging|Using host libthread_db|dsa::conformance::")


def told() -> list[tuple[str, list[str]]]:
    """The chapter's commands, each with the answer that it shows."""
    session: list[tuple[str, list[str]]] = []
    for block in BLOCK.findall(CHAPTER.read_text(encoding="utf-8")):
        for line in block.splitlines():
            if line.startswith(PROMPT):
                session.append((line.removeprefix(PROMPT), []))
            else:
                session[-1][1].append(line)
    return session


def heard(folder: Path) -> list[tuple[str, list[str]]]:
    """The same commands, each with gdb's answer, without folders and announcements."""
    pipeline_faults.build(folder, debug=True)
    commands = [command for command, _ in told()]
    script = ["set pagination off", "set confirm off", "set width 0", "set print address off", "set debuginfod enabled off"]
    script += [line for i, command in enumerate(commands) for line in (f"echo \\n@{i}\\n", command)] + ["kill"]
    (folder / "session.gdb").write_text("\n".join(script) + "\n", encoding="utf-8")
    environment = os.environ | {"DSA_SIMULATOR_SEED": "1"}
    call = ["gdb", "-q", "-nx", "-batch", "-x", "session.gdb", "./product"]
    ran = subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300)
    text = ran.stdout.replace(f"{folder}/", "")
    answers = [part.split("\n", 1)[1].splitlines() for part in re.split(r"^@(?=\d+$)", text, flags=re.MULTILINE)[1:]]
    assert len(answers) == len(commands), ran.stdout + ran.stderr
    return [(command, [line.rstrip() for line in answer if not NOISE.match(line) and not line.startswith("[Inferior")])
            for command, answer in zip(commands, answers)]  # fmt: skip


@pytest.mark.skipif(shutil.which("gdb") is None, reason="gdb is not installed")
def test_gdb_says_what_the_chapter_says(tmp_path):
    session = told()
    assert len(session) > 10
    assert heard(tmp_path) == session


def write(folder: Path) -> None:
    """Puts gdb's answers into the chapter."""
    answers = iter(heard(folder))

    def filled(block: re.Match) -> str:
        lines = []
        for line in block.group(1).splitlines():
            if line.startswith(PROMPT):
                lines += [line, *next(answers)[1]]
        return "```gdb\n" + "\n".join(lines) + "\n```"

    CHAPTER.write_text(BLOCK.sub(filled, CHAPTER.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        write(Path(scratch).resolve())
