"""What a run measured, in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping

BASELINE_LABELS = {
    "spearman": "VRX contributions",
    "spearman_gradact": "gradient × activation",
    "spearman_head_area": "F's head × area",
    "spearman_gradcam_sum": "Grad-CAM, sum",
    "spearman_gradcam_mean": "Grad-CAM, mean",
    "spearman_area": "patch area",
    "spearman_random": "random",
}


def findings(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """The key metrics in words, as (number, what it says); those that are missing are left out."""
    rows: list[tuple[str, str]] = []
    get = metrics.get
    if (clean := get("fidelity/agreement")) is not None:
        masked = get("fidelity/agreement_masked")
        also = "" if masked is None else f"; {masked:.1%} when a concept is edited out of the photo"
        rows.append((f"{clean:.1%}", f"of held-out photos get the same class from the graph network as from F{also}."))
    if (l1 := get("fidelity/l1")) is not None:
        masked = get("fidelity/l1_masked")
        also = "" if masked is None else f"; {masked:.3f} on edited photos"
        rows.append((f"{l1:.3f}", f"is how far its class probabilities are from F's (L1: 0 equal, 2 opposite){also}."))
    if (ours := get("faithfulness/spearman")) is not None:
        photos = get("faithfulness/photos")
        over = "" if photos is None else f" over {photos:.0f} photos"
        text = (
            f"is the mean rank agreement (Spearman){over} between what the explanation says a concept contributes and "
            f"how far F's margin falls when that concept is edited away{_best_baseline(metrics)}."
        )
        rows.append((plain(ours), text))
    return rows


def _best_baseline(metrics: Mapping[str, float]) -> str:
    names = {f"faithfulness/{name}": label for name, label in BASELINE_LABELS.items() if name != "spearman"}
    measured = [(metrics[name], label) for name, label in names.items() if name in metrics]
    return f"; the best simple score, {max(measured)[1]}, reaches {plain(max(measured)[0])}" if measured else ""


def bars_text(metrics: Mapping[str, float]) -> str:
    """The chart of the baselines in words, for those who cannot see it."""
    values = {k.removeprefix("faithfulness/"): v for k, v in metrics.items() if k.startswith("faithfulness/")}
    named = [(name.removeprefix("spearman_"), v) for name, v in values.items() if name.startswith("spearman")]
    text = ", ".join(f"{name} {plain(v)}" for name, v in named)
    return f"Mean Spearman with the measured effects: {text}; ceiling {plain(values.get('ceiling', math.nan))}."


def plain(value: float) -> str:
    """Two decimals with a true minus sign."""
    return f"{value:.2f}".replace("-", "−") if math.isfinite(value) else "not measured"
