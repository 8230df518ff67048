"""The arms of the logic consistency study: which patches are edited, and with what (4.2).

All arms edit with the same code. The i-th edit of an arm of content covers exactly as many pixels as the i-th guided
one; these arms go on for all N edits (through the guided areas again, where the guided arm stopped earlier), so that
both can be counted: what they correct with the guided budget, and with all tries. The arms of structure put concepts
where they belong, or the same concepts at random places. The classifier is run after an edit, never on a candidate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from vrx.explain.explainer import Explainer
from vrx.explanation import Counterfactual, Explanation
from vrx.studies.core.exemplars import Donor, Donors, Mask, placed_patch
from vrx.studies.core.records import Records
from vrx.studies.core.statistics import log_odds

ARMS = {
    "vrx_guided": "VRX-guided",
    "random": "random patches",
    "random_content": "guided places, random content",
    "random_places": "guided content, random places",
    "good_for_good": "good concepts for good ones",
    "pasted_onto_itself": "guided places, own pixels",
    "structure": "VRX-guided structure: put where they belong",
    "structure_random": "the same concepts, put at random places",
}
GUIDED = {"structure": "structure", "structure_random": "structure"}
"""The guided arm that an arm is measured by, where it is not ``vrx_guided``."""
OUT_OF_PLACE = 0.02  # of the photo's side: how far a patch is off that is pasted back onto itself


@dataclass(frozen=True)
class Edit:
    """One edit: a place, what is put there, and why."""

    mask: Mask  # the pixels that change, [H, W]
    layer: Tensor | None  # what shows there, normalised [3, H, W]; None: they are deleted
    graph: int = -1  # class whose concept lies there; -1: no concept decided
    concept: int = -1  # which; -1: none
    donor: Donor | None = None  # whose exemplar it is, if it is one
    kind: str = "substitute"  # or add, move; delete where nothing shows

    def record(self, names: Sequence[str]) -> dict[str, Any]:
        """In plain values; the area is a share of the photo."""
        return {
            "edit": "delete" if self.layer is None else self.kind,
            "class": names[self.graph] if self.graph >= 0 else None,
            "concept": self.concept + 1 if self.concept >= 0 else None,
            "area": float(self.mask.mean()),
        }


@dataclass
class Arm:
    """What one arm did to one photo."""

    x: Tensor  # the photo as it is now, normalised [3, H, W]
    true: int  # its label
    margins: list[float]  # the classifier's log-odds of the true class: of the clean photo, and after each edit
    enough: float = 0.0  # log-odds from which the photo counts as corrected: what a paste alone can move
    edits: list[Edit] = field(default_factory=list)
    predicted: list[int] = field(default_factory=list)  # class after each edit

    @property
    def corrected(self) -> bool:
        """Whether the last prediction is right by more than a paste alone can move."""
        return bool(self.edits) and self.margins[-1] > self.enough

    def record(self, names: Sequence[str]) -> dict[str, Any]:
        """In plain values; ``corrected_after`` and ``right_after``: edits until right by enough, and right at all."""
        return {
            "corrected_after": len(self.edits) if self.corrected else None,
            "right_after": self.predicted.index(self.true) + 1 if self.true in self.predicted else None,
            "edits": [edit.record(names) for edit in self.edits],
            "margins": self.margins,
            "predicted": [names[index] for index in self.predicted],
        }


def applied(explainer: Explainer, x: Tensor, edit: Edit) -> Tensor:
    """Make one edit on a normalised photo ``[3, H, W]``."""
    editor, mask = explainer.editor, torch.from_numpy(edit.mask)[None]
    return (editor.delete(x[None], mask) if edit.layer is None else editor.paste(x[None], mask, edit.layer[None]))[0]


@dataclass
class Arms:
    """All arms on one photo: the guided one, and the others on the clean photo with its ``budget`` of edits."""

    explainer: Explainer
    donors: Donors
    explanation: Explanation  # of the clean photo
    true: int  # its label
    max_edits: int  # N
    enough: float  # log-odds of the true class from which the photo counts as corrected
    rng: np.random.Generator  # of the random arms
    budget: list[Edit] = field(default_factory=list)

    def run(self) -> dict[str, Arm]:
        """Make the edits of every arm of ``ARMS``, in their order."""
        guided, *others = ARMS
        arms = {guided: self._arm(self.vrx_guided())}
        edits = arms[guided].edits
        self.budget = [edits[i % len(edits)] for i in range(self.max_edits)] if edits else []
        return arms | {name: self._arm(getattr(self, name)()) for name in others}

    def _arm(self, edits: Iterator[Edit]) -> Arm:
        """Make edits until the photo is corrected or the budget is spent."""
        arm = Arm(self.explanation.x, self.true, [self.explanation.margin(self.true)], self.enough)
        for edit in edits:
            arm.x = applied(self.explainer, arm.x, edit)
            logits = self.explainer.logits(arm.x[None])[0]
            arm.edits.append(edit)
            arm.margins.append(float(log_odds(logits)[self.true]))
            arm.predicted.append(int(logits.argmax()))
            if arm.corrected or len(arm.edits) == self.max_edits:
                break
        return arm

    def vrx_guided(self) -> Iterator[Edit]:
        """Edits where the explanation says; after each edit the photo as it is now is explained again.

        Two kinds of edit compete, by the rise of the true class' log-odds that the contributions to it promise: replace
        a concept of the true class by a good exemplar (its contribution in its own photo, minus those of all patches
        that it covers here), or delete a patch (minus its contribution). No patch is edited twice.
        """
        explanation = self.explanation
        taken = np.zeros(explanation.x.shape[1:], bool)
        while found := list(self._candidates(explanation, taken)):
            edit = max(found, key=lambda pair: pair[0])[1]
            yield edit
            taken |= edit.mask
            x = applied(self.explainer, explanation.x, edit)
            explanation = self.explainer.explain_input(x, explanation.superpixels, relations=False)

    def _candidates(self, explanation: Explanation, taken: Mask) -> Iterator[tuple[float, Edit]]:
        true, matched = self.true, explanation.matched
        scores, patches = explanation.node_scores[true], distinct_patches(explanation)
        for graph, concept, mask in patches:
            if (mask & taken).sum() >= 0.5 * mask.sum():
                continue
            yield -float(scores[graph, concept]), Edit(mask, None, graph, concept)
            for own in np.flatnonzero(matched[true] == matched[graph, concept]).tolist():
                for donor in self.donors.good(true, own):
                    layer, changed = placed_patch(*self.donors.patch(donor), mask)
                    covered = sum(float(scores[g, k]) * float(changed[m].mean()) for g, k, m in patches)
                    yield donor.score - covered, Edit(changed, layer, true, own, donor)

    def structure(self) -> Iterator[Edit]:
        """Concepts of the true class put where they belong, as the counterfactuals of the explanation say.

        A missing one is added (a good exemplar), one that lies elsewhere is moved: the one of which the GRN expects the
        largest gain of the true class, each once. After each edit the photo as it is now is explained again.
        """
        return self._put_right(None)

    def structure_random(self) -> Iterator[Edit]:
        """What :meth:`structure` does, but each concept is put at a random place: how much is it the place?"""
        return self._put_right(self.rng)

    def _put_right(self, rng: np.random.Generator | None) -> Iterator[Edit]:
        explanation, true, done = self.explanation, self.true, set[int]()
        while True:
            gains = [(c.predicted[true], c) for c in explanation.counterfactuals if c.graph == true]
            wanted = sorted(
                (pair for pair in gains if pair[0] > 0 and pair[1].concept not in done), key=lambda p: -p[0]
            )
            edits = (self._put(explanation, c, c.place if rng is None else rng.random(2)) for _, c in wanted)
            edit = next((made for made in edits if made is not None), None)
            if edit is None:
                return
            yield edit
            done.add(edit.concept)
            x = applied(self.explainer, explanation.x, edit)
            explanation = self.explainer.explain_input(x, true_class=true)

    def _put(self, explanation: Explanation, wanted: Counterfactual, place: ArrayLike) -> Edit | None:
        """A concept of the true class put at a place (x, y) in [0, 1]; None without an exemplar of a missing one."""
        true, concept, x = self.true, wanted.concept, explanation.x
        size = np.array(x.shape[:0:-1])  # width, height
        if wanted.added:
            if not (good := self.donors.good(true, concept)):
                return None
            column, row = np.minimum(np.array(place) * size, size - 1).astype(int)
            hole = np.zeros(x.shape[1:], bool)
            hole[row, column] = True
            layer, changed = placed_patch(*self.donors.patch(good[0]), hole)
            return Edit(changed, layer, true, concept, good[0], "add")
        mask = torch.from_numpy(explanation.mask(true, concept))
        way = ((np.array(place) - explanation.centroids[true, concept]) * size).round().astype(int)
        moved, to = self.explainer.editor.move(x[None], mask[None], torch.from_numpy(way)[None])
        return Edit((mask | to[0]).numpy(), moved[0], true, concept, None, "move")

    def random(self) -> Iterator[Edit]:
        """Random attended patches, each replaced by a random patch (or deleted, where the guided arm deletes)."""
        for like, hole in self._random_holes():
            layer, changed = (None, hole) if like.layer is None else self._random_patch(hole, like)
            yield Edit(resized(changed, like.mask.sum()), layer)

    def random_content(self) -> Iterator[Edit]:
        """The guided places, random patches put there: how much is it the place alone?"""
        return (Edit(like.mask, self._random_patch(like.mask, like)[0]) for like in self.budget)

    def random_places(self) -> Iterator[Edit]:
        """The exemplars that the guided arm put in, at random attended patches: how much is it the content alone?"""
        for like, hole in self._random_holes():
            layer, changed = (None, hole) if like.donor is None else placed_patch(*self.donors.patch(like.donor), hole)
            yield Edit(resized(changed, like.mask.sum()), layer, like.graph, like.concept)

    def _random_holes(self) -> Iterator[tuple[Edit, Mask]]:
        """The guided edits, each with a random attended patch."""
        labels = self.rng.permutation(self.explanation.attended)
        for i, like in enumerate(self.budget):
            yield like, self.explanation.label_mask(int(labels[i % len(labels)]))

    def _random_patch(self, hole: Mask, like: Edit) -> tuple[Tensor, Mask]:
        return placed_patch(*self.donors.random(int(like.mask.sum()), self.rng, self.true), hole)

    def good_for_good(self) -> Iterator[Edit]:
        """The true class' best concepts, each replaced by an equally good exemplar: that must not correct anything.

        Concepts that the guided arm replaced are left out while there are others. Where the exemplar is smaller than
        the guided edit, the photo's own pixels are moved around it.
        """
        true, explanation, donors = self.true, self.explanation, self.donors
        scores = explanation.node_scores[true, true]
        replaced = {edit.concept for edit in self.budget if edit.graph == true and edit.layer is not None}
        found = [k for k in np.argsort(-scores).tolist() if explanation.detected[true, k] and donors.of(true, k)]
        kept = [k for k in found if k not in replaced]
        good = [k for k in kept if scores[k] > 0] or kept or found
        for number, like in enumerate(self.budget if good else []):
            turn, place = divmod(number, len(good))
            concept = good[place]
            equals = sorted(donors.of(true, concept), key=lambda d: abs(d.score - scores[concept]))
            layer, changed = placed_patch(*donors.patch(equals[turn % len(equals)]), explanation.mask(true, concept))
            around = applied(self.explainer, out_of_place(explanation.x, self.rng), Edit(changed, layer))
            yield Edit(resized(changed, like.mask.sum()), around, true, concept)

    def pasted_onto_itself(self) -> Iterator[Edit]:
        """The guided places, their own pixels pasted back a little out of place: the noise floor of the seam."""
        x = self.explanation.x
        return (Edit(like.mask, out_of_place(x, self.rng), like.graph, like.concept) for like in self.budget)


def distinct_patches(explanation: Explanation) -> list[tuple[int, int, Mask]]:
    """Every detected patch once: a class and concept that it shows, and its pixels."""
    found = np.argwhere(explanation.detected)
    first = np.sort(np.unique(explanation.matched[tuple(found.T)], return_index=True)[1])
    patches = [(graph, concept, explanation.mask(graph, concept)) for graph, concept in found[first].tolist()]
    return [patch for patch in patches if patch[2].any()]


def out_of_place(x: Tensor, rng: np.random.Generator) -> Tensor:
    """A photo ``[3, H, W]`` moved a little in a random direction; what leaves it enters on the other side."""
    turn = rng.uniform(0, 2 * np.pi)
    reach = OUT_OF_PLACE * max(x.shape[1:])
    return torch.roll(x, (round(reach * np.sin(turn)), round(reach * np.cos(turn))), (1, 2))


def noise_floor(explainer: Explainer, donors: Donors, records: Records, quantile: float) -> float:
    """How far pasting a patch back onto itself, a little out of place, moves the log-odds of the photo's own class.

    Measured on the discovery photos that the classifier gets right, each at the patch that contributes most; the
    quantile, in (0, 1), of the absolute changes.
    """

    def change(number: int, donor: Donor) -> dict[str, float]:
        x, mask = donors.patch(donor)
        edit = Edit(mask, out_of_place(x, np.random.default_rng([0, number])))
        both = torch.stack([x, applied(explainer, x, edit)])
        before, after = log_odds(explainer.logits(both))[:, donor.photo.label].tolist()
        return {"change": after - before}

    best = enumerate(donors.best_of_photos())
    found = [records.once(f"noise {donor.photo.path}", change, number, donor) for number, donor in best]
    return float(np.quantile([abs(record["change"]) for record in found], quantile)) if found else 0.0


def resized(mask: Mask, pixels: int) -> Mask:
    """The mask ``[H, W]``, not empty, grown or shrunk evenly along its border until it has exactly this many pixels."""
    depth = distance_transform_edt(mask) - distance_transform_edt(~mask)
    out = np.zeros(mask.size, bool)
    out[np.argsort(-depth, axis=None, kind="stable")[:pixels]] = True
    return out.reshape(mask.shape)
