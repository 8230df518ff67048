"""Concept-masked variants of a photo and what F says of each (3.2.2: "randomly mask out one of the concepts")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vrx.classifiers import Classifier
from vrx.edits import Editor
from vrx.graphs.matching import UNMATCHED
from vrx.graphs.scg import PhotoGraphs
from vrx.structures import Patches


@dataclass(frozen=True)
class Variants:
    """What becomes of B photos when one matched patch after the other is edited away, at most V = n N a photo.

    Args:
        drop: nodes that lose their patch in each variant, bool ``[B, V, n, N]``: those of the edited patch and, in
            every hypothesis alike, those whose patch is covered by it.
        logits: of F on the edited photo, ``[B, V, n]``.
        valid: which places hold a variant, bool ``[B, V]``.
        of_node: the variant in which each node's own patch is edited away, int64 ``[B, n, N]``; -1 for dummies.
    """

    drop: Tensor
    logits: Tensor
    valid: Tensor
    of_node: Tensor


def covered_by(matched: NDArray[np.int64], patches: Patches, share: float = 0.5) -> tuple[NDArray[np.int64], Tensor]:
    """The distinct patches of one photo's nodes, and which nodes each of them covers.

    Args:
        matched: ``[n, N]``.
        share: a node is covered when this share of its patch's pixels is gone.

    Returns:
        Patch indices ``[V]`` and ``drop`` bool ``[V, n, N]``.
    """
    used = np.unique(matched[matched != UNMATCHED])
    masks = patches.select(used).masks.reshape(len(used), patches.shape[0] * patches.shape[1]).astype(np.float32)
    overlap = masks @ masks.T >= share * masks.sum(1)  # [edited, node's patch]
    np.fill_diagonal(overlap, True)
    place = np.searchsorted(used, np.where(matched == UNMATCHED, -1, matched)).clip(max=max(len(used) - 1, 0))
    drop = overlap[:, place] & (matched != UNMATCHED) if len(used) else np.zeros((0, *matched.shape), bool)
    return used, torch.from_numpy(drop)


def ask_edited(classifier: Classifier, editor: Editor, x: Tensor, masks: Tensor, batch: int = 64) -> Tensor:
    """F's logits on edits of one photo.

    Args:
        x: the photo ``[3, H, W]``.
        masks: what to delete in each edit, bool ``[V, H, W]``.

    Returns:
        ``[V, n]`` on the CPU.
    """
    with torch.inference_mode():
        answers = [
            classifier(editor.delete(x[None], part)).float().cpu() for part in masks.split(batch)
        ]
    return torch.cat(answers) if answers else torch.zeros(0, len(classifier.class_names))


def concept_variants(classifier: Classifier, editor: Editor, x: Tensor, graphs: PhotoGraphs) -> Variants:
    """Edit away each distinct matched patch of each photo, and ask F.

    Args:
        x: normalised photos ``[B, 3, H, W]``.
        graphs: their graphs.
    """
    matched = graphs.matched
    size, n, num = matched.shape
    most = n * num
    drop = torch.zeros(size, most, n, num, dtype=torch.bool)
    logits = torch.zeros(size, most, n)
    valid = torch.zeros(size, most, dtype=torch.bool)
    of_node = torch.full((size, n, num), -1)
    for b, patches in enumerate(graphs.patches):
        used, gone = covered_by(matched[b], patches)
        count = len(used)
        masks = torch.from_numpy(patches.select(used).masks)
        logits[b, :count] = ask_edited(classifier, editor, x[b], masks)
        drop[b, :count], valid[b, :count] = gone, True
        of_node[b] = torch.from_numpy(np.where(matched[b] == UNMATCHED, -1, np.searchsorted(used, matched[b])))
    return Variants(drop, logits, valid, of_node)
