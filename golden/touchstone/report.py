"""How is a verdict told? To people in lines, to build servers as JUnit XML or JSON, to a browser as one HTML page."""

from __future__ import annotations

import html
import json
import math
import xml.etree.ElementTree as xml
from collections import Counter
from pathlib import Path

from . import Refusal, __version__
from .check import Checked, Options, status

FORMATS = ("junit", "json", "html")
WORDS = {"right": "right", "wrong": "WRONG", "failed": "FAILED", "not implemented": "not implemented"}


def _number(x: float):
    return x if math.isfinite(x) else str(x)


def as_dict(results: list[Checked], options: Options, diagnosis: str) -> dict:
    """Everything that is known, for JSON."""
    return {
        "touchstone": __version__,
        "private_seed": options.private_seed,
        "status": status(results),
        "counts": dict(Counter(r.state for r in results)),
        "diagnosis": diagnosis,
        "cases": [
            {
                "name": r.case.name,
                "state": r.state,
                "sentence": r.sentence,
                "seconds": round(r.seconds, 6),
                "seed": r.case.entry["seed"],
                "tensors": [
                    {"name": v.name, "right": v.right, "sentence": v.sentence, "worst_ratio": _number(v.ratio),
                     "snr_db": _number(v.snr), "notes": v.notes}
                    for v in r.verdicts
                ],
            }
            for r in results
        ],
    }  # fmt: skip


def junit(results: list[Checked], options: Options, diagnosis: str) -> str:
    """JUnit XML: one test case a case."""
    counts = Counter(r.state for r in results)
    suite = xml.Element("testsuite", name="touchstone", tests=str(len(results)), failures=str(counts["wrong"]),
                        errors=str(counts["failed"]), skipped=str(counts["not implemented"]),
                        time=f"{sum(r.seconds for r in results):.3f}")  # fmt: skip
    properties = xml.SubElement(suite, "properties")
    xml.SubElement(properties, "property", name="private_seed", value=options.private_seed)
    for r in results:
        case = xml.SubElement(suite, "testcase", classname=r.case.op, name=r.case.entry["name"], time=f"{r.seconds:.3f}")
        if r.state == "wrong":
            xml.SubElement(case, "failure", message=r.sentence).text = "\n".join([r.sentence, diagnosis]).strip()
        elif r.state == "failed":
            xml.SubElement(case, "error", message=r.sentence).text = r.sentence
        elif r.state == "not implemented":
            xml.SubElement(case, "skipped", message=r.sentence or "not implemented")
    xml.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + xml.tostring(suite, encoding="unicode") + "\n"


STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3em .6em;border-bottom:1px solid #ccc;vertical-align:top}
.wrong,.failed{color:#b00020;font-weight:600}.right{color:#0a6b2b}.absent{color:#666}pre{white-space:pre-wrap;background:#f4f4f4;padding:1em}"""


def page(results: list[Checked], options: Options, diagnosis: str) -> str:
    """One HTML page without scripts."""
    counts = Counter(r.state for r in results)
    rows = []
    for r in results:
        kind = "absent" if r.state == "not implemented" else r.state
        ratio = max((v.ratio for v in r.verdicts), default=0.0)
        detail = r.sentence or "; ".join(note for v in r.verdicts for note in v.notes)
        rows.append(f"<tr><td>{html.escape(r.case.name)}</td><td class={kind}>{WORDS[r.state]}</td><td>{ratio:.3g}</td>"
                    f"<td>{r.seconds * 1e3:.1f}</td><td>{html.escape(detail)}</td></tr>")  # fmt: skip
    told = f"<h2>Diagnosis</h2><pre>{html.escape(diagnosis)}</pre>" if diagnosis else ""
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>touchstone check</title><style>{STYLE}</style>"
        f"<h1>{html.escape(summary(results))}</h1><p>Private seed {html.escape(options.private_seed)}. "
        f"{counts['not implemented']} cases are of ops that the plug-in does not implement.</p>{told}"
        "<table><tr><th>case</th><th>verdict</th><th>worst error / bound</th><th>ms</th><th></th></tr>"
        + "\n".join(rows) + "</table></html>\n"
    )  # fmt: skip


def write(path: Path, kind: str, results: list[Checked], options: Options, diagnosis: str) -> None:
    """The report as a file, whole or not at all."""
    if kind == "json":
        text = json.dumps(as_dict(results, options, diagnosis), indent=1, ensure_ascii=False) + "\n"
    else:
        text = {"junit": junit, "html": page}[kind](results, options, diagnosis)
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        raise Refusal(f"the report {path} cannot be written: {error.strerror}") from None


def summary(results: list[Checked]) -> str:
    """One line for all."""
    counts = Counter(r.state for r in results)
    judged = counts["right"] + counts["wrong"] + counts["failed"]
    if judged == 0:
        return f"nothing was judged: the plug-in implements none of the {len({r.case.op for r in results})} ops asked for"
    parts = [f"{counts['right']} of {judged} cases right"]
    parts += [f"{counts[state]} {state}" for state in ("wrong", "failed") if counts[state]]
    if counts["not implemented"]:
        absent = {r.case.op for r in results if r.state == "not implemented"} - {r.case.op for r in results if r.state != "not implemented"}
        parts.append(f"{len(absent)} ops not implemented" if absent else f"{counts['not implemented']} cases not implemented")
    return ", ".join(parts)


def lines(results: list[Checked]) -> list[str]:
    """One line an op: cases right, the worst error over its bound, the lowest signal-to-noise ratio, time."""
    out = []
    for op in dict.fromkeys(r.case.op for r in results):
        own = [r for r in results if r.case.op == op and r.state != "not implemented"]
        if not own:
            continue
        right = [r for r in own if r.state == "right"]
        ratio = max((v.ratio for r in right for v in r.verdicts), default=0.0)
        snr = min((v.snr for r in right for v in r.verdicts if math.isfinite(v.snr)), default=math.inf)
        slowest = max(r.seconds for r in own)
        noise = f", {snr:.0f} dB at least" if math.isfinite(snr) else ""
        out.append(f"{op:26} {len(right):3d} of {len(own):3d} right; worst error {ratio:.2g} of its bound{noise}; slowest {slowest * 1e3:.0f} ms")
    judged = {r.case.op for r in results if r.state != "not implemented"}
    absent = [op for op in dict.fromkeys(r.case.op for r in results) if op not in judged]
    return out + ([f"{'not implemented':26} {', '.join(absent)}"] if absent else [])
