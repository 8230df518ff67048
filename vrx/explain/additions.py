"""What adding a missing concept gains by the classifier in training photos: asked once, whatever the GRN."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vrx.explain.absence import Typical
from vrx.explain.contrast import Contrast
from vrx.explain.contributions import evaluating
from vrx.structures import SCG

if TYPE_CHECKING:
    from vrx.explain.explainer import Explainer

Table = Mapping[str, Tensor]
PER_CLASS, MOST = 5, 200  # photos of each class, and of all


def calibration_rows(labels: Tensor, seed: int = 0) -> list[int]:
    """Rows of the training table to which missing concepts are added: at random, of every class in turn."""
    order = np.random.default_rng(seed).permutation(len(labels))
    classes = [order[labels.numpy()[order] == c][:PER_CLASS] for c in labels.unique().tolist()]
    return [int(rows[k]) for k in range(PER_CLASS) for rows in classes if k < len(rows)][:MOST]


def ask_additions(
    explainer: Explainer, table: Table, rows: Sequence[int], read: Callable[[int], Tensor]
) -> dict[str, Tensor]:
    """Add every missing concept to some photos of the table, one at a time, and ask the classifier; not the GRN.

    ``read``: index of a photo -> the photo, normalised ``[3, H, W]``.

    Returns:
        ``row``; ``graph`` of the photo's n and ``concept`` of it, int64 ``[R]``; ``gains`` of each class's margin,
        float64 ``[R, n]``.
    """
    keys, gains = [], [torch.zeros(0, table["logits"].shape[1], dtype=torch.float64)]
    for row in tqdm(rows, desc="adding missing concepts", unit="photo", leave=False):
        contrast, (scg, logits) = _contrast(explainer, table, row), _photo(table, row)
        x = read(int(table["index"][row]))
        wanted = [(index, k) for index in range(len(logits)) for k in contrast.missing(scg, index)]
        if wanted:
            keys += [(row, *one) for one in wanted]
            gains.append(contrast.measured_gains(x, scg, logits, wanted))
    found = torch.tensor(keys, dtype=torch.int64).reshape(-1, 3)
    row_of, graph, concept_of = (column.contiguous() for column in found.T)
    return {"row": row_of, "graph": graph, "concept": concept_of, "gains": torch.cat(gains)}


def calibrated(explainer: Explainer, table: Table, asked: Table) -> Typical:
    """What is normal for the classes, with the gains of :func:`ask_additions` beside what the GRN expects of each.

    Raises:
        ValueError: the explainer does not know what is normal.
    """
    if explainer.typical is None:
        raise ValueError("an explainer without typical values has nothing to calibrate")
    added = []
    with evaluating(explainer.grn):
        for row in asked["row"].unique_consecutive().tolist():
            contrast, (scg, logits), here = _contrast(explainer, table, row), _photo(table, row), asked["row"] == row
            keys = zip(
                asked["graph"][here].tolist(), asked["concept"][here].tolist(), asked["gains"][here], strict=True
            )
            for graph, concept, gain in keys:
                one = contrast.addition(scg, logits, graph, concept, gain)
                added.append(one.of_class(int(table["classes"][row, graph])) if "classes" in table else one)
    return explainer.typical.calibrated(added)


def _photo(table: Table, row: int) -> tuple[SCG, Tensor]:
    """Graphs ``[n, N, ...]`` and logits ``[n]`` of one photo."""
    return SCG.of(table, torch.tensor([row]))[0], table["logits"][row]


def _contrast(explainer: Explainer, table: Table, row: int) -> Contrast:
    """Of the classes that the photo has graphs of."""
    names = explainer.bank.class_names
    local = explainer.of([names[c] for c in table["classes"][row].tolist()] if "classes" in table else names)
    assert local.typical is not None
    return Contrast(local.classifier, local.editor, local.grn, local.typical, local.bank)
