"""Is the explanation the reason? Edit wrongly classified photos where it says, and elsewhere; ask F again (4.2)."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from vrx.data.images import Photo
from vrx.errors import VRXError
from vrx.explain.explainer import Explainer
from vrx.structures import Explanation
from vrx.studies.core.context import StudyContext
from vrx.studies.core.exemplars import Donors, sums
from vrx.studies.core.predictions import predictions
from vrx.studies.core.records import Records, write_results
from vrx.studies.core.statistics import Share, mcnemar
from vrx.studies.logic_consistency.method import ARMS, Plan, VRXGuided, controls, noise_floor
from vrx.studies.logic_consistency.page import corrections_page, strip

log = logging.getLogger(__name__)

CAUSES = ("concept", "structure", "both")
KEPT_PICTURES = 40  # errors, spread over all, of which the edited photos are kept


class LogicConsistency:
    """Table 1 of the paper: errors of F before and after editing, by cause and by arm.

    An edit replaces or deletes the pixels of one patch. Edits of a photo are made one after the other; F is asked
    after each, and the photo counts as corrected once F's log-odds for its true class exceed the noise floor (the
    stopping rule, of every arm alike). Every arm has as many edits as the guided one made; the area of its i-th edit
    is that of the i-th guided one.

    Args:
        split: whose errors.
        max_edits: N, edits a photo at most, in every arm.
        max_photos: errors looked at, spread evenly over the split; None: all.
        examples: shown on the page.
        quantile: of the right photos of the class, in (0, 1): the contributions of the concepts (structure) of the
            true class are at fault when their sum lies below it.
        beyond: quantile of what a paste alone moves F's log-odds by, in (0, 1): the noise floor.
        seed: of the random arms.

    Raises:
        VRXError: a setting out of range.
    """

    def __init__(
        self,
        split: str = "test",
        max_edits: int = 8,
        max_photos: int | None = None,
        examples: int = 6,
        quantile: float = 0.25,
        beyond: float = 0.95,
        seed: int = 0,
    ) -> None:
        if max_edits < 1 or (max_photos is not None and max_photos < 1):
            raise VRXError(f"study.max_edits={max_edits} and study.max_photos={max_photos} must be at least 1.")
        for name, value in (("quantile", quantile), ("beyond", beyond)):
            if not 0 < value < 1:
                raise VRXError(f"study.{name}={value} is out of range: use a share in (0, 1).")
        self.split, self.max_edits, self.max_photos = split, max_edits, max_photos
        self.examples, self.quantile, self.beyond, self.seed = examples, quantile, beyond, seed

    def __call__(self, context: StudyContext) -> dict[str, float]:
        """Run the study, or go on with it."""
        explainer = context.explainer
        records = Records(context.folder / "records.jsonl", context.key(max_edits=self.max_edits))
        photos, errors = self._errors(explainer, context, records)
        chosen = spread_evenly(errors, self.max_photos)
        donors = Donors(explainer, context.source, records) if chosen else None
        floor = noise_floor(explainer, donors, context.explainer.editor, records, self.beyond) if donors else 0.0
        apart = -(-len(chosen) // KEPT_PICTURES)
        for number, photo in enumerate(tqdm(chosen, desc="editing errors", unit="photo")):
            if photo.path not in records:
                assert donors is not None
                record = self._study(explainer, donors, context, photo, floor, number % apart == 0)
                records.add(photo.path, record)
        found = [records[photo.path] for photo in chosen]
        metrics = {"photos/total": float(photos), "errors/all": float(len(errors)), "noise_floor": floor}
        metrics |= summary(found, self.max_edits)
        rows, names = table(found, self.max_edits), [photo.path for photo in chosen]
        write_results(context.folder, rows, metrics)
        corrections_page(context, found, metrics, rows, self.max_edits, names, self.examples)
        return metrics

    def _errors(self, explainer: Explainer, context: StudyContext, records: Records) -> tuple[int, list[Photo]]:
        """How many photos F was asked about, and those it gets wrong."""
        photos = context.source.photos(self.split)
        asked = [
            (photo, int(logits.argmax())) for photo, logits in predictions(explainer, context.source, photos, records)
        ]
        if not asked:
            raise VRXError(f"None of the {len(photos)} {self.split} photos could be read: check the run's data.")
        return len(asked), [photo for photo, answer in asked if answer != photo.label]

    def _study(
        self, explainer: Explainer, donors: Donors, context: StudyContext, photo: Photo, floor: float, keep: bool
    ) -> dict[str, Any]:
        """Every arm's edits of one photo and what F answered."""
        view = explainer.explain_input(explainer.read(context.source.read(photo)))
        true, names = photo.label, context.explainer.bank.class_names
        plan = Plan(explainer, donors, context.explainer.editor, true, self.max_edits, floor)
        guided = VRXGuided(plan).run(view)
        rng = np.random.default_rng([self.seed, zlib.crc32(photo.path.rsplit("/", 1)[-1].encode())])
        arms = {"vrx_guided": guided} | controls(plan, view, guided, rng)
        if keep:
            strip(context.folder, photo.path, explainer, view, arms)
        return {
            "true": names[true],
            "predicted": names[view.predicted],
            "probabilities": view.probabilities,
            "cause": self._cause(view, true, donors),
            "detected_true": int(view.detected[true].sum()),
            "missing": int((context.explainer.bank.present[true] & ~view.detected[true]).sum()),
            "agrees": bool(view.grn_logits.argmax() == view.predicted),
            "arms": {name: arm.record(names) for name, arm in arms.items()},
        }

    def _cause(self, view: Explanation, true: int, donors: Donors) -> str:
        norm = donors.norm(true)
        return cause(sums(view, true), (norm.nodes, norm.links), self.quantile)


