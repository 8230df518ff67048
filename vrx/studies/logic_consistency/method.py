"""The arms of the logic consistency study: which patches are edited, and with what (4.2).

All arms edit with the same code, and the i-th edit of each covers exactly as many pixels as the i-th guided one. The
other arms go on for all N edits (through the guided areas again, where the guided arm stopped earlier), so that both
can be counted: what they mend with the guided budget, and with all tries. Only the guided arm reads contributions of
the photo to choose its places; F is asked after an edit, never about a candidate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from vrx.edits import Editor
from vrx.explain.explainer import Explainer
from vrx.structures import Explanation
from vrx.studies.core.exemplars import Donor, Donors, placed_patch
from vrx.studies.core.predictions import margin
from vrx.studies.core.records import Records

ARMS = {
    "vrx_guided": "VRX-guided",
    "random": "random patches",
    "random_content": "guided places, random content",
    "random_places": "guided content, random places",
    "good_for_good": "good concepts for good ones",
    "pasted_onto_itself": "guided places, own pixels",
}
OUT_OF_PLACE = 0.02  # of the photo's side: how far a patch is off that is pasted back onto itself
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Edit:
    """One edit: a place, what is put there (None: it is deleted), and why.

    Args:
        mask: the pixels that change, ``[H, W]``.
        layer: what shows there, normalised ``[3, H, W]``; None: they are deleted.
        graph: class whose concept lies there; -1: no concept decided.
        concept: which; -1: none.
        donor: whose exemplar it is; None: it is none.
    """

    mask: Mask
    layer: Tensor | None
    graph: int = -1
    concept: int = -1
    donor: Donor | None = None

    def record(self, names: tuple[str, ...]) -> dict[str, Any]:
        """In plain values; the area is a share of the photo."""
        return {
            "edit": "delete" if self.layer is None else "substitute",
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
        enough: margin from which the photo counts as corrected: what a paste alone can move.
        edits: made so far.
        logits: F's answer after each.
    """

    x: Tensor
    true: int
    before: float
    enough: float = 0.0
    edits: list[Edit] = field(default_factory=list)
    logits: list[NDArray[np.float64]] = field(default_factory=list)

    @property
    def corrected(self) -> bool:
        """Whether F's last answer is right by more than a paste alone can move."""
        return bool(self.logits) and margin(self.logits[-1], self.true) > self.enough

    def record(self, names: tuple[str, ...]) -> dict[str, Any]:
        """In plain values: ``corrected_after`` and ``answered_after`` edits F was right by enough, and right at all."""
        after = [margin(logits, self.true) for logits in self.logits]
        answers = [int(logits.argmax()) for logits in self.logits]
        return {
            "corrected_after": len(self.edits) if self.corrected else None,
            "answered_after": answers.index(self.true) + 1 if self.true in answers else None,
            "edits": [edit.record(names) for edit in self.edits],
            "margins": [self.before, *after],
            "answers": [names[answer] for answer in answers],
        }


class Plan:
    """What all arms share for one photo: how an edit is made, the donors, the budget.

    Args:
        explainer: of the run.
        donors: exemplars.
        editor: the run's.
        true: label of the photo.
        max_edits: N.
        enough: margin from which a photo counts as corrected.
    """

    def __init__(
        self, explainer: Explainer, donors: Donors, editor: Editor, true: int, max_edits: int, enough: float = 0.0
    ) -> None:
        self.explainer, self.donors, self.editor = explainer, donors, editor
        self.true, self.max_edits, self.enough = true, max_edits, enough

    def apply(self, x: Tensor, edit: Edit) -> Tensor:
        """Make one edit on a normalised photo ``[3, H, W]``."""
        mask = torch.from_numpy(edit.mask)[None]
        if edit.layer is None:
            return self.editor.delete(x[None], mask)[0]
        return self.editor.paste(x[None], mask, edit.layer[None])[0]

    def run(self, view: Explanation, edits: Iterator[Edit]) -> Arm:
        """Make edits until F is right or the budget is spent."""
        arm = Arm(view.x, self.true, view.margin(self.true), self.enough)
        for edit in edits:
            arm.x = self.apply(arm.x, edit)
            arm.edits.append(edit)
            arm.logits.append(self.explainer.logits(arm.x[None])[0])
            if arm.corrected or len(arm.edits) == self.max_edits:
                break
        return arm


