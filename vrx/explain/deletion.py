"""What the deletion of concepts costs the classifier: each against a random place, and all of them together."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor
from tqdm import tqdm

from vrx.concepts.assembly import Edit, logits_after
from vrx.concepts.word_discovery import elsewhere
from vrx.edits import soften
from vrx.explain.explainer import Explainer
from vrx.explanation import Explanation
from vrx.graphs.scg import SCGBuilder
from vrx.scores import SIGNIFICANT, above_p_value, holm, margins
from vrx.structures import UNMATCHED, Patches

BATCH = 16  # photos whose concepts are found at once
MOST_PHOTOS = 80  # that test a concept
BLOCKS = 16  # blocks of random pixels along the longer side of a photo
LEAST_FALL = 0.5  # logits: a margin that falls less when all is blurred has nothing that concepts could explain
ORDERS = 3  # random orders of deletion


# --- each concept


@dataclass(frozen=True)
class ConceptFalls:
    """How far the margin of its class falls when a concept is deleted, in photos of the class that F gets right.

    All are ``[n, N]``.
    """

    own: NDArray[np.float64]  # mean fall when the concept is deleted, logits; NaN without photos
    random: NDArray[np.float64]  # the same of as many pixels at a random place of the same photo
    p_value: NDArray[np.float64]  # that the first is larger, Holm-corrected within the class; 1: fewer than two photos
    photos: NDArray[np.int64]  # how many tested each
    present: NDArray[np.bool_]  # which concepts there are

    @property
    def significant(self) -> NDArray[np.bool_]:
        """Which concepts F needs more than a random place, bool ``[n, N]``."""
        return self.present & (self.p_value < SIGNIFICANT)

    @property
    def metrics(self) -> dict[str, float]:
        """``concepts/significant``: their share of the concepts, in [0, 1]."""
        return {"concepts/significant": float(self.significant[self.present].mean())}


Read = tuple[Tensor, Patches, int]
"""A photo as F reads it ``[3, H, W]``, what the segmenter made of it, and its class."""


def concept_falls(explainer: Explainer, photos: Sequence[Read], seed: int = 0) -> ConceptFalls:
    """Delete each concept from photos of its class, and as many pixels at a random place of each.

    A photo counts for a concept of its class where F gets it right and the concept is found; at most 80 a concept.
    The test is a one-sided paired Wilcoxon test, Holm-corrected over the concepts of a class.
    """
    present, rng = explainer.bank.present, np.random.default_rng(seed)
    pairs: dict[tuple[int, int], list[tuple[float, float]]] = {(int(c), int(k)): [] for c, k in np.argwhere(present)}
    batches = [photos[i : i + BATCH] for i in range(0, len(photos), BATCH)]
    for batch in tqdm(batches, desc="testing concepts", unit="batch", leave=False):
        for rows, builder in explainer.builder.problems(torch.stack([x for x, _, _ in batch])):
            _add_falls(pairs, explainer, builder, [batch[row] for row in rows], rng)
    return _tested(pairs, present)


def _add_falls(
    pairs: dict[tuple[int, int], list[tuple[float, float]]],
    explainer: Explainer,
    builder: SCGBuilder,
    batch: Sequence[Read],
    rng: np.random.Generator,
) -> None:
    """Add what the deletion of each concept, and of as many pixels elsewhere, costs the photos with graphs of the
    builder's classes.
    """
    classes = [explainer.bank.class_names.index(name) for name in builder.bank.class_names]
    with torch.no_grad():
        shown = torch.stack([x for x, _, _ in batch])
        found = builder.finder(builder.classifier, shown, [regions for _, regions, _ in batch])
    logits = found.activations.logits.double().cpu()
    before = margins(logits).numpy()
    edits: list[Edit] = []
    tested: list[tuple[int, int, int]] = []  # photo, place of its class, concept
    for photo, (x, _, label) in enumerate(batch):
        own = int(logits[photo].argmax())
        if classes[own] != label:
            continue
        patches = found.patches[photo]
        for concept in np.flatnonzero(builder.bank.present[own]).tolist():
            patch = found.matched[photo, own, concept]
            if patch != UNMATCHED and len(pairs[label, concept]) < MOST_PHOTOS:
                mask = patches.select(np.array([patch])).masks[0]
                edits += [(x, mask), (x, elsewhere(mask, rng))]
                tested.append((photo, own, concept))
    edited = logits_after(builder.classifier, explainer.editor, edits)
    after = margins(torch.from_numpy(edited)).numpy().reshape(len(tested), 2, len(classes))
    for (photo, own, concept), pair in zip(tested, after, strict=True):
        fall, random = before[photo, own] - pair[:, own]
        pairs[classes[own], concept].append((float(fall), float(random)))


def _tested(pairs: dict[tuple[int, int], list[tuple[float, float]]], present: NDArray[np.bool_]) -> ConceptFalls:
    mean = np.full((2, *present.shape), np.nan)
    p_value, photos = np.ones(present.shape), np.zeros(present.shape, np.int64)
    for at, found in pairs.items():
        falls = np.array(found[:MOST_PHOTOS]).reshape(-1, 2)
        photos[at], p_value[at] = len(falls), above_p_value(falls[:, 0], falls[:, 1])
        if len(falls):
            mean[(slice(None), *at)] = falls.mean(0)
    for index, there in enumerate(present):
        p_value[index, there] = holm(p_value[index, there])
    return ConceptFalls(mean[0], mean[1], p_value, photos, present)


# --- all concepts of a class together


def completeness(explainer: Explainer, explanations: Sequence[Explanation], seed: int = 0) -> dict[str, float]:
    """How much of what F sees the concepts hold: the ``completeness/*`` of docs/metrics.md, NaN where no photo counts.

    Every ratio is one of sums over the photos, not a mean of ratios, so that photos with a tiny denominator do not
    dominate. Held-out photos whose margin of the predicted class falls less than 0.5 logits when everything is blurred
    are left out. Random pixels come in blocks of a sixteenth of the photo's longer side, and change as much of the
    photo as the concepts do, the edges of both deletions included.
    """
    rng = np.random.default_rng(seed)
    falls: list[tuple[float, float, float, float]] = []  # all blurred, concepts, random pixels; area
    curves: list[tuple[float, float]] = []  # area under the curve: largest contribution first, mean of random orders
    for explanation in tqdm(explanations, desc="deleting all concepts", unit="photo", leave=False):
        own = explanation.predicted
        steps = deletion_steps(explanation, rng)
        every = _union(explanation, np.flatnonzero(explanation.detected[own]))
        random = random_blocks(attended(explanation), every, explainer.editor.margin, rng)
        masks = [np.ones_like(every), every, random, *(mask for order in steps for mask in order)]
        classifier = explainer.of(explanation.class_names).classifier
        logits = logits_after(classifier, explainer.editor, [(explanation.x, mask) for mask in masks])
        blurred, *rest = explanation.margin(own) - margins(torch.from_numpy(logits[:3]))[:, own].numpy()
        if blurred < LEAST_FALL:
            continue
        falls.append((float(blurred), float(rest[0]), float(rest[1]), float(every.mean())))
        if steps:
            ends = explanation.probabilities[own], softmax(logits[1])[own]
            inner = softmax(logits[3:], axis=1)[:, own].reshape(len(steps), -1)
            first, *others = (area_under([ends[0], *order, ends[1]]) for order in inner)
            curves.append((first, float(np.mean(others))))
    blurred, deleted, random_, area = np.sum(np.reshape(falls, (-1, 4)), axis=0)
    ranked, shuffled = np.sum(np.reshape(curves, (-1, 2)), axis=0)
    return {
        "completeness/deletion": _ratio(deleted, blurred),
        "completeness/deletion_random": _ratio(random_, blurred),
        "completeness/area": _ratio(area, len(falls)),
        "completeness/c_deletion": _ratio(ranked, shuffled),
        "completeness/photos": float(len(falls)),
    }


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def attended(explanation: Explanation) -> NDArray[np.bool_]:
    """The pixels of all regions that F attends to, bool ``[H, W]``."""
    return explanation.label_mask(explanation.attended)


def random_blocks(
    allowed: NDArray[np.bool_], like: NDArray[np.bool_], margin: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Random blocks of the allowed pixels ``[H, W]`` whose deletion changes as much of the photo as that of ``like``.

    Deleted pixels take an edge of ``margin`` along, and blocks have more edge than regions: as many pixels would change
    up to a third more. The last block is there in part; all allowed pixels if they change no more.
    """
    height, width = allowed.shape
    side = max(1, round(max(height, width) / BLOCKS))
    rows, columns = (np.arange(size) // side for size in (height, width))
    block = rows[:, None] * (columns[-1] + 1) + columns
    rank = rng.permutation(block.max() + 1)[block]
    places = np.argsort(np.where(allowed, rank, rank.max() + 1).ravel(), kind="stable")

    def first(count: int) -> NDArray[np.bool_]:
        chosen = np.zeros(height * width, bool)
        chosen[places[:count]] = True
        return chosen.reshape(height, width)

    def changed(mask: NDArray[np.bool_]) -> float:
        return float(soften(torch.from_numpy(mask[None]), margin)[1].sum())

    return first(bisect_left(range(int(allowed.sum())), changed(like), key=lambda count: changed(first(count))))


def deletion_steps(explanation: Explanation, rng: np.random.Generator) -> list[list[NDArray[np.bool_]]]:
    """What is gone after each step but the last, as the found concepts of the predicted class go one by one.

    Returns:
        A list of masks ``[H, W]`` for each order: the largest contribution first, then random ones; no order with
        fewer than three concepts.
    """
    own = explanation.predicted
    found = np.flatnonzero(explanation.detected[own])
    if len(found) < 3:
        return []
    ranked = found[np.argsort(-explanation.node_scores[own, own, found], kind="stable")]
    orders = [ranked, *(rng.permutation(found) for _ in range(ORDERS))]
    return [[_union(explanation, order[:step]) for step in range(1, len(order))] for order in orders]


def area_under(values: Sequence[float]) -> float:
    """Area under a curve through equidistant values, its width 1: in the range of the values."""
    return float(np.trapezoid(values) / (len(values) - 1))


def _union(explanation: Explanation, concepts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The pixels of some concepts of the predicted class, bool ``[H, W]``."""
    labels = explanation.matched[explanation.predicted, concepts]
    return explanation.label_mask(labels)
