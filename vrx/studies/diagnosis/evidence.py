"""What an explanation says of an error: what speaks for the true class and for the predicted one, and where it lies.

All of it is read off the explanation with everything measured, as its page shows it; logits throughout. A patch
supports a class by its measured main effect on it, whichever class's concept it shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, distance_transform_edt
from scipy.ndimage import label as label_pieces

from vrx.explanation import NO_RELATION, Explanation, Relations
from vrx.structures import Patches

WHOSE = ("true class", "predicted class")
OF_CLASS = (
    "support", "strongest support", "strongest objection", "left without patches", "pair interactions",
    "area of support", "spread of support", "support off the middle", "support off the attended",
    "support in the largest piece", "error of the graph network", "concepts found", "concepts missing",
    "best gain of a missing concept",
)  # fmt: skip
OF_BOTH = (
    "patches", "area of patches", "spread of patches", "probability of the prediction", "lead of the prediction",
    "lead without patches", "for the prediction", "strongest for the prediction", "area for the prediction",
    "for the prediction, in the largest piece", "for the true class", "strongest for the true class",
    "for the true class, in the largest piece", "distance of the strongest", "distance of for and against",
    "distance of supports", "gap between supports", "overlap of supports", "attended area", "attended width",
    "attended height", "attended pieces", "second largest piece",
)  # fmt: skip
EVIDENCE = (*(f"{name}: {whose}" for whose in WHOSE for name in OF_CLASS), *OF_BOTH)
PIECE = 0.01  # share of the photo: smaller pieces of what the classifier looks at are not counted


def evidence(explanation: Explanation, true: int) -> dict[str, float]:
    """A number for each of ``EVIDENCE`` of an explained error whose true class has this label; NaN: unknown.

    With fewer than two patches there are no relations: what is found, missing and looked at is known alone.
    """
    labels = dict(zip(WHOSE, (true, explanation.predicted), strict=True))
    attended = Attended.of(explanation)
    found = attended.evidence()
    for whose, label in labels.items():
        found |= {f"{name}: {whose}": value for name, value in _concepts(explanation, label).items()}
    if explanation.relations is not None:
        places = np.searchsorted(explanation.superpixels.ids, explanation.relations.labels)
        effects = Effects(explanation, explanation.relations, explanation.superpixels.select(places), attended)
        for whose, label in labels.items():
            found |= {f"{name}: {whose}": value for name, value in effects.of_class(label).items()}
        found |= effects.of_both(*labels.values())
    return {name: float(found.get(name, np.nan)) for name in EVIDENCE}


def _concepts(explanation: Explanation, label: int) -> dict[str, float]:
    """Which of a class's concepts are found, and which are missing."""
    added = [c.measured[label] for c in explanation.counterfactuals if c.graph == label and c.added]
    return {
        "concepts found": explanation.detected[label].sum() / max(explanation.present[label].sum(), 1),
        "concepts missing": len(added),
        "best gain of a missing concept": max(added, default=np.nan),
    }


