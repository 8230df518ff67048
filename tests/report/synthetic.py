"""Plausible banks and explanations of painted photos, for the tests of words, figures and reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vrx.bank import ConceptBank
from vrx.explanation import Counterfactual, Explanation, Relations
from vrx.structures import NEUTRAL, UNMATCHED, Patches, edges

NAMES = ("fire engine", "ambulance", "school bus", "tank", "jeep", "city bus")


def paint(size: int, seed: int) -> NDArray[np.uint8]:
    """A street with a coloured vehicle on it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    image = np.where(y[..., None] < 0.55, (170, 200, 235), (110, 110, 105)).astype(float)
    image += rng.normal(0, 6, image.shape)
    body = (np.abs(x - 0.5) < 0.36) & (np.abs(y - 0.55) < 0.17)
    image[body] = rng.choice([(190, 25, 25), (240, 240, 235), (240, 180, 20)])
    image[(np.abs(x - 0.72) < 0.1) & (np.abs(y - 0.48) < 0.06)] = (60, 80, 110)
    for centre in (0.28, 0.68):
        image[np.hypot(x - centre, y - 0.72) < 0.075] = (25, 25, 28)
    image[(np.abs(x - 0.45) < 0.28) & (np.abs(y - 0.36) < 0.012)] = (230, 230, 230)
    return image.clip(0, 255).astype(np.uint8)


def make_bank(classes: int = 3, concepts: int = 4, exemplars: int = 5, missing: bool = False) -> ConceptBank:
    rng = np.random.default_rng(7)
    lead = (classes, concepts)
    radius = np.full(lead, 0.5, np.float32)
    if missing:
        radius[0, -1] = -1
    thumbnails = np.zeros((*lead, exemplars, 96, 96, 3), np.uint8)
    for at in np.ndindex(*lead, exemplars):
        photo = paint(160, sum(at))
        left, top = rng.integers(0, 64, 2)
        thumbnails[at] = photo[top : top + 96, left : left + 96]
    return ConceptBank(
        NAMES[:classes],
        rng.normal(size=(*lead, 8)).astype(np.float32),
        radius,
        rng.normal(1.0, 0.8, lead).astype(np.float32),
        rng.choice([0.0004, 0.012, 0.3], lead).astype(np.float32),
        thumbnails,
        [[[f"{c}/{k}/{e}.png" for e in range(exemplars)] for k in range(concepts)] for c in range(classes)],
    )


def make_explanation(classes: int = 3, concepts: int = 4, size: int = 128, seed: int = 0, **change: Any) -> Explanation:
    """Ellipses as patches, scores that follow the measured effects with some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    detected = rng.random((classes, concepts)) < 0.85
    centroids = np.where(detected[..., None], rng.uniform(0.12, 0.88, (classes, concepts, 2)), NEUTRAL)
    widths = rng.uniform(0.06, 0.16, (classes, concepts, 2))
    distance = [
        np.hypot((x - c[0]) / w[0], (y - c[1]) / w[1])
        for c, w in zip(centroids.reshape(-1, 2), widths.reshape(-1, 2), strict=True)
    ]
    masks = (np.stack(distance).reshape(classes, concepts, size, size) < 1) & detected[..., None, None]
    measured = np.where(detected, rng.normal(0, 1.5, (classes, concepts)), np.nan)
    own = np.arange(classes)
    measured[0] = np.abs(measured[0])
    measured[1:] -= 0.8
    nodes = rng.normal(0, 0.3, (classes, classes, concepts))
    nodes[own, own] = np.nan_to_num(measured) * 0.9 + rng.normal(0, 0.4, (classes, concepts))
    links = rng.normal(0, 0.4, (classes, classes, edges(concepts).shape[1]))
    logits = np.linspace(2.5, 0, classes) + rng.normal(0, 0.1, classes)
    values: dict[str, Any] = {
        "image": paint(size, seed),
        "x": torch.zeros(3, size, size),
        "name": "photos/fire engine/0001.jpg",
        "class_names": NAMES[:classes],
        "logits": logits,
        "grn_logits": logits + rng.normal(0, 0.15, classes),
        "node_scores": (nodes * detected).astype(np.float32),
        "edge_scores": links.astype(np.float32),
        "centroids": centroids.astype(np.float32),
        "measured": measured.astype(np.float32),
        "true_class": 0,
        "provenance": {"contributions": "knockout"},
    }
    for name in ("probabilities", "grn_probabilities"):
        if name in change:
            values[name.replace("probabilities", "logits").removeprefix("_")] = np.log(change.pop(name) + 1e-12)
    detected, masks = change.pop("detected", detected), change.pop("masks", masks)
    labels = np.where(detected, np.arange(classes * concepts).reshape(detected.shape) + 1, UNMATCHED)
    layers = masks.reshape(-1, *masks.shape[2:]) * (np.arange(classes * concepts) + 1)[:, None, None]
    values |= {
        "matched": labels,
        "superpixels": Patches(layers.astype(np.int16), labels[detected]),
        "attended": labels[detected],
    }
    return Explanation(**{**values, **change})


Ends = Mapping[tuple[int, int], Sequence[float]]


def make_relations(labels: Sequence[int], n: int = 3, noise: float = 0.0, **change: Any) -> Relations:
    """Relations of the patches with these labels: 0 but for what is given, measured as predicted.

    Args:
        labels: of the players.
        n: classes.
        noise: how far the second fill is from the first.
        change: ``together``, ``together_measured``: values ``[n]`` of pairs of labels, ``placed``, ``placed_measured``:
            of (i, j), the place of j because of i; and all that :class:`Relations` takes. Moving j costs the most
            that its place counts for because of anybody.
    """
    count = len(labels)
    tables: dict[str, NDArray[np.float64]] = {}
    for kind in ("together", "placed"):
        predicted: Ends = change.pop(kind, {})
        for name, ends in (
            (kind, predicted),
            (f"{kind}_measured", {**predicted, **change.pop(f"{kind}_measured", {})}),
        ):
            tables[name] = table = np.zeros((count, count, n))
            for pair, values in ends.items():
                i, j = (list(labels).index(label) for label in pair)
                table[i, j] = values
                if kind == "together":
                    table[j, i] = values
        tables[f"{kind}_second"] = tables[f"{kind}_measured"] + noise
    values: dict[str, Any] = {name.replace("together", "pairs"): table for name, table in tables.items()}
    for fill in ("", "_second"):
        costs = tables["placed_second" if fill else "placed_measured"]
        most = np.abs(costs).argmax(0, keepdims=True)
        values[f"moved{fill}"] = np.take_along_axis(costs, most, 0)[0]
    values |= {"main": np.zeros((count, n)), "main_measured": np.zeros((count, n)), "empty": np.zeros(n)}
    return Relations(labels=np.array(labels), **{**values, **change})


def make_gain(
    graph: int,
    concept: int,
    predicted: Sequence[float],
    measured: Sequence[float] | None = None,
    noise: float = 0.0,
    anchor: int = UNMATCHED,
    place: tuple[float, float] = (0.5, 0.5),
) -> Counterfactual:
    """A concept (from 0) put where it belongs, measured as predicted."""
    gains = [np.array(values, float) for values in (predicted, predicted if measured is None else measured)]
    return Counterfactual(graph, concept, anchor, place, *gains, np.full(len(predicted), noise))
