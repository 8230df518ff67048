"""The arms of the logic consistency study: which patches are edited, and with what (4.2).

All arms edit with the same code, may make equally many edits, and the i-th edit of each covers exactly as many pixels
as the i-th guided one (when the guided arm stops earlier, its areas are gone through again). Only the guided arm
reads contributions of the photo to choose its places; F is asked after an edit, never about a candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from vrx.edits import Editor
from vrx.studies.donors import Donors
from vrx.studies.views import View, Viewer

ARMS = {
    "vrx_guided": "VRX-guided",
    "random": "random patches",
    "random_content": "guided places, random content",
    "good_for_good": "good concepts for good ones",
    "pasted_onto_itself": "guided places, pasted onto themselves",
}
ROUND_TRIP = 1.5  # least reduction before a patch is pasted back onto itself
Mask = NDArray[np.bool_]
Content = tuple[Tensor, Mask] | None  # another photo and the patch in it; None: delete


@dataclass(frozen=True)
class Edit:
    """One edit: a place, what is put there (None: it is deleted), and why."""

    mask: Mask
    content: Content
    graph: int = -1
    concept: int = -1

    def record(self, names: tuple[str, ...]) -> dict[str, Any]:
        """In plain values; the area is a share of the photo."""
        return {
            "edit": "delete" if self.content is None else "substitute",
            "class": names[self.graph] if self.graph >= 0 else None,
            "concept": self.concept + 1 if self.concept >= 0 else None,
            "area": float(self.mask.mean()),
        }


@dataclass
class Arm:
    """What one arm did to one photo.

    Args:
        x: the photo as it is now.
        true: its label.
        before: F's margin of the true class on the clean photo.
        edits: made so far.
        logits: F's answer after each.
    """

    x: Tensor
    true: int
    before: float
    edits: list[Edit] = field(default_factory=list)
    logits: list[NDArray[np.float64]] = field(default_factory=list)

    @property
    def corrected(self) -> bool:
        """Whether F's last answer is right."""
        return bool(self.logits) and int(self.logits[-1].argmax()) == self.true

    def record(self, names: tuple[str, ...]) -> dict[str, Any]:
        """In plain values."""
        after = [margin(logits, self.true) for logits in self.logits]
        return {
            "corrected_after": len(self.edits) if self.corrected else None,
            "edits": [edit.record(names) for edit in self.edits],
            "margins": [self.before, *after],
            "margin_gain": after[0] - self.before if after else None,
            "answer": names[int(self.logits[-1].argmax())] if self.logits else None,
        }


def margin(logits: NDArray[np.float64], index: int) -> float:
    """Logit of a class minus the log-sum-exp of the others."""
    others = np.delete(logits, index)
    return float(logits[index] - np.logaddexp.reduce(others))


class Plan:
    """What all arms share for one photo: how an edit is made, the donors, the budget.

    Args:
        viewer: of the run.
        donors: exemplars.
        editor: the run's.
        true: label of the photo.
        max_edits: N.
    """

    def __init__(self, viewer: Viewer, donors: Donors, editor: Editor, true: int, max_edits: int) -> None:
        self.viewer, self.donors, self.editor = viewer, donors, editor
        self.true, self.max_edits = true, max_edits

    def apply(self, x: Tensor, edit: Edit) -> Tensor:
        """Make one edit on a normalised photo ``[3, H, W]``."""
        mask = torch.from_numpy(edit.mask)[None]
        if edit.content is None:
            return self.editor.delete(x[None], mask)[0]
        donor, donor_mask = edit.content
        return self.editor.substitute(x[None], mask, donor[None], torch.from_numpy(donor_mask)[None])[0]

    def run(self, view: View, edits: Iterator[Edit]) -> Arm:
        """Make edits until F is right or the budget is spent."""
        arm = Arm(view.x, self.true, view.margin(self.true))
        for edit in edits:
            arm.x = self.apply(arm.x, edit)
            arm.edits.append(edit)
            arm.logits.append(self.viewer.answers(arm.x[None])[0])
            if arm.corrected or len(arm.edits) == self.max_edits:
                break
        return arm