def cause(found: tuple[float, float], right: tuple[np.ndarray, np.ndarray], quantile: float) -> str:
    """The cause rule: which part of the true class' own graph falls short of what it is in right photos.

    Args:
        found: summed contributions of nodes and of edges of the true class' graph to the true class, in this photo.
        right: the same in discovery photos of the class that F gets right, ``[M]`` each.
        quantile: a part is at fault below this quantile of the right photos.

    Returns:
        ``concept``, ``structure`` or ``both``. When neither is below, the part with the lower rank among the right
        photos is named (concept when they tie, or when there are no right photos).
    """
    ranks = [float((values < value).mean()) if len(values) else 0.0 for value, values in zip(found, right, strict=True)]
    low = [rank < quantile for rank in ranks]
    if low[0] == low[1]:
        return "both" if low[0] else ("structure" if ranks[1] < ranks[0] else "concept")
    return "concept" if low[0] else "structure"


def spread_evenly(photos: Sequence[Photo], count: int | None) -> list[Photo]:
    """``count`` photos at even distances, so that no class is left out; all when there are fewer, or for None."""
    if count is None or len(photos) <= count:
        return list(photos)
    return [photos[i] for i in np.linspace(0, len(photos) - 1, count).round().astype(int)]


AFTER = {"noise": "corrected_after", "answer": "answered_after", "all_tries": "answered_after"}


def corrected(record: Mapping[str, Any], arm: str, budget: int, rule: str = "noise") -> bool:
    """Whether an arm had corrected F with at most ``budget`` edits.

    Args:
        record: of one error.
        arm: of :data:`vrx.studies.logic_consistency.method.ARMS`.
        budget: edits allowed.
        rule: ``noise``: F is right by more than a paste alone can move, with no more edits than the guided arm made;
            ``answer``: F's answer is right, with no more edits than the guided arm needed for that;
            ``all_tries``: F's answer was right after any edit, however many the guided arm made.
    """
    arms = record["arms"]
    after: int | None = arms[arm][AFTER[rule]]
    made = arms["vrx_guided"][AFTER[rule]] or len(arms["vrx_guided"]["edits"])
    return after is not None and after <= (budget if rule == "all_tries" else min(budget, made))


def left(records: Sequence[Mapping[str, Any]], arm: str, budget: int, rule: str = "noise") -> Share:
    """Share of the errors that are still errors after at most ``budget`` edits; see :func:`corrected`."""
    return Share(sum(not corrected(r, arm, budget, rule) for r in records), len(records))


def summary(records: Sequence[Mapping[str, Any]], max_edits: int) -> dict[str, float]:
    """The metrics of the study: errors, what each arm leaves (with intervals), McNemar against the guided arm."""
    metrics = {"errors/total": float(len(records))}
    for name in CAUSES:
        metrics[f"errors/{name}"] = float(sum(r["cause"] == name for r in records))
    if not records:
        return metrics
    metrics["errors/with_missing_concepts"] = float(np.mean([r["missing"] > 0 for r in records]))
    metrics["errors/without_concept"] = float(sum(not r["arms"]["vrx_guided"]["edits"] for r in records))
    metrics["errors/grn_agrees"] = float(np.mean([r["agrees"] for r in records]))
    guided = [corrected(r, "vrx_guided", max_edits) for r in records]
    for arm in ARMS:
        metrics |= left(records, arm, max_edits).metrics(f"left/{arm}")
        for budget in range(1, max_edits + 1):
            metrics[f"left/{arm}_{budget}"] = left(records, arm, budget).value
        for rule in ("answer", "all_tries"):
            metrics |= left(records, arm, max_edits, rule).metrics(f"left_{rule}/{arm}")
        margins = [r["arms"][arm]["margins"] for r in records if len(r["arms"][arm]["margins"]) > 1]
        if margins:
            metrics[f"margin_gain/{arm}"] = float(np.mean([m[1] - m[0] for m in margins]))
            edits = [e["area"] for r in records for e in r["arms"][arm]["edits"]]
            metrics[f"area/{arm}"] = float(np.mean(edits))
        if arm != "vrx_guided":
            metrics[f"p_value/{arm}"] = mcnemar(guided, [corrected(r, arm, max_edits) for r in records])
    areas = [sum(e["area"] for e in r["arms"]["vrx_guided"]["edits"]) for r in records]
    metrics["edits/mean"] = float(np.mean([len(r["arms"]["vrx_guided"]["edits"]) for r in records]))
    metrics["edits/area"] = float(np.mean(areas))
    return metrics


def table(records: Sequence[Mapping[str, Any]], max_edits: int) -> list[dict[str, Any]]:
    """The paper's table 1: one row before, one an arm; errors in total and by cause."""
    by_cause = {name: [r for r in records if r["cause"] == name] for name in CAUSES}
    rows: list[dict[str, Any]] = [
        {"": "before correction", "errors left": len(records), **{c: len(rs) for c, rs in by_cause.items()}}
    ]
    guided = [corrected(r, "vrx_guided", max_edits) for r in records]
    for arm, words in ARMS.items():
        share = left(records, arm, max_edits)
        low, high = share.interval
        row: dict[str, Any] = {"": words, "errors left": share.count}
        row |= {c: left(rs, arm, max_edits).count for c, rs in by_cause.items()}
        row |= {"share left": share.value, "low": low, "high": high}
        row["left by F's answer alone"] = left(records, arm, max_edits, "answer").value
        row["with all tries"] = left(records, arm, max_edits, "all_tries").value
        if arm != "vrx_guided":
            row["McNemar p"] = mcnemar(guided, [corrected(r, arm, max_edits) for r in records])
        rows.append(row)
    return rows