class VRXGuided:
    """Edits where the explanation says: after each edit the photo as it is now is explained again.

    Two kinds of edit compete, by the rise of the true class' log-odds that the contributions to it promise:

    * replace a concept of the true class by a good exemplar of the same concept: the exemplar's contribution in its
      own photo, minus the contributions of all patches that it covers here;
    * delete a patch that speaks against the true class: minus its contribution.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def run(self, view: Explanation) -> Arm:
        """Make edits until F is right or the budget is spent."""
        return self.plan.run(view, self._edits(view))

    def _edits(self, view: Explanation) -> Iterator[Edit]:
        taken = np.zeros(view.x.shape[1:], bool)
        x = view.x
        while (edit := self.best(view, taken)) is not None:
            yield edit
            taken |= edit.mask
            x = self.plan.apply(x, edit)
            view = self.plan.explainer.explain_input(x, view.superpixels, relations=False)

    def best(self, view: Explanation, taken: Mask) -> Edit | None:
        """The edit that promises most; None when no concept is left to edit.

        Args:
            view: of the photo as it is now.
            taken: pixels edited before: a patch is not edited twice.
        """
        found = list(self._candidates(view, taken))
        return max(found, key=lambda pair: pair[0])[1] if found else None

    def _candidates(self, view: Explanation, taken: Mask) -> Iterator[tuple[float, Edit]]:
        donors, true = self.plan.donors, self.plan.true
        patches = distinct_patches(view)
        for graph, concept, mask in patches:
            if (mask & taken).sum() >= 0.5 * mask.sum():
                continue
            yield -float(view.node_scores[true, graph, concept]), Edit(mask, None, graph, concept)
            for own in np.flatnonzero(view.matched[true] == view.matched[graph, concept]).tolist():
                for donor in donors.good(true, own):
                    layer, changed = placed_patch(*donors.patch(donor), mask)
                    covered = sum(float(view.node_scores[true, g, k]) * float(changed[m].mean()) for g, k, m in patches)
                    yield donor.score - covered, Edit(changed, layer, true, own, donor)


def distinct_patches(view: Explanation) -> list[tuple[int, int, Mask]]:
    """Every detected patch once: a class and concept that it shows, and its pixels."""
    first: dict[int, tuple[int, int]] = {}
    for graph, concept in np.argwhere(view.detected).tolist():
        first.setdefault(int(view.matched[graph, concept]), (graph, concept))
    patches = [(graph, concept, view.label_mask(label)) for label, (graph, concept) in first.items()]
    return [patch for patch in patches if patch[2].any()]


def controls(plan: Plan, view: Explanation, guided: Arm, rng: np.random.Generator) -> dict[str, Arm]:
    """The other arms on the clean photo, with the guided arm's budget."""
    makers = {
        "random": random_edits,
        "random_content": random_content,
        "random_places": random_places,
        "good_for_good": good_for_good,
        "pasted_onto_itself": onto_itself,
    }
    budget = [guided.edits[i % len(guided.edits)] for i in range(plan.max_edits)] if guided.edits else []
    return {name: plan.run(view, make(plan, view, budget, rng)) for name, make in makers.items()}


def random_edits(plan: Plan, view: Explanation, budget: list[Edit], rng: np.random.Generator) -> Iterator[Edit]:
    """Random attended patches, each replaced by a random patch (or deleted, where the guided arm deletes)."""
    labels = rng.permutation(view.attended)
    for number, like in enumerate(budget):
        pixels = int(like.mask.sum())
        hole = view.label_mask(int(labels[number % len(labels)]))
        layer, changed = (None, hole) if like.layer is None else _random(plan, hole, pixels, rng)
        yield Edit(resized(changed, pixels), layer)


def random_content(plan: Plan, view: Explanation, budget: list[Edit], rng: np.random.Generator) -> Iterator[Edit]:
    """The guided places, random patches put there: how much is it the place alone?"""
    for like in budget:
        layer, _ = _random(plan, like.mask, int(like.mask.sum()), rng)
        yield Edit(like.mask, layer)


