"""Does the explanation notice which concept was made worse, and which was moved? (4.3, figure 7)"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vrx.data.images import Photo
from vrx.data.sources import CanRender
from vrx.errors import VRXError
from vrx.explanation import NO_RELATION, Explanation
from vrx.studies.core.context import StudyContext, at_least
from vrx.studies.core.exemplars import Donors
from vrx.studies.core.page import save_edited
from vrx.studies.core.photos import predictions, rng_of
from vrx.studies.core.records import Records, write_results
from vrx.studies.core.relations import READINGS, by_concept
from vrx.studies.core.statistics import Share, above_chance, correlation, log_odds
from vrx.studies.sensitivity.method import ConceptEditor, EditedPhoto, PastedEdits, RenderedEdits, partners
from vrx.studies.sensitivity.page import KINDS, SAVED, Record, write_sensitivity


@dataclass(frozen=True)
class Sensitivity:
    """Edits one concept at a time in photos that are classified right; does the explanation say which one it was?

    An edit counts when the classifier notices it, which is decided by the classifier alone, before the edit is
    explained; edits are tried in random order. The patches keep their concepts (:meth:`Explainer.follow`): the question
    is whether the contributions move, not whether the concept is detected again. An edit counts as found when, of all
    detected concepts of the class, an edited one has the largest fall of what the GRN says of it: of its own
    contribution (appearance), of that and its relations (structure, ``KINDS``). Of a moved concept the explanation of
    the photo before the move says, too, because of which other concept its place counts (*partner*): that is compared
    with what the classifier loses by the move with each other concept there and deleted.

    Raises:
        VRXError: a setting out of range.
    """

    split: str = "test"  # whose photos
    max_edits: int = 200  # of each kind
    min_detected: int = 3  # concepts of its own class that a photo must show
    least_fall: float = 0.5  # of the log-odds of the class, from which on the classifier notices an edit
    tries: int = 8  # edits of a kind tried per photo at most
    rendered: bool | None = None  # edits are rendered; None: where the source of the photos can
    examples: int = 2  # of each kind on the page
    seed: int = 0  # which concept is edited, and where to it moves

    def __post_init__(self) -> None:
        at_least(self, max_edits=1, tries=1, min_detected=2)

    def __call__(self, context: StudyContext) -> dict[str, float]:
        """Run the study, or go on with it."""
        num = context.explainer.bank.num_concepts
        if num < self.min_detected:
            raise VRXError(
                f"The run has {num} concepts per class, study.min_detected={self.min_detected} are needed: lower it, "
                f"or train with concepts.num_concepts={self.min_detected} or more."
            )
        records = context.records()
        editor = self._editor(context, records)
        found: dict[str, list[Record]] = {kind: [] for kind in KINDS}
        tried = dict.fromkeys(KINDS, 0)
        photos = self._right(context, records)
        with tqdm(total=len(KINDS) * min(self.max_edits, len(photos)), desc="editing concepts", unit="edit") as bar:
            for photo in photos:
                if all(len(done) >= self.max_edits for done in found.values()):
                    break
                for kind, record in self._edits(context, editor, records, photo).items():
                    if len(found[kind]) < self.max_edits:
                        tried[kind] += record["tried"]
                        found[kind] += [record] if "concepts" in record else []
                        bar.update("concepts" in record)
        metrics = summary(found)
        metrics |= {f"noticed/{kind}": len(found[kind]) / tried[kind] for kind in KINDS if tried[kind]}
        write_results(context.folder, [row(kind, r) for kind in KINDS for r in found[kind]], metrics)
        write_sensitivity(context, found, metrics, self.examples)
        return metrics

    def _editor(self, context: StudyContext, records: Records) -> ConceptEditor:
        if self.rendered is not False and isinstance(context.source, CanRender):
            return RenderedEdits(context.explainer, context.source)
        if self.rendered:
            raise VRXError("study.rendered=true needs photos that can be rendered, as toy_vehicles: set it to null.")
        return PastedEdits(context.explainer.editor, Donors(context, records))

    def _right(self, context: StudyContext, records: Records) -> list[Photo]:
        """Photos that are classified right, the classes taking turns."""
        predicted = predictions(context.explainer, context.source, context.source.photos(self.split), records)
        by_class: dict[int, list[Photo]] = {}
        for photo in sorted((p for p, label in predicted if label == p.label), key=lambda p: p.label):
            by_class.setdefault(photo.label, []).append(photo)
        return [photo for turn in itertools.zip_longest(*by_class.values()) for photo in turn if photo is not None]

    def _edits(self, context: StudyContext, editor: ConceptEditor, records: Records, photo: Photo) -> dict[str, Record]:
        """Both kinds of edit of one photo; no concepts where the photo offers none that is noticed."""
        names = {kind: f"{kind} {photo.path}" for kind in KINDS}
        if any(name not in records for name in names.values()):
            explainer, own = context.explainer, photo.label
            x = explainer.read(context.source.read(photo))
            before = explainer.explain_input(x, relations=False, true_class=own)
            enough = before.detected[own].sum() >= self.min_detected
            before = explainer.follow(before, x) if enough else before
            for number, (kind, name) in enumerate(names.items()):
                offered = getattr(editor, kind)(photo, before, rng_of(photo, self.seed, number)) if enough else ()
                found: dict[str, Any] = {"tried": 0}
                for edited in itertools.islice(offered, self.tries):
                    found["tried"] += 1
                    margin = log_odds(explainer.logits(edited.x[None])[0])[own]
                    if before.margin(own) - margin >= self.least_fall:
                        after = explainer.follow(before, edited.x, edited.moved)
                        found |= measured(photo, before, after, edited) | partners(explainer, before, edited, own)
                        if len(list(context.folder.glob(f"edited/{kind}_*.png"))) < SAVED:
                            save_edited(context.folder, kind, photo.path, [before.image, after.image])
                        break
                records.add(name, found)
        return {kind: records[name] for kind, name in names.items()}


def measured(photo: Photo, before: Explanation, after: Explanation, edited: EditedPhoto) -> dict[str, Any]:
    """What one edit did to the classifier, to the GRN and to what it says of the concepts of the true class."""
    own, both = photo.label, (before, after)
    return {
        "name": photo.path,
        "label": own,
        "what": edited.what,
        "concepts": edited.concepts,
        "detected": np.flatnonzero(before.detected[own]),
        **{name: [by_concept(e, own)[name] for e in both] for name in READINGS},
        "centroids": [e.centroids[own] for e in both],
        "probability": [e.probabilities[own] for e in both],
        "margin": [e.margin(own) for e in both],
        "grn_margin": [log_odds(e.grn_logits)[own] for e in both],
    }


def falls(record: Record, of: str) -> NDArray[np.float64]:
    """How far a number fell from before to after the edit: of ``READINGS``, of each concept ``[N]``, or a margin."""
    before, after = np.array(record[of], float)
    return np.asarray(before - after)


def is_found(record: Record, of: str) -> bool:
    """Whether an edited concept has the largest fall of all detected ones; where nothing falls, nothing is found."""
    detected = np.array(record["detected"])
    fallen = falls(record, of)[detected]
    return bool(fallen.max() > 0) and int(detected[int(fallen.argmax())]) in record["concepts"]


def chance(record: Record) -> float:
    """Share of the detected concepts that were edited: how often a blind guess is right."""
    return len(record["concepts"]) / len(record["detected"])


def summary(records: Mapping[str, Sequence[Record]]) -> dict[str, float]:
    """The metrics of the study: found, chance, correlation with the classifier, falls of edited and other concepts."""
    metrics: dict[str, float] = {}
    for kind, of in KINDS.items():
        rows = records[kind]
        metrics[f"edits/{kind}"] = float(len(rows))
        if not rows:
            continue
        asked = [r["partners"] for r in rows if "partners" in r and max(r["partners"][1]) >= NO_RELATION]
        for start, name, hits, chances in (
            ("", "found", [is_found(r, of) for r in rows], [chance(r) for r in rows]),
            ("partner_", "partner", [np.argmax(p) == np.argmax(m) for p, m in asked], [1 / len(p) for p, _ in asked]),
        ):
            if hits:
                metrics |= Share.of(map(bool, hits)).metrics(f"{name}/{kind}")
                metrics[f"{start}chance/{kind}"] = float(np.mean(chances))
                metrics[f"{start}p_value/{kind}"] = above_chance(hits, chances)
        edited = [float(falls(r, of)[list(r["concepts"])].sum()) for r in rows]
        noticed, followed = ([float(falls(r, name)) for r in rows] for name in ("margin", "grn_margin"))
        metrics |= correlation(f"spearman/{kind}", edited, noticed)
        metrics |= correlation(f"spearman_grn/{kind}", followed, noticed)
        metrics[f"fell/{kind}"] = float(np.mean(np.array(edited) > 0))
        for part in READINGS:
            own = [falls(r, part)[k] for r in rows for k in r["concepts"]]
            others = [falls(r, part)[k] for r in rows for k in r["detected"] if k not in r["concepts"]]
            metrics[f"found_by_{part}/{kind}"] = float(np.mean([is_found(r, part) for r in rows]))
            metrics[f"fall_{part}_touched/{kind}"] = float(np.mean(own))
            metrics[f"fall_{part}_others/{kind}"] = float(np.mean(others)) if others else float("nan")
    return metrics


def row(kind: str, record: Record) -> dict[str, Any]:
    """One line of the result table."""
    concepts = list(record["concepts"])
    return {
        "kind": kind,
        "photo": record["name"],
        "edit": record["what"],
        "edited concepts": " ".join(str(k + 1) for k in concepts),
        "detected": len(record["detected"]),
        "found": is_found(record, KINDS[kind]),
        "fall of their contribution": float(falls(record, KINDS[kind])[concepts].sum()),
        "fall of the log-odds": float(falls(record, "margin")),
    }
