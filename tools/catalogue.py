#!/usr/bin/env python3
"""Prints docs/mistakes.md, the catalogue of known mistakes, from the files in golden/mistakes."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "golden"))

from touchstone.mistakes import catalogue  # noqa: E402


def page() -> str:
    """The whole page."""
    parts = [
        "# The catalogue of known mistakes",
        "*Which errors did real systems ship, and how does one of them look?*",
        "Generated from `golden/mistakes` by `tools/catalogue.py`; `touchstone mistakes --matrix` prints which cases catch which. Each is one\n"
        "changed formula of the NumPy telling (shown), and one changed line of the C++ reference (in the same file; `tools/mistakes.py`\n"
        "builds it and expects the same diagnosis). `touchstone check` compares every wrong kernel with all of them.",
    ]
    rows: dict[str, list[str]] = {}
    for name, mistake in catalogue().items():
        rows.setdefault(mistake.row, []).append(name)
    for row, names in rows.items():
        parts.append(f"## {row[0].upper()}{row[1:]}")
        for name in names:
            mistake = catalogue()[name]
            parts.append(f"**{name}**: {mistake.title()}")
            parts.append(f"{mistake.story()}\n\nIt shows as: {mistake.shows}. Seen in: {mistake.source}. Ops: {', '.join(mistake.ops)}.")
            parts.append(f"```python\n{mistake.code()}\n```")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(page(), end="")
