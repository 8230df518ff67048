"""Variants of a photo and what F says of each: one concept masked (3.2.2), or several at once."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vrx.classifier.classifier import Classifier
from vrx.edits import Editor
from vrx.graphs.scg import PhotoGraphs
from vrx.scores import margins
from vrx.structures import UNMATCHED, Patches


@dataclass(frozen=True)
class Variants:
    """What becomes of B photos when one matched patch after the other is deleted, at most V a photo.

    Args:
        drop: nodes that lose their patch in each variant, bool ``[B, V, n, N]``: those of the edited patch and, in
            every hypothesis alike, those whose patch is covered by it.
        logits: of F on the edited photo, ``[B, V, n]``.
        valid: which places hold a variant, bool ``[B, V]``.
        of_node: the variant in which each node's own patch is deleted, int64 ``[B, n, N]``; -1 for dummies, and
            for nodes that were not asked about.
        masks: what was deleted of each photo, bool ``[V_b, H, W]`` each.
    """

    drop: Tensor
    logits: Tensor
    valid: Tensor
    of_node: Tensor
    masks: list[Tensor]


def asked_patches(matched: NDArray[np.int64], predicted: int, limit: int, seed: int = 0) -> NDArray[np.int64]:
    """Which patches of one photo to delete: those of the predicted class' nodes first, then others at random.

    The draw depends on the photo's own matches and the seed, not on the photos beside it.

    Args:
        matched: ``[n, N]``.
        predicted: the class that F predicts.
        limit: how many at most; 0: all.
        seed: of the draw.

    Returns:
        Distinct patch indices, sorted, ``[V]``.
    """
    used = np.unique(matched[matched != UNMATCHED])
    first = np.isin(used, matched[predicted])
    order = np.argsort(np.random.default_rng([seed, *used]).random(len(used)) - first)
    return np.sort(used[order[: limit or len(used)]])


def covered_by(edited: NDArray[np.int64], matched: NDArray[np.int64], patches: Patches, share: float = 0.5) -> Tensor:
    """Which nodes of one photo lose their patch with each edit.

    Args:
        edited: patch indices ``[V]``.
        matched: ``[n, N]``.
        share: a node is covered when this share of its patch's pixels is gone.

    Returns:
        bool ``[V, n, N]``.
    """
    used = np.unique(matched[matched != UNMATCHED])
    if not len(used) or not len(edited):
        return torch.zeros(len(edited), *matched.shape, dtype=torch.bool)
    masks = patches.select(used).masks
    return _at_nodes(covered(masks[np.searchsorted(used, edited)], masks, share), used, matched)


def covered(these: NDArray[np.bool_], masks: NDArray[np.bool_], share: float = 0.5) -> NDArray[np.bool_]:
    """Whether each of ``these``, ``[V, H, W]``, covers a share of each of the masks, ``[K, H, W]``; ``[V, K]``."""
    over, under = (m.reshape(len(m), m.shape[1] * m.shape[2]).astype(np.float32) for m in (these, masks))
    return np.asarray(over @ under.T >= share * under.sum(1))


def _at_nodes(values: NDArray[np.bool_], used: NDArray[np.int64], matched: NDArray[np.int64]) -> Tensor:
    """Values of the used patches, ``[V, K]``, at the nodes matched to them, ``[V, n, N]``; False at dummies."""
    place = np.searchsorted(used, matched).clip(max=len(used) - 1)
    return torch.from_numpy(values[:, place] & (matched != UNMATCHED))


def ask_edited(classifier: Classifier, editor: Editor, x: Tensor, masks: Tensor, batch: int = 64) -> Tensor:
    """F's logits on edits of one photo.

    Args:
        x: the photo ``[3, H, W]``.
        masks: what to delete in each edit, bool ``[V, H, W]``.

    Returns:
        ``[V, n]`` on the CPU.
    """
    with torch.inference_mode():
        answers = [classifier(editor.delete(x[None], part)).cpu() for part in masks.split(batch) if len(part)]
    return torch.cat(answers) if answers else torch.zeros(0, len(classifier.class_names))


def concept_variants(
    classifier: Classifier,
    editor: Editor,
    x: Tensor,
    graphs: PhotoGraphs,
    limit: int = 0,
    seed: int = 0,
    ask: bool = True,
) -> Variants:
    """Delete matched patches of each photo, one after the other, and ask F.

    Args:
        x: normalised photos ``[B, 3, H, W]``.
        graphs: their graphs.
        limit: patches per photo at most, those of the predicted class first; 0: all.
        seed: of the choice among the others.
        ask: False: F is not asked, ``logits`` are NaN.
    """
    matched = graphs.matched
    size, n, num = matched.shape
    most = min(limit or n * num, n * num)
    drop = torch.zeros(size, most, n, num, dtype=torch.bool)
    logits = torch.zeros(size, most, n)
    valid = torch.zeros(size, most, dtype=torch.bool)
    of_node = torch.full((size, n, num), -1)
    every = []
    for b, patches in enumerate(graphs.patches):
        edited = asked_patches(matched[b], int(graphs.logits[b].argmax()), most, seed)
        count = len(edited)
        masks = torch.from_numpy(patches.select(edited).masks)
        logits[b, :count] = ask_edited(classifier, editor, x[b], masks) if ask else torch.nan
        drop[b, :count], valid[b, :count] = covered_by(edited, matched[b], patches), True
        place = np.searchsorted(edited, matched[b]).clip(max=max(count - 1, 0))
        asked = (edited[place] == matched[b]) if count else np.zeros((n, num), bool)
        of_node[b] = torch.from_numpy(np.where(asked & (matched[b] != UNMATCHED), place, -1))
        every.append(masks)
    return Variants(drop, logits, valid, of_node, every)


def shared_nodes(drop: Tensor, of_node: Tensor) -> Tensor:
    """Which nodes go together when a node's patch is deleted.

    Args:
        drop: nodes that lose their patch in each variant, bool ``[B, V, n, N]``.
        of_node: the variant of each node's own patch, int64 ``[B, n, N]``; -1 for dummies.

    Returns:
        bool ``[B, n, N, n, N]``: entry (g, k, h, l): node l of graph h goes when node k of graph g does.
    """
    size = drop.shape[0]
    picked = drop[torch.arange(size)[:, None, None], of_node.clamp(min=0)]
    return picked & (of_node >= 0)[..., None, None]


def measured_effects(logits: Tensor, variants: Variants) -> Tensor:
    """Fall of F's margin of graph g's own class when the patch of its node k is deleted.

    Args:
        logits: of F on the clean photos, ``[B, n]``.
        variants: of the same photos.

    Returns:
        float32 ``[B, n, N]``; NaN for dummies.
    """
    size, n, _ = variants.of_node.shape
    before = margins(logits.double())[:, :, None]
    after = margins(variants.logits.double())  # [B, V, n]
    own = after[torch.arange(size)[:, None, None], variants.of_node.clamp(min=0), torch.arange(n)[None, :, None]]
    return (before - own).masked_fill(variants.of_node < 0, torch.nan).float()


def drop_all(members: Tensor, drop: Tensor) -> Tensor:
    """Nodes that lose their patch with each coalition.

    Args:
        members: which variants belong to it, bool ``[..., Q, V]``.
        drop: nodes that lose their patch in each variant, bool ``[..., V, n, N]``.

    Returns:
        bool ``[..., Q, n, N]``.
    """
    return torch.einsum("...qv,...vgk->...qgk", members.float(), drop.float()) > 0


def concept_coalitions(
    classifier: Classifier, editor: Editor, x: Tensor, variants: Variants, count: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Delete pairs and larger sets of patches of each photo, and ask F: half of them pairs, as far as there are.

    Args:
        x: normalised photos ``[B, 3, H, W]``.
        variants: of the same photos, one patch each.
        count: Q, coalitions per photo at most.
        seed: of the choice; with it, a photo's coalitions depend on its own variants alone.

    Returns:
        Which variants' patches are gone, bool ``[B, Q, V]`` (none: no such coalition), and F's logits, ``[B, Q, n]``.
    """
    size, most, n = variants.logits.shape
    members, logits = torch.zeros(size, count, most, dtype=torch.bool), torch.zeros(size, count, n)
    for b, masks in enumerate(variants.masks):
        chosen = _sets(len(masks), count, np.random.default_rng([seed, len(masks), int(masks.sum())]))
        if not len(chosen):
            continue
        members[b, : len(chosen), : len(masks)] = torch.from_numpy(chosen)
        union = torch.einsum("qv,vhw->qhw", torch.from_numpy(chosen).float(), masks.float()) > 0
        logits[b, : len(chosen)] = ask_edited(classifier, editor, x[b], union)
    return members, logits


def _sets(players: int, count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Different sets of two or more of the players, at most ``count``, the first half pairs, bool ``[Q, players]``."""
    pairs = list(combinations(range(players), 2))
    chosen = [pairs[i] for i in rng.permutation(len(pairs))[: max(-(-count // 2), count if players < 3 else 0)]]
    found = dict.fromkeys(chosen)
    for _ in range(4 * count if players > 2 else 0):
        if len(found) >= count:
            break
        found.setdefault(tuple(sorted(rng.permutation(players)[: rng.integers(2, players + 1)].tolist())))
    rows = np.zeros((len(found), players), bool)
    for row, some in zip(rows, found, strict=True):
        row[list(some)] = True
    return rows
