"""What the dataset fix came to: accuracy by training set, gains paired by seed, and how good the advice was."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from vrx.studies.diagnosis.causes import ERROR_CAUSES, UNSEEN

SETTINGS = ("base", "setting1", "setting2")
Run = Mapping[str, Any]


def accuracy(predictions: ArrayLike) -> float:
    """Share of right predictions among counts ``[n (true), P (pose), n (predicted)]``."""
    counts = np.asarray(predictions)
    return float(np.trace(counts.sum(1)) / counts.sum())


def gains(accuracies: Mapping[str, ArrayLike]) -> dict[str, float]:
    """Gains over the base, paired by seed, with 95 % t intervals, and a paired t-test of setting 1 against setting 2.

    ``accuracies``: of each of ``SETTINGS``, one per seed, in [0, 1].
    """
    values = {name: np.asarray(accuracies[name], float) for name in SETTINGS}
    found = {f"accuracy/{name}": float(v.mean()) for name, v in values.items()}
    for name in SETTINGS[1:]:
        gain = values[name] - values["base"]
        half, mean = float(stats.t.ppf(0.975, len(gain) - 1) * stats.sem(gain)), float(gain.mean())
        found |= {f"gain/{name}": mean, f"gain/{name}_low": mean - half, f"gain/{name}_high": mean + half}
    difference = values["setting1"] - values["setting2"]
    same = 1.0 if difference[0] == 0 else 0.0  # without spread the test has no scale
    spread = np.ptp(difference) > 0
    return found | {"gain/p_value": float(stats.ttest_1samp(difference, 0.0).pvalue) if spread else same}


def advice_scores(asked: set[tuple[int, str]], own: Sequence[str], poses: Sequence[str]) -> tuple[float, float]:
    """How good the recommended (label, pose) pairs are; ``own``: the one pose of each class in training.

    Returns:
        Precision: share of ``asked`` that is missing in training, NaN when nothing was asked. Recall: share of what is
        missing that was asked for.
    """
    missing = {(c, pose) for c, old in enumerate(own) for pose in poses if pose != old}
    hits = len(asked & missing)
    return hits / len(asked) if asked else math.nan, hits / len(missing) if missing else math.nan


def diagnosis_scores(errors: Sequence[Mapping[str, Any]], own: Sequence[str]) -> dict[str, float]:
    """Share of the errors in poses that training lacks, and in those that it has, that are diagnosed as unseen.

    ``unseen/missing_poses`` and ``unseen/old_poses``, in [0, 1]; without the one for which there is no error.
    """
    causes: dict[str, list[str]] = {"missing_poses": [], "old_poses": []}
    for error in errors:
        causes["old_poses" if error["pose"] == own[error["true"]] else "missing_poses"].append(error["cause"])
    return {f"unseen/{name}": some.count(UNSEEN) / len(some) for name, some in causes.items() if some}


def measured(runs: Sequence[Run], own: Sequence[str], poses: Sequence[str]) -> dict[str, float]:
    """All metrics of the study, from ``predictions``, ``errors`` and ``wanted`` of each seed."""
    metrics = gains({name: [accuracy(run["predictions"][name]) for run in runs] for name in SETTINGS})
    scores = np.array([advice_scores({(c, pose) for c, pose, _ in run["wanted"]}, own, poses) for run in runs])
    for name, values in zip(("advice/precision", "advice/recall"), scores.T, strict=True):
        if np.isfinite(values).any():
            metrics[name] = float(np.nanmean(values))
    metrics["errors/mean"] = float(np.mean([len(run["errors"]) for run in runs]))
    return metrics | diagnosis_scores([error for run in runs for error in run["errors"]], own)


def result_table(runs: Sequence[Run], class_names: Sequence[str]) -> list[dict[str, Any]]:
    """A row per seed: accuracy of each training set, causes of the errors, and what was added."""
    return [
        {
            "seed": run["seed"],
            **{name: accuracy(run["predictions"][name]) for name in SETTINGS},
            "errors": len(run["errors"]),
            **{cause: sum(e["cause"] == cause for e in run["errors"]) for cause in ERROR_CAUSES},
            "added": ", ".join(f"{n} {class_names[c]} in pose {pose}" for c, pose, n in run["wanted"]) or "none",
        }
        for run in runs
    ]
