"""Is the explanation the reason? Edit misclassified photos where it says, and elsewhere; predict again (4.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vrx.data.images import Photo
from vrx.errors import VRXError
from vrx.studies.core.context import StudyContext, at_least
from vrx.studies.core.exemplars import Donors
from vrx.studies.core.photos import predictions, rng_of, spaced
from vrx.studies.core.records import write_results
from vrx.studies.core.relations import sums
from vrx.studies.core.statistics import Share, mcnemar
from vrx.studies.logic_consistency.method import ARMS, GUIDED, Arms, noise_floor
from vrx.studies.logic_consistency.page import Record, save_arms, write_logic_consistency

AT_FAULT = ("concept", "structure", "both")
SAVED = 40  # errors, spaced evenly, of which the edited photos are saved for the page
COLUMNS = {
    "share": ("left", ""), "low": ("left", "_low"), "high": ("left", "_high"),
    "share without the noise floor": ("left_answer", ""), "share after all edits": ("left_all_tries", ""),
    "McNemar p": ("p_value", ""),
}  # fmt: skip
AFTER = {"noise": "corrected_after", "answer": "right_after", "all_tries": "right_after"}


@dataclass(frozen=True)
class LogicConsistency:
    """Table 1 of the paper: errors of the classifier before and after editing, by cause and by arm.

    Edits of a photo are made one after the other; the classifier is run after each, and the photo counts as corrected
    once the log-odds of its true class exceed the noise floor (the stopping rule of every arm).

    Raises:
        VRXError: a setting out of range.
    """

    split: str = "test"  # whose errors
    max_edits: int = 8  # N, edits per photo at most, in every arm
    max_photos: int | None = None  # errors studied, spaced evenly over the split; None: all
    examples: int = 6  # shown on the page
    quantile: float = 0.25  # of the right photos of the class, in (0, 1): concepts or structure below it are at fault
    beyond: float = 0.95  # quantile of what a paste alone moves the log-odds by, in (0, 1): the noise floor
    seed: int = 0  # of the random arms

    def __post_init__(self) -> None:
        at_least(self, max_edits=1, max_photos=1)
        for name, value in (("quantile", self.quantile), ("beyond", self.beyond)):
            if not 0 < value < 1:
                raise VRXError(f"study.{name}={value} is out of range: use a share in (0, 1).")

    def __call__(self, context: StudyContext) -> dict[str, float]:
        """Run the study, or go on with it."""
        records = context.records(max_edits=self.max_edits)
        photos = context.source.photos(self.split)
        predicted = predictions(context.explainer, context.source, photos, records)
        if not predicted:
            raise VRXError(f"None of the {len(photos)} {self.split} photos could be read: check the run's data.")
        errors = [photo for photo, label in predicted if label != photo.label]
        chosen, floor = spaced(errors, self.max_photos), 0.0
        if chosen:
            donors = Donors(context, records)
            floor = noise_floor(context.explainer, donors, records, self.beyond)
            saved = set(spaced(chosen, SAVED))
            for photo in tqdm(chosen, desc="editing errors", unit="photo"):
                if photo.path not in records:
                    records.add(photo.path, self._edited(context, donors, photo, floor, photo in saved))
        found = {photo.path: records[photo.path] for photo in chosen}
        rows = list(found.values())
        metrics = {"photos/total": float(len(predicted)), "errors/all": float(len(errors)), "noise_floor": floor}
        metrics |= summary(rows, self.max_edits)
        table = table_1(rows, metrics, self.max_edits)
        write_results(context.folder, table, metrics)
        write_logic_consistency(context, found, metrics, table, self.max_edits, self.examples)
        return metrics

    def _edited(self, context: StudyContext, donors: Donors, photo: Photo, floor: float, save: bool) -> dict[str, Any]:
        """The edits of every arm on one photo, and the predictions after each."""
        explainer, true = context.explainer, photo.label
        names = explainer.bank.class_names
        explanation = explainer.explain_input(explainer.read(context.source.read(photo)), true_class=true)
        rng = rng_of(photo, self.seed)
        arms = Arms(explainer, donors, explanation, true, self.max_edits, floor, rng).run()
        if save:
            save_arms(context.folder, photo.path, explainer, explanation, arms)
        return {
            "true": names[true],
            "predicted": names[explanation.predicted],
            "cause": at_fault(sums(explanation, true), donors.class_sums(true), self.quantile),
            "agrees": bool(explanation.grn_logits.argmax() == explanation.predicted),
            "arms": {name: arm.record(names) for name, arm in arms.items()},
        }


def at_fault(found: tuple[float, float], right: NDArray[np.float64], quantile: float) -> str:
    """The cause rule: which contributions to the true class fall short of what they are in right photos.

    Args:
        found: :func:`~vrx.studies.core.relations.sums` of the true class in this photo: concepts, relations.
        right: the same in discovery photos of the class that the classifier gets right, ``[M, 2]``.
        quantile: of the right photos: parts below it are at fault; when neither is, the one with the lower rank.

    Returns:
        ``concept`` (also when they tie), ``structure`` or ``both`` (also when there are no right photos).
    """
    concept, structure = (right < found).mean(0) if len(right) else (0.0, 0.0)
    if concept < quantile and structure < quantile:
        return "both"
    return "structure" if structure < concept else "concept"


def corrected(record: Record, arm: str, budget: int, rule: str = "noise") -> bool:
    """Whether an arm had corrected the prediction of one error with at most ``budget`` edits, by a rule.

    ``noise``: right by more than a paste alone can move, with no more edits than its guided arm made; ``answer``: the
    prediction is right, with no more edits than its guided arm needed for that; ``all_tries``: however many it made.
    """
    arms = record["arms"]
    after: int | None = arms[arm][AFTER[rule]]
    leader = arms[GUIDED.get(arm, "vrx_guided")]
    made = leader[AFTER[rule]] or len(leader["edits"])
    return after is not None and after <= (budget if rule == "all_tries" else min(budget, made))


def left(records: Sequence[Record], arm: str, budget: int, rule: str = "noise") -> Share:
    """Share of the errors that are not corrected after at most ``budget`` edits; see :func:`corrected`."""
    return Share.of(not corrected(r, arm, budget, rule) for r in records)


def summary(records: Sequence[Record], max_edits: int) -> dict[str, float]:
    """The metrics of the study: errors, what each arm leaves (with intervals), McNemar against the guided arm.

    The guided arm of structure is tested against that of content.
    """
    metrics = {"errors/total": float(len(records))}
    for name in AT_FAULT:
        metrics[f"errors/{name}"] = float(sum(r["cause"] == name for r in records))
    if not records:
        return metrics
    areas = [[edit["area"] for edit in r["arms"]["vrx_guided"]["edits"]] for r in records]
    metrics["errors/without_concept"] = float(sum(not some for some in areas))
    metrics["errors/grn_agrees"] = float(np.mean([r["agrees"] for r in records]))
    metrics["edits/mean"] = float(np.mean([len(some) for some in areas]))
    metrics["edits/area"] = float(np.mean([sum(some) for some in areas]))
    content, structure = (np.array([corrected(r, a, max_edits) for r in records]) for a in ("vrx_guided", "structure"))
    metrics["errors/with_structure"] = float(sum(bool(r["arms"]["structure"]["edits"]) for r in records))
    metrics["corrected/content"], metrics["corrected/structure"] = float(content.sum()), float(structure.sum())
    metrics["corrected/structure_alone"] = float((structure & ~content).sum())
    for arm in ARMS:
        metrics |= left(records, arm, max_edits).metrics(f"left/{arm}")
        for budget in range(1, max_edits + 1):
            metrics[f"left/{arm}_{budget}"] = left(records, arm, budget).value
        for rule in ("answer", "all_tries"):
            metrics |= left(records, arm, max_edits, rule).metrics(f"left_{rule}/{arm}")
        edited = [r["arms"][arm] for r in records if r["arms"][arm]["edits"]]
        if edited:
            metrics[f"margin_gain/{arm}"] = float(np.mean([a["margins"][1] - a["margins"][0] for a in edited]))
            metrics[f"area/{arm}"] = float(np.mean([edit["area"] for a in edited for edit in a["edits"]]))
        if arm != "vrx_guided":
            both = (GUIDED[arm] if arm == "structure_random" else "vrx_guided", arm)
            metrics[f"p_value/{arm}"] = mcnemar(*([corrected(r, one, max_edits) for r in records] for one in both))
    return metrics


def table_1(records: Sequence[Record], metrics: Mapping[str, float], max_edits: int) -> list[dict[str, Any]]:
    """The paper's table 1: one row before, one per arm; errors in total and by cause."""
    by_cause = {name: [r for r in records if r["cause"] == name] for name in AT_FAULT}
    before = {c: len(rs) for c, rs in by_cause.items()}
    rows: list[dict[str, Any]] = [{"": "before editing", "errors not corrected": len(records), **before}]
    for arm, words in ARMS.items():
        counts = {c: left(rs, arm, max_edits).count for c, rs in by_cause.items()}
        shown = {title: metrics.get(f"{name}/{arm}{end}") for title, (name, end) in COLUMNS.items()}
        rows.append({"": words, "errors not corrected": sum(counts.values()), **counts, **shown})
    return rows