@dataclass(frozen=True)
class Attended:
    """Where the classifier looks, bool ``[H, W]``, and the largest piece of it."""

    looks: NDArray[np.bool_]
    sizes: NDArray[np.float64]  # of its pieces, the largest first, share of the photo
    largest: NDArray[np.bool_]

    @classmethod
    def of(cls, explanation: Explanation) -> Attended:
        looks = np.asarray(np.isin(explanation.superpixels.labels, explanation.attended).any(0))
        near = binary_dilation(looks, iterations=max(1, max(looks.shape) // 64))  # gaps of a pixel or two are none
        pieces, _ = label_pieces(near, np.ones((3, 3)))
        sizes = np.bincount(pieces[looks], minlength=2)
        return cls(looks, np.sort(sizes[1:])[::-1] / looks.size, looks & (pieces == 1 + sizes[1:].argmax()))

    def evidence(self) -> dict[str, float]:
        rows, columns = np.nonzero(self.looks)
        return {
            "attended area": float(self.looks.mean()),
            "attended width": columns.std() / self.looks.shape[1] if len(rows) else 0.0,
            "attended height": rows.std() / self.looks.shape[0] if len(rows) else 0.0,
            "attended pieces": float((self.sizes > PIECE).sum()),
            "second largest piece": float(self.sizes[1]) if len(self.sizes) > 1 else 0.0,
        }

    @property
    def middle(self) -> NDArray[np.float64]:
        """(x, y); NaN where the classifier looks nowhere."""
        places = np.argwhere(self.looks)[:, ::-1]
        return (places.mean(0) + 0.5) / self.looks.shape[::-1] if len(places) else np.full(2, np.nan)


@dataclass(frozen=True)
class Effects:
    """What the P patches of the relations do to the classes, by the classifier."""

    explanation: Explanation
    relations: Relations
    patches: Patches
    attended: Attended

    def of_class(self, label: int) -> dict[str, float]:
        main = self.relations.main_measured[:, label]
        middle, support = self._middle(main), np.maximum(main, 0)
        squares = ((self.patches.centroids - middle) ** 2).sum(1)
        return {
            "support": support.sum(),
            "strongest support": support.max(),
            "strongest objection": min(main.min(), 0.0),
            "left without patches": self.left[label],
            "pair interactions": np.abs(self.relations.pairs_measured[..., label]).sum() / 2,
            "area of support": self._where(main).mean(),
            "spread of support": np.sqrt((support * squares).sum() / support.sum()) if support.any() else np.nan,
            "support off the middle": np.linalg.norm(middle - 0.5),
            "support off the attended": np.linalg.norm(middle - self.attended.middle),
            "support in the largest piece": self._inside(support),
            "error of the graph network": (self.relations.main[:, label] - main).sum(),
        }

    def of_both(self, true: int, predicted: int) -> dict[str, float]:
        explanation, main, areas = self.explanation, self.relations.main_measured, self.patches.areas
        lead = main[:, predicted] - main[:, true]  # of the prediction over the true class, by each patch
        pushes, pulls = np.maximum(lead, 0), np.maximum(-lead, 0)
        own, other = (self._where(main[:, label]) for label in (true, predicted))
        places = self.patches.centroids
        return {
            "patches": len(lead) + self.relations.left_out,
            "area of patches": areas.sum(),
            "spread of patches": np.linalg.norm(places - places.mean(0), axis=1).mean(),
            "probability of the prediction": explanation.probabilities[predicted],
            "lead of the prediction": explanation.logits[predicted] - explanation.logits[true],
            "lead without patches": self.left[predicted] - self.left[true],
            "for the prediction": pushes.sum(),
            "strongest for the prediction": pushes.max(),
            "area for the prediction": self._where(lead).mean(),
            "for the prediction, in the largest piece": self._inside(pushes),
            "for the true class": pulls.sum(),
            "strongest for the true class": pulls.max(),
            "for the true class, in the largest piece": self._inside(pulls),
            "distance of the strongest": np.linalg.norm(places[lead.argmax()] - places[lead.argmin()]),
            "distance of for and against": np.linalg.norm(self._middle(lead) - self._middle(-lead)),
            "distance of supports": np.linalg.norm(self._middle(main[:, true]) - self._middle(main[:, predicted])),
            "gap between supports": _gap(own, other),
            "overlap of supports": (own & other).sum() / max((own | other).sum(), 1),
        }

    @property
    def left(self) -> NDArray[np.float64]:
        """What the classifier says without any of the patches, centred logits ``[n]``."""
        whole = self.explanation.logits - self.explanation.logits.mean()
        relations = self.relations
        return np.asarray(whole - relations.main_measured.sum(0) - relations.pairs_measured.sum((0, 1)) / 2)

    def _middle(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Middle (x, y) of the patches, those with a weight below 0 left out; NaN where none is left."""
        support = np.maximum(weights, 0)
        return np.asarray(support @ self.patches.centroids / support.sum()) if support.any() else np.full(2, np.nan)

    def _where(self, effects: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Pixels of the patches whose effect is worth naming, ``[H, W]``."""
        return np.asarray(self.patches.masks[effects > NO_RELATION].any(0))

    def _inside(self, weights: NDArray[np.float64]) -> float:
        """Share of the weight that lies in the largest piece of what the classifier looks at; weights from 0 on."""
        inside = [(mask & self.attended.largest).sum() / max(mask.sum(), 1) for mask in self.patches.masks]
        return float(weights @ inside / weights.sum()) if weights.any() else np.nan


def _gap(own: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Mean distance of the pixels of ``other`` from ``own``, share of the photo's side; NaN where one is empty."""
    return float(distance_transform_edt(~own)[other].mean() / max(own.shape)) if own.any() and other.any() else np.nan
