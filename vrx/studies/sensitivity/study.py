"""Does the explanation notice which concept was made worse, and which was moved? (4.3, figure 7)"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vrx.data.images import Photo
from vrx.data.toys.vehicles import ToyVehicles
from vrx.errors import VRXError
from vrx.explain.explainer import Explainer
from vrx.structures import Explanation
from vrx.studies.core.context import StudyContext
from vrx.studies.core.exemplars import Donors
from vrx.studies.core.predictions import margin, predictions
from vrx.studies.core.records import Records, write_results
from vrx.studies.core.statistics import Correlation, Share, above_chance
from vrx.studies.sensitivity.method import PastedTouches, RenderedTouches, Touch, Toucher
from vrx.studies.sensitivity.page import before_and_after, sensitivity_page

KINDS = ("appearance", "structure")
KEPT_PICTURES = 12  # of each kind


class Sensitivity:
    """Edits photos that F gets right, one concept a time, and asks whether the explanation says which one it was.

    An edit counts when F notices it: an explanation of F must not notice what F does not. Whether it does is asked of F
    alone, before the edit is explained; edits are tried in random order until F notices one.

    The patches keep their concepts (:meth:`Explainer.follow`): the question is whether the contributions move, not
    whether the concept is detected again. An edit counts as found when, of all detected concepts of the class, a
    touched one has the largest fall: of its node contribution (appearance), of the contributions of its edges, in and
    out (structure).

    Args:
        split: whose photos.
        max_edits: of each kind.
        min_detected: concepts of its own class that a photo must show.
        least_fall: of F's log-odds for the class, from which on F notices an edit.
        tries: edits of a kind tried on a photo at most.
        rendered: edits are rendered; None: where the photos are.
        examples: of each kind on the page.
        seed: which concept is touched, and where to it moves.

    Raises:
        VRXError: a setting out of range.
    """

    def __init__(
        self,
        split: str = "test",
        max_edits: int = 200,
        min_detected: int = 3,
        least_fall: float = 0.5,
        tries: int = 8,
        rendered: bool | None = None,
        examples: int = 2,
        seed: int = 0,
    ) -> None:
        if max_edits < 1 or min_detected < 2 or tries < 1:
            raise VRXError(
                f"study.max_edits={max_edits} and study.tries={tries} must be at least 1, "
                f"study.min_detected={min_detected} at least 2."
            )
        self.split, self.max_edits, self.min_detected = split, max_edits, min_detected
        self.least_fall, self.tries = least_fall, tries
        self.rendered, self.examples, self.seed = rendered, examples, seed

    def __call__(self, context: StudyContext) -> dict[str, float]:
        """Run the study, or go on with it."""
        num = context.explainer.bank.num_concepts
        if num < self.min_detected:
            raise VRXError(
                f"The run has {num} concepts a class, study.min_detected={self.min_detected} are needed: lower it, or "
                f"train with concepts.num_concepts={self.min_detected} or more."
            )
        explainer = context.explainer
        records = Records(context.folder / "records.jsonl", context.key())
        toucher = self._toucher(explainer, context, records)
        found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
        tried = dict.fromkeys(KINDS, 0)
        photos = self._right(explainer, context, records)
        with tqdm(total=len(KINDS) * min(self.max_edits, len(photos)), desc="touching concepts", unit="edit") as bar:
            for photo in photos:
                if all(len(done) >= self.max_edits for done in found.values()):
                    break
                for kind, record in self._photo(explainer, toucher, context, records, photo).items():
                    if len(found[kind]) >= self.max_edits:
                        continue
                    tried[kind] += record["tried"]
                    if record.get("touched"):
                        found[kind].append(record)
                        bar.update()
        metrics = summary(found)
        metrics |= {f"noticed/{kind}": len(found[kind]) / tried[kind] for kind in KINDS if tried[kind]}
        write_results(context.folder, [row(kind, r) for kind in KINDS for r in found[kind]], metrics)
        sensitivity_page(context, found, metrics, self.examples)
        return metrics

    def _toucher(self, explainer: Explainer, context: StudyContext, records: Records) -> Toucher:
        is_toy = isinstance(context.source, ToyVehicles)
        if self.rendered and not is_toy:
            raise VRXError("study.rendered=true needs photos that can be rendered: toy_vehicles; set it to null.")
        if is_toy and self.rendered is not False:
            return RenderedTouches(explainer, context.source)  # type: ignore[arg-type]
        return PastedTouches(context.explainer.editor, Donors(explainer, context.source, records))

    def _right(self, explainer: Explainer, context: StudyContext, records: Records) -> list[Photo]:
        """Photos that F gets right, the classes taking turns."""
        photos = context.source.photos(self.split)
        asked = predictions(explainer, context.source, photos, records)
        right = [photo for photo, logits in asked if int(logits.argmax()) == photo.label]
        by_class = {label: [p for p in right if p.label == label] for label in sorted({p.label for p in right})}
        turns = itertools.zip_longest(*by_class.values())
        return [photo for turn in turns for photo in turn if photo is not None]

    def _photo(
        self, explainer: Explainer, toucher: Toucher, context: StudyContext, records: Records, photo: Photo
    ) -> dict[str, dict[str, Any]]:
        """Both kinds of edit of one photo; an empty record where it offers none."""
        names = {kind: f"{kind} {photo.path}" for kind in KINDS}
        if all(name in records for name in names.values()):
            return {kind: records[name] for kind, name in names.items()}
        view = explainer.explain_input(explainer.read(context.source.read(photo)), relations=False)
        enough = int(view.detected[photo.label].sum()) >= self.min_detected
        before = explainer.follow(view, view.x) if enough else view
        for number, (kind, name) in enumerate(names.items()):
            rng = np.random.default_rng([self.seed, number, zlib.crc32(photo.path.rsplit("/", 1)[-1].encode())])
            offered = getattr(toucher, kind)(photo, before, rng) if enough else iter(())
            touch, tried = self._noticed(explainer, before, photo.label, offered)
            if touch is None:
                records.add(name, {"tried": tried})
                continue
            after = explainer.follow(before, touch.after, touch.moved)
            records.add(name, {**measured(photo, before, after, touch), "tried": tried})
            before_and_after(context.folder, kind, photo.path, explainer, touch, KEPT_PICTURES)
        return {kind: records[name] for kind, name in names.items()}

    def _noticed(
        self, explainer: Explainer, before: Explanation, own: int, offered: Iterator[Touch]
    ) -> tuple[Touch | None, int]:
        """The first edit that F notices, None when there is none, and how many were tried."""
        tried = 0
        for touch in itertools.islice(offered, self.tries):
            tried += 1
            logits = explainer.logits(touch.after[None])[0]
            if before.margin(own) - margin(logits, own) >= self.least_fall:
                return touch, tried
        return None, tried


def measured(photo: Photo, before: Explanation, after: Explanation, touch: Touch) -> dict[str, Any]:
    """What one edit did to F, to the GRN and to the contributions of the true class' graph."""
    own = photo.label
    return {
        "name": photo.path,
        "label": own,
        "what": touch.what,
        "touched": touch.touched,
        "detected": np.flatnonzero(before.detected[own]),
        "nodes": [before.node_scores[own, own], after.node_scores[own, own]],
        "edges": [before.at_edges(own), after.at_edges(own)],
        "links": [before.edge_scores[own, own], after.edge_scores[own, own]],
        "centroids": [before.centroids[own], after.centroids[own]],
        "f": [before.probabilities, after.probabilities],
        "f_margin": [before.margin(own), after.margin(own)],
        "grn_margin": [margin(before.grn_logits, own), margin(after.grn_logits, own)],
    }


