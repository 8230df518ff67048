"""What adding a missing concept gains by the classifier in training photos: asked once, whatever the GRN."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vrx.explain.absence import Typical
from vrx.explain.contrast import Contrast
from vrx.explain.contributions import evaluating
from vrx.structures import SCG

Table = Mapping[str, Tensor]
PER_CLASS, MOST = 5, 200  # photos of each class, and of all


def calibration_rows(labels: Tensor, seed: int = 0) -> list[int]:
    """Rows of the training table to which missing concepts are added: at random, of every class in turn."""
    order = np.random.default_rng(seed).permutation(len(labels))
    classes = [order[labels.numpy()[order] == c][:PER_CLASS] for c in labels.unique().tolist()]
    return [int(rows[k]) for k in range(PER_CLASS) for rows in classes if k < len(rows)][:MOST]


def ask_additions(
    contrast: Contrast, table: Table, rows: list[int], read: Callable[[int], Tensor]
) -> dict[str, Tensor]:
    """Add every missing concept of every class to some photos, one at a time, and ask the classifier.

    Args:
        contrast: of the run; its GRN is not asked.
        table: the graphs of the photos.
        rows: of it.
        read: index of a photo -> the photo, normalised ``[3, H, W]``.

    Returns:
        ``row``, ``graph``, ``concept``, int64 ``[R]``, and ``gains`` of each class's margin, float64 ``[R, n]``.
    """
    keys, gains = [], [torch.zeros(0, table["logits"].shape[1], dtype=torch.float64)]
    for row in tqdm(rows, desc="adding missing concepts", unit="photo", leave=False):
        scg, logits, x = SCG.of(table, torch.tensor([row]))[0], table["logits"][row], read(int(table["index"][row]))
        for index, concept in ((g, k) for g in range(len(logits)) for k in contrast.missing(scg, g)):
            keys.append((row, index, concept))
            gains.append(contrast.measured_gain(x, scg, logits, index, concept)[0][None])
    found = torch.tensor(keys, dtype=torch.int64).reshape(-1, 3)
    names = ("row", "graph", "concept")
    return {name: column.contiguous() for name, column in zip(names, found.T, strict=True)} | {
        "gains": torch.cat(gains)
    }


def calibrated(contrast: Contrast, table: Table, asked: Table) -> Typical:
    """What is normal for the classes, with the gains of :func:`ask_additions` beside what the GRN expects of each."""
    with evaluating(contrast.grn):
        added = [
            contrast.addition(SCG.of(table, torch.tensor([row]))[0], table["logits"][row], graph, concept, gain)
            for row, graph, concept, gain in zip(
                *(asked[name].tolist() for name in ("row", "graph", "concept")), asked["gains"], strict=True
            )
        ]
    return contrast.typical.calibrated(added)
