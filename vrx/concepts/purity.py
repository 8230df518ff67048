"""Do concepts show parts? Detections against part masks, where a source has them (`concepts/*`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from vrx.bank import ConceptBank
from vrx.structures import UNMATCHED

BACKGROUND = "background"
VISIBLE = 0.01  # least share of the photo that a part covers where it counts as visible
OVERLAP = 0.25  # least share of the smaller of detection and part that both cover, if the part is found
METRICS = ("purity", "consistency", "background", "recall_own", "recall_other", "precision")
CERTAIN = 0.6  # least mean share of a concept's object pixels on one part, or two, if the concept is named after it
NAMING = 30  # photos per class that say which part a concept shows
SECOND = 0.2  # least of these on the second of two


@dataclass(frozen=True)
class Seen:
    """What was found in one photo, beside what it shows.

    Args:
        label: class of the photo.
        masks: pixels of each concept, bool ``[n, N, H, W]``; nothing where it was not found.
        parts: part -> its pixels, bool ``[H, W]``; hidden ones are left out.
    """

    label: int
    masks: NDArray[np.bool_]
    parts: Mapping[str, NDArray[np.bool_]]

    def shares(self, graph: int, concept: int) -> dict[str, float]:
        """Share of a detection's pixels on each part and on the background; nothing where it was not found."""
        mask = self.masks[graph, concept]
        size = int(mask.sum())
        if not size:
            return {}
        on = {name: float((mask & part).sum() / size) for name, part in self.parts.items()}
        return {**on, BACKGROUND: 1 - sum(on.values())}


def masks_of(matched: NDArray[np.int64], patches: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of every concept, ``[n, N, H, W]``, from the patch of each (``[n, N]``) and the patches' masks."""
    shape = patches.shape[1:]
    padded = np.concatenate([patches, np.zeros((1, *shape), bool)])
    return np.asarray(padded[np.where(matched == UNMATCHED, len(patches), matched)])


def mean_shares(seen: Sequence[Seen], graph: int, concept: int) -> dict[str, float]:
    """Mean share of a concept's pixels on each part and the background, over the photos of its class; or nothing."""
    found = [shares for photo in seen if photo.label == graph and (shares := photo.shares(graph, concept))]
    names = dict.fromkeys(name for shares in found for name in shares)
    return {name: sum(s.get(name, 0.0) for s in found) / len(found) for name in names}


def main_parts(seen: Sequence[Seen], present: NDArray[np.bool_]) -> list[list[str]]:
    """The part that each concept shows most, ``[n][N]``; "" where there is none."""
    return _each(present, lambda g, k: next(iter(_object_shares(seen, g, k)), ""))


def part_names(seen: Sequence[Seen], present: NDArray[np.bool_]) -> list[list[str]]:
    """What each concept is called after the one or two parts that it shows, where that is certain, ``[n][N]``."""

    def name(graph: int, concept: int) -> str:
        shares = _object_shares(seen, graph, concept)
        (first, most), (second, more) = [*shares.items(), ("", 0.0), ("", 0.0)][:2]
        if most >= CERTAIN:
            return first
        return f"{first} and {second}" if more >= SECOND and most + more >= CERTAIN else ""

    return _each(present, name)


def _object_shares(seen: Sequence[Seen], graph: int, concept: int) -> dict[str, float]:
    """Mean share of a concept's object pixels on each part that it shows, the largest first; nothing where it shows
    background most.
    """
    shares = mean_shares(seen, graph, concept)
    object_ = {name: share for name, share in shares.items() if name != BACKGROUND and share > 0}
    if not object_ or shares[BACKGROUND] > 0.5:
        return {}
    whole = sum(object_.values())
    return {name: object_[name] / whole for name in sorted(object_, key=lambda name: -object_[name])}


def _each(present: NDArray[np.bool_], of: Callable[[int, int], str]) -> list[list[str]]:
    """What a function gives for each concept that there is, ``[n][N]``; "" for the others."""
    return [[of(g, k) if there else "" for k, there in enumerate(row)] for g, row in enumerate(present)]


def with_parts(bank: ConceptBank, seen: Sequence[Seen]) -> ConceptBank:
    """The bank, each concept named after the part or two that it shows in these photos, where that is certain.

    Without photos it stays as it is.
    """
    return replace(bank, parts=part_names(seen, bank.present)) if seen else bank


def part_metrics(
    seen: Sequence[Seen], mains: Sequence[Sequence[str]], present: NDArray[np.bool_], alike: Sequence[str] | None
) -> dict[str, float]:
    """The ``concepts/*`` metrics that need part masks, of held-out photos.

    Args:
        seen: the photos.
        mains: main part of each concept, by other photos, ``[n][N]``.
        present: which concepts there are, bool ``[n, N]``.
        alike: parts that look alike in all classes, so that a concept of one class must be found in photos of the
            others; None: all.

    Returns:
        All in [0, 1]. ``background``: share of the concepts whose detections lie mostly on background. ``purity``:
        mean share of a detection's object pixels on its concept's main part. ``consistency``: mean over pairs of
        detections of a concept of the overlap sum_p min(share_p, share'_p) of their object pixels. ``recall_own``,
        ``recall_other``: of the visible main parts of a class's concepts in photos of the class, of other classes,
        those that one of these concepts covers. ``precision``: share of these detections that lie on that part more
        than on any other part.
    """
    counts: dict[str, list[float]] = {name: [] for name in METRICS}
    for graph, concept in zip(*np.nonzero(present), strict=True):
        _of_concept(seen, int(graph), int(concept), mains[graph][concept], counts)
    for graph in range(len(present)):
        for part in dict.fromkeys(filter(None, mains[graph])):
            concepts = [k for k, main in enumerate(mains[graph]) if main == part]
            for photo in seen:
                if photo.label == graph or alike is None or part in alike:
                    _of_part(photo, graph, concepts, part, counts)
    return {f"concepts/{name}": float(np.mean(found)) for name, found in counts.items() if found}


def _of_concept(seen: Sequence[Seen], graph: int, concept: int, main: str, counts: dict[str, list[float]]) -> None:
    """Purity, consistency and background of one concept, on photos of its class."""
    found = [shares for photo in seen if photo.label == graph and (shares := photo.shares(graph, concept))]
    if not found:
        return
    counts["background"].append(float(np.mean([s[BACKGROUND] for s in found]) > 0.5))
    on_object = []
    for shares in found:
        total = 1 - shares[BACKGROUND]
        if total > 0.01:
            on_object.append({name: s / total for name, s in shares.items() if name != BACKGROUND})
    counts["purity"] += [shares.get(main, 0.0) for shares in on_object]
    for a, b in combinations(on_object, 2):
        counts["consistency"].append(sum(min(share, b.get(name, 0.0)) for name, share in a.items()))


def _of_part(photo: Seen, graph: int, concepts: Sequence[int], part: str, counts: dict[str, list[float]]) -> None:
    """Whether a part of a photo is found by one of the concepts that show it, and whether what they find is it."""
    there = photo.parts.get(part)
    hit = False
    for concept in concepts:
        mask, shares = photo.masks[graph, concept], photo.shares(graph, concept)
        if not shares:
            continue
        others = [share for name, share in shares.items() if name not in (part, BACKGROUND)]
        counts["precision"].append(float(shares.get(part, 0.0) > max(others, default=0.0)))
        if there is not None:
            hit |= bool((mask & there).sum() >= OVERLAP * min(mask.sum(), there.sum()))
    if there is not None and there.mean() >= VISIBLE:
        counts["recall_own" if photo.label == graph else "recall_other"].append(float(hit))
