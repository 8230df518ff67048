"""The numbers of a run that matter: what is good, and what each says. docs/metrics.md has the same table."""

from __future__ import annotations

import math
from collections.abc import Mapping

from vrx.report.charts import plain

# metric -> (at least or at most, the bound: a number, or the metric that is the ceiling; what it says)
GOOD: dict[str, tuple[str, float | str, str]] = {
    "fidelity/agreement": ("≥", 0.98, "photos to which the graph network gives the classifier's class"),
    "fidelity/agreement_masked": ("≥", 0.95, "the same with a concept deleted from the photo"),
    "fidelity/l1": ("≤", 0.05, "how far its probabilities are from the classifier's (0 to 2)"),
    "faithfulness/spearman": ("→", "faithfulness/ceiling", "contributions rank concepts as deleting them does"),
    "surrogate/r2": ("≥", 0.85, "what deleting sets of concepts does is foreseen (share of the variance)"),
    "concepts/significant": ("≥", 0.95, "concepts that the classifier needs more than a random place"),
    "completeness/deletion": ("≥", 0.95, "the margin that goes with all found concepts"),
    "stability/top_concept": ("≥", 0.90, "same first concept after a change that nobody sees"),
    "relations/spearman": ("→", "relations/ceiling", "pairs count together as expected"),
    "relations/deciding_first": ("≥", 0.95, "the relation that decides the class is the strongest"),
    "surrogate/emd": ("≤", 0.03, "how far the sum of all that a page shows is from the classifier (0 to 1)"),
    "absence/spearman": ("≥", 0.60, "gains of missing concepts are ranked as expected"),
    "absence/confirmed": ("≥", 0.95, "panels “why not” with a reason that the classifier confirms"),
}
SHARES = ("fidelity/agreement", "relations/deciding_first", "absence/confirmed")  # of photos or panels: as per cent


def good(name: str, metrics: Mapping[str, float]) -> str:
    """What is good for a metric, in words: ``≥ 0.98``, ``→ 0.825``; empty where its ceiling was not measured."""
    sign, bound, _ = GOOD[name]
    value = metrics.get(bound, math.nan) if isinstance(bound, str) else bound
    if not math.isfinite(value):
        return ""
    return f"{sign} {value:.3f}" if isinstance(bound, str) else f"{sign} {value:g}"


def good_in_words(name: str, metrics: Mapping[str, float]) -> str:
    """The same for a page: ``98% or more``, ``close to .825, as far as two ways of deleting a concept agree``."""
    sign, bound, _ = GOOD[name]
    if isinstance(bound, str):
        value = metrics.get(bound, math.nan)
        known = f"close to {plain(value)}, as far as two ways of deleting a concept agree"
        return known if math.isfinite(value) else "0.7 or more; 0 is chance"
    return f"{bound:.0%} or more" if name in SHARES else f"{bound:g} or {'more' if sign == '≥' else 'less'}"


def summary(metrics: Mapping[str, float]) -> str:
    """The table with which a run ends: name, value, what is good, what it says; without what was not measured."""
    rows = [
        (name, f"{metrics[name]:.3f}", good(name, metrics), text)
        for name, (_, _, text) in GOOD.items()
        if math.isfinite(metrics.get(name, math.nan))
    ]
    rows.insert(0, ("of test photos", "value", "good", "(→: the most that can be expected)"))
    return "\n".join(f"{name:<26}{value:>6}  {bound:<9}{text}" for name, value, bound, text in rows)
