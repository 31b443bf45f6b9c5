"""Is a choice right? Selections by must / may / must-not, experts by their scores. docs/04-selection.md, docs/06."""

from __future__ import annotations

import numpy as np

from . import dtypes
from .verdict import Golden, Verdict


def candidates_of(golden: Golden, name: str):
    """What a selection chose from: scores with their bounds, and each row's range. -> [(scores, bounds)], start, end"""
    scope = name.rsplit(".", 1)[0] + "." if "." in name else ""
    if golden.op == "top_k":
        scores = golden.inputs.stored("logits").astype(np.float64)
        return [(np.where(np.isnan(scores), -np.inf, scores), np.zeros(scores.shape))], *_given_range(golden)
    logits = "logits" if golden.op == "indexer_top_k" else scope + "indexer_logits"
    pairs = [(golden.deployed(logits), golden.stored("deployed_bound", logits))]
    if golden.stored("exact", logits) is not None:
        pairs.append((golden.stored("exact", logits), golden.stored("exact_bound", logits)))
    pairs = [(s, b.astype(np.float64)) for s, b in pairs if b is not None]
    if golden.op == "indexer_top_k":
        return pairs, *_given_range(golden)
    T, S = golden.stored("deployed", logits).shape
    start = golden.inputs.integers("start") if golden.op != "model" and golden.inputs.has("start") else np.zeros(T, int)
    return pairs, start, S - T + 1 + np.arange(T)


def _given_range(golden: Golden):
    return golden.inputs.integers("start"), golden.inputs.integers("end")


def must_and_must_not(scores: np.ndarray, bounds: np.ndarray, k: int):
    """Spec section 4. scores, bounds [n] -> must [n], must_not [n], bool

    must: fewer than k others could beat it (I_u + b_u >= I_s - b_s). must_not: at least k surely do
    (I_u - b_u > I_s + b_s).
    """
    with np.errstate(invalid="ignore"):
        high = np.where(np.isinf(scores), scores, scores + bounds)
        low = np.where(np.isinf(scores), scores, scores - bounds)
    n = len(scores)
    could = n - np.searchsorted(np.sort(high), low, side="left") - 1  # itself is always among them
    surely = n - np.searchsorted(np.sort(low), high, side="right")
    return could < k, surely >= k


def judge_selection(golden: Golden, name: str, array: np.ndarray, claims: tuple = ()) -> Verdict:
    """indices [..., k]: as a set of positions, by must / may / must-not; unused slots hold -1 at the end."""
    k = array.shape[-1]
    pairs, start, end = candidates_of(golden, name)
    want = golden.stored("deployed", name)
    verdict = Verdict(name, True, "")
    may = ties = 0
    overlap = []
    rows = array.reshape(-1, k)
    for t, row in enumerate(rows):
        n = max(0, int(end[t]) - int(start[t]))
        kept = min(k, n)

        def wrong(sentence):
            return Verdict(name, False, f"{name}, row {t}: {sentence}", np.inf, notes=verdict.notes, wrong_share=1.0)

        used = row[row != -1]
        if len(used) != kept or (row[kept:] != -1).any():
            return wrong(f"{kept} positions and then {k - kept} times -1 are needed ({n} candidates, k = {k}); "
                         f"there are {len(used)} that are not -1" + (", and -1 lies between them" if len(used) == kept else ""))  # fmt: skip
        outside = (used < start[t]) | (used >= end[t])
        if outside.any():
            return wrong(f"the position {used[outside][0]} is outside [{start[t]}, {end[t]}), the row's candidates "
                         f"({outside.sum()} such)")  # fmt: skip
        unique, counts = np.unique(used, return_counts=True)
        if len(unique) != kept:
            return wrong(f"the position {unique[counts > 1][0]} is selected {counts.max()} times")
        chosen = np.zeros(n, bool)
        chosen[used - start[t]] = True
        ambiguous = np.ones(n, bool)
        for scores, bounds in pairs:
            s, b = scores[t, start[t] : end[t]], bounds[t, start[t] : end[t]]
            must, must_not = must_and_must_not(s, b, k)
            ambiguous &= ~must & ~must_not
            for bad, text in ((must & ~chosen, "must be selected and is not"), (must_not & chosen, "must not be selected and is")):
                if bad.any():
                    i = int(np.argmax(bad))
                    threshold = np.sort(s)[::-1][min(k, n) - 1]
                    return wrong(f"position {i + start[t]}, score {s[i]:.8g}, {text}; the {min(k, n)}-th best score is "
                                 f"{threshold:.8g} ({bad.sum()} such positions)")  # fmt: skip
        may += int(ambiguous.sum())
        reference = want.reshape(-1, k)[t]
        shared = np.isin(used, reference).mean() if kept else 1.0
        overlap.append(shared)
        s = pairs[0][0][t, start[t] : end[t]]
        same_scores = np.array_equal(np.sort(s[chosen]), np.sort(s[reference[reference != -1] - start[t]]))
        ties += bool(shared < 1 and same_scores)
        if "canonical" in claims and not np.array_equal(row, reference):
            return wrong("the canonical selection was claimed (ties to the lower position, ascending order); it differs at "
                         f"slot {int(np.argmax(row != reference))}")  # fmt: skip
    if ties:
        verdict.notes.append(f"{ties} rows break ties other than towards the lower position")
    verdict.sentence = f"every must, no must-not; {may} positions were may; {100 * np.mean(overlap or [1.0]):.2f} % as the reference chose"
    return verdict


