"""The arms of the logic consistency study: which patches are edited, and with what (4.2).

All arms edit with the same code, and the i-th edit of each covers exactly as many pixels as the i-th guided one. The
other arms go on for all N edits (through the guided areas again, where the guided arm stopped earlier), so that both
can be counted: what they correct with the guided budget, and with all tries. Only the guided arm reads contributions
of the photo to choose its places; the classifier is run after an edit, never on a candidate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from vrx.explain.explainer import Explainer
from vrx.scores import margins
from vrx.structures import Explanation
from vrx.studies.core.exemplars import Donor, Donors, Mask, placed_patch
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


@dataclass(frozen=True)
class Edit:
    """One edit: a place, what is put there, and why.

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

    @property
    def pixels(self) -> int:
        return int(self.mask.sum())

    def record(self, names: Sequence[str]) -> dict[str, Any]:
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
        x: the photo as it is now, normalised ``[3, H, W]``.
        true: its label.
        margins: the classifier's log-odds of the true class: of the clean photo, and after each edit.
        enough: log-odds from which the photo counts as corrected: what a paste alone can move.
        edits: made so far.
        predicted: the class that the classifier predicts after each.
    """

    x: Tensor
    true: int
    margins: list[float]
    enough: float = 0.0
    edits: list[Edit] = field(default_factory=list)
    predicted: list[int] = field(default_factory=list)

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


@dataclass(frozen=True)
class Plan:
    """What all arms share for one photo.

    Args:
        explainer: of the run.
        donors: exemplars.
        true: label of the photo.
        max_edits: N.
        enough: log-odds of the true class from which the photo counts as corrected.
    """

    explainer: Explainer
    donors: Donors
    true: int
    max_edits: int
    enough: float = 0.0

    def run(self, explanation: Explanation, edits: Iterator[Edit]) -> Arm:
        """Make edits until the photo is corrected or the budget is spent."""
        arm = Arm(explanation.x, self.true, [explanation.margin(self.true)], self.enough)
        for edit in edits:
            arm.x = applied(self.explainer, arm.x, edit)
            logits = torch.from_numpy(self.explainer.logits(arm.x[None])[0])
            arm.edits.append(edit)
            arm.margins.append(float(margins(logits)[self.true]))
            arm.predicted.append(int(logits.argmax()))
            if arm.corrected or len(arm.edits) == self.max_edits:
                break
        return arm


def applied(explainer: Explainer, x: Tensor, edit: Edit) -> Tensor:
    """Make one edit on a normalised photo ``[3, H, W]``."""
    mask = torch.from_numpy(edit.mask)[None]
    if edit.layer is None:
        return explainer.editor.delete(x[None], mask)[0]
    return explainer.editor.paste(x[None], mask, edit.layer[None])[0]


def all_arms(plan: Plan, explanation: Explanation, rng: np.random.Generator) -> dict[str, Arm]:
    """The guided arm, and the others on the clean photo with its budget."""
    guided = plan.run(explanation, guided_edits(plan, explanation))
    budget = [guided.edits[i % len(guided.edits)] for i in range(plan.max_edits)] if guided.edits else []
    others = {
        "random": random_edits,
        "random_content": random_content,
        "random_places": random_places,
        "good_for_good": good_for_good,
        "pasted_onto_itself": onto_itself,
    }
    arms = {name: plan.run(explanation, edits(plan, explanation, budget, rng)) for name, edits in others.items()}
    return {"vrx_guided": guided} | arms


def guided_edits(plan: Plan, explanation: Explanation) -> Iterator[Edit]:
    """Edits where the explanation says; after each edit the photo as it is now is explained again.

    Two kinds of edit compete, by the rise of the true class' log-odds that the contributions to it promise:

    * replace a concept of the true class by a good exemplar of the same concept: the exemplar's contribution in its
      own photo, minus the contributions of all patches that it covers here;
    * delete a patch that speaks against the true class: minus its contribution.

    No patch is edited twice.
    """
    taken = np.zeros(explanation.x.shape[1:], bool)
    while found := list(_candidates(plan, explanation, taken)):
        edit = max(found, key=lambda pair: pair[0])[1]
        yield edit
        taken |= edit.mask
        x = applied(plan.explainer, explanation.x, edit)
        explanation = plan.explainer.explain_input(x, explanation.superpixels, relations=False)


def _candidates(plan: Plan, explanation: Explanation, taken: Mask) -> Iterator[tuple[float, Edit]]:
    """Every possible edit with the rise that it promises."""
    scores, patches = explanation.node_scores[plan.true], distinct_patches(explanation)
    for graph, concept, mask in patches:
        if (mask & taken).sum() >= 0.5 * mask.sum():
            continue
        yield -float(scores[graph, concept]), Edit(mask, None, graph, concept)
        for own in np.flatnonzero(explanation.matched[plan.true] == explanation.matched[graph, concept]).tolist():
            for donor in plan.donors.good(plan.true, own):
                layer, changed = placed_patch(*plan.donors.patch(donor), mask)
                covered = sum(float(scores[g, k]) * float(changed[m].mean()) for g, k, m in patches)
                yield donor.score - covered, Edit(changed, layer, plan.true, own, donor)


def distinct_patches(explanation: Explanation) -> list[tuple[int, int, Mask]]:
    """Every detected patch once: a class and concept that it shows, and its pixels."""
    first: dict[int, tuple[int, int]] = {}
    for graph, concept in np.argwhere(explanation.detected).tolist():
        first.setdefault(int(explanation.matched[graph, concept]), (graph, concept))
    patches = [(graph, concept, explanation.label_mask(label)) for label, (graph, concept) in first.items()]
    return [patch for patch in patches if patch[2].any()]


def random_edits(plan: Plan, explanation: Explanation, budget: list[Edit], rng: np.random.Generator) -> Iterator[Edit]:
    """Random attended patches, each replaced by a random patch (or deleted, where the guided arm deletes)."""
    for like, hole in zip(budget, _random_holes(explanation, len(budget), rng), strict=True):
        layer, changed = (None, hole) if like.layer is None else _random(plan, hole, like.pixels, rng)
        yield Edit(resized(changed, like.pixels), layer)


def random_content(
    plan: Plan, explanation: Explanation, budget: list[Edit], rng: np.random.Generator
) -> Iterator[Edit]:
    """The guided places, random patches put there: how much is it the place alone?"""
    for like in budget:
        yield Edit(like.mask, _random(plan, like.mask, like.pixels, rng)[0])


def random_places(plan: Plan, explanation: Explanation, budget: list[Edit], rng: np.random.Generator) -> Iterator[Edit]:
    """The exemplars that the guided arm put in, at random attended patches: how much is it the content alone?"""
    for like, hole in zip(budget, _random_holes(explanation, len(budget), rng), strict=True):
        layer, changed = (None, hole) if like.donor is None else placed_patch(*plan.donors.patch(like.donor), hole)
        yield Edit(resized(changed, like.pixels), layer, like.graph, like.concept)


def _random_holes(explanation: Explanation, count: int, rng: np.random.Generator) -> Iterator[Mask]:
    labels = rng.permutation(explanation.attended)
    return (explanation.label_mask(int(labels[i % len(labels)])) for i in range(count))


def _random(plan: Plan, hole: Mask, pixels: int, rng: np.random.Generator) -> tuple[Tensor, Mask]:
    return placed_patch(*plan.donors.random(pixels, rng, plan.true), hole)


def good_for_good(plan: Plan, explanation: Explanation, budget: list[Edit], rng: np.random.Generator) -> Iterator[Edit]:
    """The true class' best concepts, each replaced by an equally good exemplar of the same concept.

    What VRX takes for equal must not correct anything; concepts that the guided arm replaced are left out while there
    are others. Where the exemplar is smaller than the guided edit, the photo's own pixels are moved around it.
    """
    true = plan.true
    scores = explanation.node_scores[true, true]
    replaced = {edit.concept for edit in budget if edit.graph == true and edit.layer is not None}
    found = [k for k in np.argsort(-scores).tolist() if explanation.detected[true, k] and plan.donors.of(true, k)]
    good = [k for k in found if scores[k] > 0 and k not in replaced] or [k for k in found if k not in replaced] or found
    for number, like in enumerate(budget if good else []):
        turn, place = divmod(number, len(good))
        concept = good[place]
        equals = sorted(plan.donors.of(true, concept), key=lambda d: abs(d.score - scores[concept]))
        layer, changed = placed_patch(*plan.donors.patch(equals[turn % len(equals)]), explanation.mask(true, concept))
        around = applied(plan.explainer, out_of_place(explanation.x, rng), Edit(changed, layer))
        yield Edit(resized(changed, like.pixels), around, true, concept)


def onto_itself(plan: Plan, explanation: Explanation, budget: list[Edit], rng: np.random.Generator) -> Iterator[Edit]:
    """The guided places, their own pixels pasted back a little out of place: the noise floor of the seam."""
    for like in budget:
        yield Edit(like.mask, out_of_place(explanation.x, rng), like.graph, like.concept)


def out_of_place(x: Tensor, rng: np.random.Generator) -> Tensor:
    """A photo ``[3, H, W]`` moved a little in a random direction; what leaves it enters on the other side."""
    turn = rng.uniform(0, 2 * np.pi)
    reach = OUT_OF_PLACE * max(x.shape[1:])
    return torch.roll(x, (round(reach * np.sin(turn)), round(reach * np.cos(turn))), (1, 2))


def noise_floor(explainer: Explainer, donors: Donors, records: Records, quantile: float, seed: int = 0) -> float:
    """How far pasting a patch back onto itself, a little out of place, moves the log-odds of the photo's own class.

    Measured on the discovery photos that the classifier gets right, each at the patch that contributes most.

    Args:
        explainer: of the run.
        donors: of the run.
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
            logits = explainer.logits(torch.stack([x, applied(explainer, x, edit)]))
            before, after = margins(torch.from_numpy(logits))[:, donor.photo.label].tolist()
            records.add(name, {"change": after - before})
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
