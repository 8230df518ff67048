"""A world with known truth: the classifier adds up the brightness of four squares, and the explanation is exact.

Photos are 32 x 32; the four quarters are the superpixels. Two classes: the logit of class 0 is the sum over the
quarters of the mean of the red plane, a quarter brighter than 0.93 counting fourfold; that of class 1 is the same on
the green plane. Concept k of both classes is quarter k, its contribution is its exact share of the margin.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vrx.data.images import Photo
from vrx.edits import Editor
from vrx.explanation import Explanation
from vrx.structures import UNMATCHED, Patches, edges
from vrx.studies.core.context import StudyContext
from vrx.studies.core.exemplars import Donors
from vrx.studies.core.records import Records

SIDE, HALF = 32, 16
QUARTERS = Patches(
    np.kron(np.arange(4).reshape(2, 2), np.ones((HALF, HALF))).astype(np.int16)[None], np.arange(4, dtype=np.int64)
)


def photo(red: list[float], green: list[float]) -> Image.Image:
    """Quarters with these reds and greens in [0, 1]."""
    planes = [np.kron(np.reshape(p, (2, 2)), np.ones((HALF, HALF))) for p in (red, green, [0.0] * 4)]
    return Image.fromarray((np.stack(planes, axis=2) * 255).round().astype(np.uint8))


def loudness(x: Tensor) -> NDArray[np.float64]:
    """``[3, H, W]`` -> what red and green of each quarter count, ``[2, 4]``."""
    means = torch.nn.functional.avg_pool2d(x[:2], HALF).flatten(1).double().numpy()
    return np.where(means > 0.93, 4 * means, means)


def explanation_of(
    image: NDArray[np.uint8],
    x: Tensor,
    logits: NDArray[np.float64],
    nodes: NDArray[np.float64],
    matched: NDArray[np.int64],
    superpixels: Patches,
    **others: Any,
) -> Explanation:
    """An explanation whose GRN is the classifier; without relations if these are not among the ``others``."""
    n, num = matched.shape
    return Explanation(
        image=image,
        x=x,
        name="planted",
        logits=logits,
        grn_logits=logits,
        node_scores=nodes,
        matched=matched,
        superpixels=superpixels,
        attended=superpixels.ids,
        measured=np.full((n, num), np.nan, np.float32),
        **{
            "class_names": PlantedSource.class_names,
            "edge_scores": np.zeros((n, n, edges(num).shape[1])),
            "centroids": np.tile(superpixels.centroids[:num], (n, 1, 1)),
            "presence": (matched != UNMATCHED).astype(np.float32),
            **others,
        },
    )


class PlantedExplainer:
    """Stands in for :class:`vrx.explain.explainer.Explainer`, with all of it that a study uses.

    Args:
        lies: every contribution has the wrong sign.
        blind: no concept is detected.
    """

    method, provenance = "planted", {}
    editor = Editor("mean", 0.0)
    grn = SimpleNamespace(state_dict=dict)
    classifier = SimpleNamespace(version="planted")
    bank = SimpleNamespace(
        class_names=("red", "green"), num_concepts=4, present=np.ones((2, 4), bool), digest="planted"
    )

    def __init__(self, lies: bool = False, blind: bool = False) -> None:
        self.lies, self.blind = lies, blind
        self.asked = 0  # photos that the classifier was run on

    def read(self, image: Image.Image) -> Tensor:
        return torch.from_numpy(np.asarray(image, np.float32) / 255).permute(2, 0, 1)

    def pixels(self, x: Tensor) -> NDArray[np.uint8]:
        return (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()

    def superpixels(self, x: Tensor) -> Patches:
        return QUARTERS

    def logits(self, x: Tensor) -> NDArray[np.float64]:
        self.asked += len(x)
        return np.stack([loudness(one).sum(1) for one in x])

    def explain_input(self, x: Tensor, superpixels: Patches | None = None, **_: Any) -> Explanation:
        means = loudness(x)
        margin = means[0] - means[1]  # of class 0, a quarter
        if self.lies:
            margin = -margin
        nodes = np.zeros((2, 2, 4))
        nodes[0], nodes[1] = margin, -margin
        matched = np.tile(np.arange(4), (2, 1))
        if self.blind:
            matched, nodes = np.full((2, 4), -1), np.zeros_like(nodes)
        return explanation_of(self.pixels(x), x, means.sum(1), nodes, matched, QUARTERS)


class PlantedSource:
    """Photos held in memory, by split: (reds, greens, label); the label is the last of a row."""

    class_names = ("red", "green")

    def __init__(self, **splits: list[tuple[Any, ...]]) -> None:
        self.splits = splits

    def photos(self, split: str) -> list[Photo]:
        return [Photo(f"{split}/{i}.png", row[-1], split) for i, row in enumerate(self.splits[split])]

    def read(self, shown: Photo) -> Image.Image:
        red, green, _ = self.splits[shown.split][int(Path(shown.path).stem)]
        return photo(red, green)

    def settings(self) -> dict[str, Any]:
        return {}


DISCOVERY = [
    ([0.9, 0.8, 0.7, 0.6], [0.1, 0.1, 0.1, 0.1], 0),
    ([0.8, 0.9, 0.6, 0.7], [0.1, 0.2, 0.1, 0.1], 0),
    ([0.1, 0.1, 0.1, 0.1], [0.9, 0.8, 0.9, 0.7], 1),
    ([0.2, 0.1, 0.1, 0.2], [0.7, 0.9, 0.8, 0.8], 1),
]


def context(
    folder: Path, source: PlantedSource, explainer: PlantedExplainer | None = None, **settings: Any
) -> StudyContext:
    """A study's context in this world."""
    return StudyContext(explainer or PlantedExplainer(), source, folder, settings)  # type: ignore[arg-type]


def donors_of(folder: Path, source: PlantedSource, explainer: PlantedExplainer | None = None) -> tuple[Donors, Records]:
    """The exemplars of this world, and the study's records."""
    study = context(folder, source, explainer)
    records = study.records()
    return Donors(study, records), records