def _expert_scores(golden: Golden, name: str):
    scope = name.rsplit(".", 1)[0] + "." if "." in name else ""
    scores_name = "scores" if golden.op == "moe_gate" else scope + "gate_scores"
    scores = golden.deployed(scores_name)
    bound = golden.stored("deployed_bound", scores_name)
    bias = 0.0
    if golden.conventions["gate_bias"] and golden.op != "model" and golden.inputs.has("bias"):
        bias = dtypes.from_storage(golden.inputs.stored("bias"), golden.inputs.dtype("bias")).astype(np.float64)
        bias = bias[int(scope[6:-1])] if bias.ndim == 2 else bias  # layer_I.
    biased = scores + bias
    return biased, np.zeros(scores.shape) if bound is None else bound + 2.0**-23 * np.abs(biased)


def judge_experts(golden: Golden, name: str, array: np.ndarray) -> Verdict:
    """experts [T, E_a]: as a set; another set only where its scores, or its groups' scores, are too close to call."""
    want = golden.stored("deployed", name)
    scores, bounds = _expert_scores(golden, name)
    E = scores.shape[1]
    parameters = golden.case["parameters"]
    groups = parameters.get("groups", 8) if "config" not in parameters else parameters["config"].get("n_group", 1)
    verdict = Verdict(name, True, "")
    close = 0
    for t, (row, reference) in enumerate(zip(array, want)):
        if ((row < 0) | (row >= E)).any() or len(set(row.tolist())) != len(row):
            return Verdict(name, False, f"{name}, row {t}: {len(row)} different experts from 0 to {E - 1} are needed; it has {row.tolist()}", np.inf)
        extra, lost = np.setdiff1d(row, reference), np.setdiff1d(reference, row)
        if len(extra) == 0:
            continue
        by_group = np.sort(scores[t].reshape(groups, -1), axis=1)[:, ::-1][:, : 2 if golden.conventions["gate_bias"] else 1].sum(axis=1)
        slack = 4 * bounds[t].max()
        for e, l in zip(extra, lost):
            same_group = e * groups // E == l * groups // E
            near = abs(scores[t, e] - scores[t, l]) <= bounds[t, e] + bounds[t, l]
            near_group = not same_group and abs(by_group[e * groups // E] - by_group[l * groups // E]) <= slack
            if not (near or near_group):
                return Verdict(name, False, f"{name}, row {t}: expert {e}, score {scores[t, e]:.8g}, stands in place of expert {l}, "
                               f"score {scores[t, l]:.8g}", np.inf, wrong_share=1.0)  # fmt: skip
        close += 1
    verdict.sentence = f"the experts fit; {close} rows were too close to call"
    return verdict


def in_the_slots_of(golden: Golden, got: dict, name: str):
    """Expert weights moved to the slots in which the golden has the same experts, and the rows where that is possible."""
    ids = name.replace("expert_weights", "experts" if golden.op == "moe_gate" else "expert_ids")
    weights, want = got[name].copy(), golden.stored("deployed", ids)
    rows = np.ones(len(want), bool)
    if ids not in got or got[ids].shape != want.shape:
        return weights, rows
    for t in range(len(want)):
        slots = [np.flatnonzero(got[ids][t] == e) for e in want[t]]
        rows[t] = all(len(s) == 1 for s in slots)
        if rows[t]:
            weights[t] = got[name][t, np.concatenate(slots)]
    return weights, rows