def falls(record: Mapping[str, Any], of: str) -> NDArray[np.float64]:
    """Fall of each concept's contribution, ``[N]``; ``of`` is nodes or edges."""
    before, after = np.array(record[of], float)
    return before - after


def is_found(record: Mapping[str, Any], of: str) -> bool:
    """Whether a touched concept has the largest fall of all detected ones; a fall of nothing finds nothing."""
    detected = np.array(record["detected"])
    fall = falls(record, of)[detected]
    return bool(fall.max() > 0) and int(detected[int(fall.argmax())]) in record["touched"]


def chance(record: Mapping[str, Any]) -> float:
    """Share of the detected concepts that were touched: how often a blind guess is right."""
    return len(record["touched"]) / len(record["detected"])


def summary(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """The metrics of the study: found, chance, correlation with F, and how far other parts hold."""
    metrics: dict[str, float] = {}
    for kind, of in zip(KINDS, ("nodes", "edges"), strict=True):
        rows = records[kind]
        metrics[f"edits/{kind}"] = float(len(rows))
        if not rows:
            continue
        hits = [is_found(r, of) for r in rows]
        metrics |= Share(sum(hits), len(hits)).metrics(f"found/{kind}")
        metrics[f"chance/{kind}"] = float(np.mean([chance(r) for r in rows]))
        metrics[f"p_value/{kind}"] = above_chance(hits, [chance(r) for r in rows])
        touched = [float(falls(r, of)[list(r["touched"])].sum()) for r in rows]
        f = [r["f_margin"][0] - r["f_margin"][1] for r in rows]
        grn = [r["grn_margin"][0] - r["grn_margin"][1] for r in rows]
        metrics |= Correlation.of(touched, f).metrics(f"spearman/{kind}")
        metrics |= Correlation.of(grn, f).metrics(f"spearman_grn/{kind}")
        metrics[f"fell/{kind}"] = float(np.mean(np.array(touched) > 0))
        for part in ("nodes", "edges"):
            metrics[f"found_by_{part}/{kind}"] = float(np.mean([is_found(r, part) for r in rows]))
            own, others = _mean_falls(rows, part)
            metrics[f"fall_{part}_touched/{kind}"], metrics[f"fall_{part}_others/{kind}"] = own, others
    return metrics


def _mean_falls(rows: Sequence[Mapping[str, Any]], of: str) -> tuple[float, float]:
    """Mean fall of the touched concepts, and of the other detected ones."""
    own, others = [], []
    for record in rows:
        fall = falls(record, of)
        own += [fall[k] for k in record["touched"]]
        others += [fall[k] for k in record["detected"] if k not in record["touched"]]
    return float(np.mean(own)), float(np.mean(others)) if others else float("nan")


def row(kind: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """One line of the result table."""
    of = "nodes" if kind == "appearance" else "edges"
    touched = list(record["touched"])
    return {
        "kind": kind,
        "photo": record["name"],
        "edit": record["what"],
        "touched": " ".join(str(k + 1) for k in touched),
        "detected": len(record["detected"]),
        "found": is_found(record, of),
        "fall of the touched": float(falls(record, of)[touched].sum()),
        "fall of F's margin": record["f_margin"][0] - record["f_margin"][1],
    }
