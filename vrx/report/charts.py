"""Charts of a page as values that its template draws: bars in a table, a scatter of effects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from vrx.scores import rank_agreement


@dataclass(frozen=True)
class Kind:
    """What a scatter of expected against measured effects is of, in words: title, what is counted, both axes."""

    title: str
    things: str
    expected: str
    measured: str


CONCEPTS = Kind(
    "Contribution against measured effect",
    "concepts",
    "contribution by the graph network (logits)",
    "measured fall of the classifier's margin",
)
RELATIONS = Kind(
    "Relations: expected against measured",
    "pairs",
    "interaction by the graph network (logits)",
    "measured interaction",
)
MISSING = Kind(
    "What is missing: expected against measured",
    "changes",
    "gain that the graph network expects",
    "measured gain of the classifier's margin",
)


def plain(value: float) -> str:
    """Two decimals with a true minus sign."""
    return f"{value:.2f}".replace("-", "−") if math.isfinite(value) else "not measured"


def bar_chart(
    title: str,
    note: str,
    rows: Mapping[str, Sequence[tuple[str, float, str]]],
    caption: str,
    line: tuple[str, float] | None = None,
    legend: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Horizontal bars from zero on.

    Args:
        rows: label -> bars: the kind that the style colours, the value, and what stands where it is not finite.
        line: a dashed line across all bars: its label and value.
    """
    values = [value for bars in rows.values() for _, value, _ in bars if math.isfinite(value)]
    values += [line[1]] if line is not None and math.isfinite(line[1]) else []
    low, high = min(0.0, *values, 0.0), max(0.0, *values, 1e-9)

    def at(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    def bar(kind: str, value: float, missing: str) -> dict[str, Any]:
        if not math.isfinite(value):
            return {"kind": kind, "left": at(0), "width": 0, "text": missing}
        return {"kind": kind, "left": at(min(0, value)), "width": round(at(abs(value) + low), 2), "text": plain(value)}

    drawn = [(label, [bar(*some) for some in bars]) for label, bars in rows.items()]
    marked = None if line is None or not math.isfinite(line[1]) else (f"{line[0]} {plain(line[1])}", at(line[1]))
    return {"title": title, "note": note, "rows": drawn, "caption": caption, "line": marked, "legend": list(legend)}


def scatter(expected: ArrayLike, measured: ArrayLike, kind: Kind, caption: str) -> dict[str, Any]:
    """What the graph network expects against what was measured, ``[M]`` in logits; only pairs that are both finite."""
    x, y = np.asarray(expected, float), np.asarray(measured, float)
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    note, rank = f"{len(x)} {kind.things}", rank_agreement(x, y)
    note += f", same sign {(np.sign(x) == np.sign(y)).mean():.0%}" if len(x) else ""
    note += f", Spearman over all {rank:.2f}".replace("-", "−") if math.isfinite(rank) else ""
    wide, high = (1.08 * float(np.abs(v).max(initial=0)) or 1.0 for v in (x, y))
    points = np.round(100 * np.stack([x / wide, -y / high], 1), 1).tolist()
    ends = f"±{plain(wide)}", f"±{plain(high)}"
    return {"title": kind.title, "note": note, "kind": kind, "points": points, "ends": ends, "caption": caption}