class VRXGuided:
    """Edits where the explanation says: after each edit the photo as it is now is explained again.

    Two kinds of edit compete, by the gain in logits that the contributions promise:

    * replace a concept of the true class by a good exemplar of the same concept: the exemplar's contribution in its
      own photo minus the concept's contribution here;
    * delete the patch that speaks most for the class that F answers: its contribution to that class.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def run(self, view: View) -> Arm:
        """Make edits until F is right or the budget is spent."""
        return self.plan.run(view, self._edits(view))

    def _edits(self, view: View) -> Iterator[Edit]:
        taken = np.zeros(view.x.shape[1:], bool)
        x = view.x
        while (edit := self.best(view, taken)) is not None:
            yield edit
            taken |= edit.mask
            x = self.plan.apply(x, edit)
            view = self.plan.viewer(x, view.superpixels)

    def best(self, view: View, taken: Mask) -> Edit | None:
        """The edit that promises most; None when no concept is left to edit.

        Args:
            view: of the photo as it is now.
            taken: pixels edited before: a patch is not edited twice.
        """
        found = list(self._candidates(view, taken))
        return max(found, key=lambda pair: pair[0])[1]() if found else None

    def _candidates(self, view: View, taken: Mask) -> Iterator[tuple[float, Callable[[], Edit]]]:
        donors, true, answer = self.plan.donors, self.plan.true, view.predicted
        for graph, concept in np.argwhere(view.detected).tolist():
            mask = view.mask(graph, concept)
            if not mask.any() or (mask & taken).sum() >= 0.5 * mask.sum():
                continue

            def delete(mask: Mask = mask, graph: int = graph, concept: int = concept) -> Edit:
                return Edit(mask, None, graph, concept)

            yield float(view.nodes[answer, graph, concept]), delete
            donor = donors.good(true, concept, int(mask.sum())) if graph == true else None
            if donor is None:
                continue

            def substitute(mask: Mask = mask, concept: int = concept, donor: Any = donor) -> Edit:
                return Edit(mask, donors.patch(donor), true, concept)

            yield float(donor.score - view.nodes[true, true, concept]), substitute


def controls(plan: Plan, view: View, guided: Arm, rng: np.random.Generator) -> dict[str, Arm]:
    """The other arms on the clean photo, with the guided arm's budget."""
    makers = {
        "random": random_edits,
        "random_content": random_content,
        "good_for_good": good_for_good,
        "pasted_onto_itself": onto_itself,
    }
    budget = [guided.edits[i % len(guided.edits)] for i in range(plan.max_edits)] if guided.edits else []
    return {name: plan.run(view, make(plan, view, budget, rng)) for name, make in makers.items()}


def random_edits(plan: Plan, view: View, budget: list[Edit], rng: np.random.Generator) -> Iterator[Edit]:
    """Random attended patches, each replaced by a random patch (or deleted, where the guided arm deletes)."""
    labels = rng.permutation(view.attended)
    for number, like in enumerate(budget):
        mask = resized(view.label_mask(int(labels[number % len(labels)])), int(like.mask.sum()))
        content = None if like.content is None else plan.donors.random(int(mask.sum()), rng)
        yield Edit(mask, content)


def random_content(plan: Plan, view: View, budget: list[Edit], rng: np.random.Generator) -> Iterator[Edit]:
    """The guided places, random patches put there: how much is it the place alone?"""
    for like in budget:
        yield Edit(like.mask, plan.donors.random(int(like.mask.sum()), rng))


def good_for_good(plan: Plan, view: View, budget: list[Edit], rng: np.random.Generator) -> Iterator[Edit]:
    """The true class' best concepts, each replaced by an equally good exemplar of the same concept."""
    true = plan.true
    scores = view.nodes[true, true]
    touched = {edit.concept for edit in budget if edit.graph == true and edit.content is not None}
    found = [k for k in np.argsort(-scores).tolist() if view.detected[true, k] and plan.donors.of(true, k)]
    good = [k for k in found if scores[k] > 0 and k not in touched] or [k for k in found if k not in touched] or found
    for number, like in enumerate(budget if good else []):
        concept, turn = good[number % len(good)], number // len(good)
        mask = resized(view.mask(true, concept), int(like.mask.sum()))
        donors = plan.donors.of(true, concept)
        yield Edit(mask, plan.donors.patch(donors[turn % len(donors)]), true, concept)


def onto_itself(plan: Plan, view: View, budget: list[Edit], rng: np.random.Generator) -> Iterator[Edit]:
    """The guided places, their own pixels pasted back after the same loss of sharpness: the noise floor."""
    for like in budget:
        zoom = max(ROUND_TRIP, _zoom(like))
        size = [max(2, round(side / zoom)) for side in like.mask.shape]
        small = F.interpolate(view.x[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]
        dull = F.interpolate(small[None], size=like.mask.shape, mode="bilinear", align_corners=False)[0]
        yield Edit(like.mask, (dull, like.mask), like.graph, like.concept)


def _zoom(edit: Edit) -> float:
    """By how much the donor was enlarged; 1 for a deletion."""
    if edit.content is None:
        return 1.0
    sides = [[np.ptp(np.flatnonzero(m.any(axis))) + 1 for axis in (1, 0)] for m in (edit.mask, edit.content[1])]
    return float(max(sides[0][0] / sides[1][0], sides[0][1] / sides[1][1]))


def resized(mask: Mask, pixels: int) -> Mask:
    """The mask grown or shrunk evenly along its border until it has exactly this many pixels.

    Args:
        mask: ``[H, W]``, not empty.
        pixels: at most H * W.
    """
    depth = distance_transform_edt(mask) - distance_transform_edt(~mask)
    chosen = np.argsort(-depth, axis=None, kind="stable")[:pixels]
    out = np.zeros(mask.size, bool)
    out[chosen] = True
    return out.reshape(mask.shape)
