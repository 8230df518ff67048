"""What a run measured, in plain words and as a chart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vrx.report.charts import bar_chart, plain
from vrx.report.good_values import SHARES, good_in_words

OURS = "VRX contributions"
CAPTION = (
    "The same question put to simpler scores, on the same patches. The ceiling is how far two ways of deleting a "
    "concept agree with each other."
)
BASELINES = {
    "spearman_gradact": "gradient × activation",
    "spearman_head_area": "classifier's last layer × area",
    "spearman_gradcam_sum": "Grad-CAM, sum",
    "spearman_gradcam_mean": "Grad-CAM, mean",
    "spearman_area": "patch area",
    "spearman_random": "random",
}


def findings(metrics: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """The key metrics in words, as (number, what it says, what is good); those that are missing are left out."""
    rows: list[tuple[str, str, str]] = []
    get = metrics.get
    if (clean := get("fidelity/agreement")) is not None:
        masked = get("fidelity/agreement_masked")
        also = "" if masked is None else f"; {masked:.1%} when a concept is deleted from the photo"
        text = f"of held-out photos get the same class from the graph network{also}."
        rows.append((f"{clean:.1%}", text, good_in_words("fidelity/agreement", metrics)))
    if (l1 := get("fidelity/l1")) is not None:
        masked = get("fidelity/l1_masked")
        also = "" if masked is None else f"; {masked:.3f} with a concept deleted"
        text = "is how far its class probabilities are from the classifier's (L1: 0 equal, 2 opposite)"
        rows.append((f"{l1:.3f}", f"{text}{also}.", good_in_words("fidelity/l1", metrics)))
    if (ours := get("faithfulness/spearman")) is not None:
        over = f" over {get('faithfulness/photos', 0):.0f} photos" if "faithfulness/photos" in metrics else ""
        baselines = {label: value for label, value in faithfulness(metrics).items() if label != OURS}
        best = max(baselines, key=lambda label: baselines[label], default=None)
        beside = "" if best is None else f"; the best simple score, {best}, reaches {plain(baselines[best])}"
        text = (
            f"is the mean rank agreement (Spearman){over} between the contributions of the concepts and how far the "
            f"classifier's margin falls when each is deleted{beside}."
        )
        rows.append((plain(ours), text, good_in_words("faithfulness/spearman", metrics)))
    return rows + _structure(metrics)


def _structure(metrics: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """The same of relations, of all sets of concepts, and of what is missing."""
    texts = {
        "relations/spearman": "is the mean rank agreement (Spearman) between what pairs of concepts are expected to "
        "count for together and what was measured.",
        "relations/deciding_first": "of held-out photos have the relation that decides their class as the strongest; a "
        "photo in which its two parts are not found counts as missed.",
        "surrogate/r2": "is the share of what deleting sets of concepts does to the classifier that the graph network "
        "foresees (R2; 1: all).",
        "surrogate/emd": "is how far the class probabilities of the graph network, the sum of all that a page shows, "
        "are from the classifier's (half their L1: 0 equal, 1 opposite).",
        "absence/spearman": "is the rank agreement (Spearman) between the expected and the measured gain of a class "
        "when a concept that is missing is put in.",
        "absence/confirmed": "of the panels “why not” name a reason that the classifier confirms.",
    }
    fine = {"surrogate/emd"}
    return [
        (
            f"{value:.0%}" if name in SHARES else f"{value:.3f}" if name in fine else plain(value),
            text,
            good_in_words(name, metrics),
        )
        for name, text in texts.items()
        if (value := metrics.get(name)) is not None
    ]


def faithfulness(metrics: Mapping[str, float]) -> dict[str, float]:
    """Mean Spearman with the measured effects by score: ours, then the baselines, best first; what was measured."""
    baselines = {label: metrics.get(f"faithfulness/{name}", math.nan) for name, label in BASELINES.items()}
    ranked = sorted(((label, v) for label, v in baselines.items() if math.isfinite(v)), key=lambda bar: -bar[1])
    ours = metrics.get("faithfulness/spearman", math.nan)
    return {OURS: ours, **dict(ranked)} if math.isfinite(ours) else {}


def faithfulness_chart(metrics: Mapping[str, float]) -> dict[str, Any] | None:
    """The same as bars, with the ceiling as a line; None when the run measured no faithfulness."""
    values = faithfulness(metrics)
    rows = {label: [("ours" if label == OURS else "other", value, "")] for label, value in values.items()}
    ceiling = ("ceiling", metrics.get("faithfulness/ceiling", math.nan))
    note = "mean rank agreement (Spearman) with the measured effects"
    return bar_chart("Do the contributions predict the effects?", note, rows, CAPTION, ceiling) if values else None
