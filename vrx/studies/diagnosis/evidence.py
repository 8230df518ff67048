"""What an explanation says of an error: where it looks, how far concepts explain that, and what speaks for which class.

All of it is read off the explanation with everything measured, as its page shows it. A patch supports a class by its
measured main effect on it, whichever class's concept it shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, distance_transform_edt
from scipy.ndimage import label as label_pieces
from scipy.stats import entropy

from vrx.explanation import NO_RELATION, Explanation, Relations
from vrx.structures import Patches

WHOSE = ("true class", "predicted class")
OF_CLASS = (
    "surest concept", "expected number of concepts", "support off the middle", "support off the attended",
    "support in the largest piece",
)  # fmt: skip
OF_BOTH = (
    "attended area", "attended width", "attended height", "attended pieces", "second largest piece",
    "attended regions", "patches", "area of patches", "attended without concept", "unexplained share of the attended",
    "concepts found", "concepts perhaps there", "mean presence of what is found", "lead over the third class",
    "entropy of the classes", "error of the graph network", "for the prediction, in the largest piece",
    "for the true class, in the largest piece", "distance of the strongest", "distance of for and against",
    "distance of supports", "gap between supports", "overlap of supports",
)  # fmt: skip
GRADCAM = tuple(
    f"Grad-CAM, {name}"
    for name in ("overlap", "correlation", "extent of true class", "extent of predicted class", "distance of peaks",
                 "distance of centres")
)  # fmt: skip
EVIDENCE = (*(f"{name}: {whose}" for whose in WHOSE for name in OF_CLASS), *OF_BOTH, *GRADCAM)
PIECE = 0.01  # share of the photo: smaller pieces of what the classifier looks at are not counted


def evidence(explanation: Explanation, true: int) -> dict[str, float]:
    """A number for each of ``EVIDENCE`` of an explained error whose true class has this label; NaN: unknown.

    With fewer than two patches there are no relations: nothing is known of what supports which class.
    """
    labels = dict(zip(WHOSE, (true, explanation.predicted), strict=True))
    attended = Attended.of(explanation)
    found = attended.evidence() | _explained(explanation, attended)
    if len(explanation.gradcam):
        found |= gradcam_overlap(explanation.gradcam, *labels.values())
    for whose, label in labels.items():
        present = explanation.presence[label]
        found[f"surest concept: {whose}"] = float(present.max(initial=0))
        found[f"expected number of concepts: {whose}"] = float(present.sum())
    if explanation.relations is not None:
        places = np.searchsorted(explanation.superpixels.ids, explanation.relations.labels)
        effects = Effects(explanation.relations, explanation.superpixels.select(places), attended)
        for whose, label in labels.items():
            found |= {f"{name}: {whose}": value for name, value in effects.of_class(label).items()}
        found |= effects.of_both(*labels.values())
    return {name: float(found.get(name, np.nan)) for name in EVIDENCE}


def _explained(explanation: Explanation, attended: Attended) -> dict[str, float]:
    """How far concepts explain what the classifier looks at, and how sure the networks are."""
    labels = np.unique(explanation.matched[explanation.detected])
    shown = explanation.label_mask(labels)
    rest = attended.looks & ~shown
    presence, logits = explanation.presence[explanation.detected], np.sort(explanation.logits)
    return {
        "attended regions": len(explanation.attended),
        "patches": len(labels),
        "area of patches": shown.mean(),
        "attended without concept": rest.mean(),
        "unexplained share of the attended": rest.sum() / max(attended.looks.sum(), 1),
        "concepts found": explanation.detected.sum(),
        "concepts perhaps there": explanation.perhaps.sum(),
        "mean presence of what is found": presence.mean() if len(presence) else 0.0,
        "lead over the third class": logits[-1] - logits[-3] if len(logits) > 2 else np.nan,
        "entropy of the classes": entropy(explanation.probabilities),
        "error of the graph network": np.abs(explanation.grn_logits - explanation.logits).mean(),
    }


def gradcam_overlap(gradcam: NDArray[np.float32], true: int, predicted: int) -> dict[str, float]:
    """How the Grad-CAM maps ``[n, h, w]``, >= 0, of two classes overlap: the numbers of ``GRADCAM``.

    Distances and extents are shares of the map.
    """
    own, other = (gradcam[c].astype(float) / max(gradcam[c].max(), 1e-9) for c in (true, predicted))
    inside, there = own > 0.5, other > 0.5
    overlap = (inside & there).sum() / max((inside | there).sum(), 1)
    flat = np.stack([own.ravel(), other.ravel()])
    correlation = 0.0 if (flat.std(1) < 1e-9).any() else float(np.corrcoef(flat)[0, 1])
    height, width = own.shape
    grid = np.stack(np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height), -1)
    peaks = [grid[np.unravel_index(m.argmax(), m.shape)] for m in (own, other)]
    centres = [(grid * m[..., None]).sum((0, 1)) / max(m.sum(), 1e-9) for m in (own, other)]
    values = (
        overlap, correlation, inside.mean(), there.mean(), np.linalg.norm(peaks[0] - peaks[1]),
        np.linalg.norm(centres[0] - centres[1]),
    )  # fmt: skip
    return dict(zip(GRADCAM, map(float, values), strict=True))


@dataclass(frozen=True)
class Attended:
    """Where the classifier looks, bool ``[H, W]``, and the largest piece of it."""

    looks: NDArray[np.bool_]
    sizes: NDArray[np.float64]  # of its pieces, the largest first, share of the photo
    largest: NDArray[np.bool_]

    @classmethod
    def of(cls, explanation: Explanation) -> Attended:
        looks = explanation.label_mask(explanation.attended)
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
    """Where the P patches of the relations speak for the classes, by the classifier."""

    relations: Relations
    patches: Patches
    attended: Attended

    def of_class(self, label: int) -> dict[str, float]:
        main = self.relations.main_measured[:, label]
        middle = self._middle(main)
        return {
            "support off the middle": float(np.linalg.norm(middle - 0.5)),
            "support off the attended": float(np.linalg.norm(middle - self.attended.middle)),
            "support in the largest piece": self._inside(np.maximum(main, 0)),
        }

    def of_both(self, true: int, predicted: int) -> dict[str, float]:
        main, places = self.relations.main_measured, self.patches.centroids
        lead = main[:, predicted] - main[:, true]  # of the prediction over the true class, by each patch
        own, other = (self._where(main[:, label]) for label in (true, predicted))
        return {
            "for the prediction, in the largest piece": self._inside(np.maximum(lead, 0)),
            "for the true class, in the largest piece": self._inside(np.maximum(-lead, 0)),
            "distance of the strongest": np.linalg.norm(places[lead.argmax()] - places[lead.argmin()]),
            "distance of for and against": np.linalg.norm(self._middle(lead) - self._middle(-lead)),
            "distance of supports": np.linalg.norm(self._middle(main[:, true]) - self._middle(main[:, predicted])),
            "gap between supports": _gap(own, other),
            "overlap of supports": (own & other).sum() / max((own | other).sum(), 1),
        }

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
