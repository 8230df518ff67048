"""What F says of a photo without one patch, and without two, read in its own maps: what graphs know of relations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vrx.classifier.classifier import Classifier
from vrx.classifier.responses import faded_logits
from vrx.structures import UNMATCHED, patch_pairs

MOST_PATCHES = 6  # of a photo are asked about in pairs: as many as are players of what pairs count for


@dataclass(frozen=True)
class Fades:
    """Of K patches of one photo; M = ``MOST_PATCHES``, all in centred logits of the n classes of interest.

    Args:
        falls: what each class loses with each patch alone, ``[K, n]``.
        pairs: what two patches give together beyond what each gives alone, the mean of where all others are there and
            where none of the M is, in the order of :func:`patch_pairs`, ``[M(M-1)/2, n]``; 0 where there are fewer.
        among: which of the M each patch is, int64 ``[K]``; ``UNMATCHED``: none.
    """

    falls: Tensor
    pairs: Tensor
    among: Tensor

    @property
    def matrix(self) -> Tensor:
        """The pairs of all patches, symmetric, 0 where they are not known, ``[n, K, K]``."""
        first, second = patch_pairs(MOST_PATCHES)
        whole = self.pairs.new_zeros(MOST_PATCHES + 1, MOST_PATCHES + 1, self.pairs.shape[1])
        whole[first, second] = whole[second, first] = self.pairs
        return whole[self.among][:, self.among].permute(2, 0, 1)  # UNMATCHED, the last, holds zeros

    @property
    def alone(self) -> Tensor:
        """What each patch gives each class apart from all pairs, ``[K, n]``."""
        return self.falls - self.matrix.sum(2).T


def fades(
    classifier: Classifier,
    x: Tensor,
    empty: Tensor,
    layer: str,
    regions: Sequence[Tensor],
    asked: Sequence[NDArray[np.int64]],
) -> list[Fades]:
    """Ask F about every patch, and about every pair of some, by :func:`~vrx.classifier.responses.faded_logits`.

    Args:
        x: normalised photos ``[B, 3, H, W]``.
        empty: the same without any of their patches.
        layer: at which maps are joined.
        regions: how much of each cell belongs to each patch, float ``[K_b, rows, columns]`` in [0, 1].
        asked: the patches of each photo that are asked about in pairs, ``MOST_PATCHES`` at most.
    """
    chosen = [torch.from_numpy(patches) for patches in asked]
    sets = [_sets(len(region), some) for region, some in zip(regions, chosen, strict=True)]
    values = faded_logits(classifier, x, empty, layer, regions, sets)
    return [_read(v, len(region), some) for v, region, some in zip(values, regions, chosen, strict=True)]


def _sets(patches: int, chosen: Tensor) -> Tensor:
    """What is faded, bool ``[1 + K + 2 pairs + 1 + m, K]``: nothing; each patch; each pair of the m chosen; all chosen;
    all chosen but each; all chosen but each pair.
    """
    each = torch.eye(patches, dtype=torch.bool)
    single = each[chosen]
    first, second = patch_pairs(len(chosen))
    pair = single[first] | single[second]
    nothing, every = torch.zeros(1, patches, dtype=torch.bool), single.any(0, keepdim=True)
    return torch.cat([nothing, each, pair, every, every & ~single, every & ~pair])


def _read(values: Tensor, patches: int, chosen: Tensor) -> Fades:
    """Values of :func:`_sets`, ``[..., n]`` -> what they say of patches and pairs."""
    count = len(chosen)
    first, second = patch_pairs(count)
    whole, each, pair, none, single, two = values.split([1, patches, len(first), 1, count, len(first)])
    falls = whole - each
    above = falls[chosen[first]] + falls[chosen[second]] - (whole - pair)
    below = two - single[first] - single[second] + none
    pairs = values.new_zeros(MOST_PATCHES, MOST_PATCHES, values.shape[1])
    pairs[first, second] = (above + below) / 2
    among = torch.full((patches,), UNMATCHED)
    among[chosen] = torch.arange(count)
    return Fades(falls, pairs[tuple(patch_pairs(MOST_PATCHES))], among)


def asked_in_pairs(matched: NDArray[np.int64], predicted: int, areas: NDArray[np.float32]) -> NDArray[np.int64]:
    """Which of K matched patches are asked about in pairs: those of the predicted class first, large ones first.

    Args:
        matched: ``[n, N]``.
        predicted: the class that F predicts.
        areas: of the patches, ``[K]``.
    """
    others = ~np.isin(np.arange(len(areas)), matched[predicted])
    return np.lexsort((-areas, others))[:MOST_PATCHES]