def random_places(plan: Plan, view: Explanation, budget: list[Edit], rng: np.random.Generator) -> Iterator[Edit]:
    """The exemplars that the guided arm put in, at random attended patches: how much is it the content alone?"""
    labels = rng.permutation(view.attended)
    for number, like in enumerate(budget):
        hole = view.label_mask(int(labels[number % len(labels)]))
        layer, changed = (None, hole) if like.donor is None else placed_patch(*plan.donors.patch(like.donor), hole)
        yield Edit(resized(changed, int(like.mask.sum())), layer, like.graph, like.concept)


def _random(plan: Plan, hole: Mask, pixels: int, rng: np.random.Generator) -> tuple[Tensor, Mask]:
    return placed_patch(*plan.donors.random(pixels, rng, plan.true), hole)


def good_for_good(plan: Plan, view: Explanation, budget: list[Edit], rng: np.random.Generator) -> Iterator[Edit]:
    """The true class' best concepts, each replaced by an equally good exemplar of the same concept.

    What VRX takes for equal must not mend anything; concepts that the guided arm mended are left out while there are
    others. Where the exemplar is smaller than the guided edit, the photo's own pixels are moved around it.
    """
    true = plan.true
    scores = view.node_scores[true, true]
    touched = {edit.concept for edit in budget if edit.graph == true and edit.layer is not None}
    found = [k for k in np.argsort(-scores).tolist() if view.detected[true, k] and plan.donors.of(true, k)]
    good = [k for k in found if scores[k] > 0 and k not in touched] or [k for k in found if k not in touched] or found
    for number, like in enumerate(budget if good else []):
        concept, turn = good[number % len(good)], number // len(good)
        equals = sorted(plan.donors.of(true, concept), key=lambda d: abs(d.score - scores[concept]))
        layer, changed = placed_patch(*plan.donors.patch(equals[turn % len(equals)]), view.mask(true, concept))
        around = plan.apply(out_of_place(view.x, rng), Edit(changed, layer))
        yield Edit(resized(changed, int(like.mask.sum())), around, true, concept)


def onto_itself(plan: Plan, view: Explanation, budget: list[Edit], rng: np.random.Generator) -> Iterator[Edit]:
    """The guided places, their own pixels pasted back a little out of place: the noise floor of the seam."""
    for like in budget:
        yield Edit(like.mask, out_of_place(view.x, rng), like.graph, like.concept)


def out_of_place(x: Tensor, rng: np.random.Generator) -> Tensor:
    """A photo ``[3, H, W]`` moved a little in a random direction; what leaves it enters on the other side."""
    turn = rng.uniform(0, 2 * np.pi)
    reach = OUT_OF_PLACE * max(x.shape[1:])
    return torch.roll(x, (round(reach * np.sin(turn)), round(reach * np.cos(turn))), (1, 2))


def noise_floor(
    explainer: Explainer, donors: Donors, editor: Editor, records: Records, quantile: float, seed: int = 0
) -> float:
    """How far pasting a patch back onto itself, a little out of place, moves F's margin of the photo's own class.

    Measured on the discovery photos that F gets right, each at the patch that speaks most for its class.

    Args:
        explainer: of the run.
        donors: of the run.
        editor: the run's.
        records: of the study.
        quantile: of the absolute changes, in (0, 1).
        seed: of the directions.
    """
    changes = []
    for number, donor in enumerate(donors.best_of_photos()):
        name = f"noise {donor.photo.path}"
        if name not in records:
            x, mask = donors.patch(donor)
            edit = Edit(mask, out_of_place(x, np.random.default_rng([seed, number])))
            plan = Plan(explainer, donors, editor, donor.photo.label, 1)
            before, after = explainer.logits(torch.stack([x, plan.apply(x, edit)]))
            records.add(name, {"change": margin(after, plan.true) - margin(before, plan.true)})
        changes.append(abs(records[name]["change"]))
    return float(np.quantile(changes, quantile)) if changes else 0.0


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
