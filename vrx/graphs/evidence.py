"""What a node may hold: plain attributions of regions of a photo to every class (3.2.1)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vrx.classifier.classifier import Activations, Classifier
from vrx.concepts.patches import pool
from vrx.edits import soften
from vrx.graphs.fading import Fades
from vrx.structures import NEUTRAL, UNMATCHED, Patches


class Evidence:
    """Plain attributions of K regions of one photo to every class, read off F's pass over the clean photo.

    All are ``[K, n]``: F's head on the pooled last layer (``head``), that times the area, and gradient x activation
    summed over the region at several depths. Sums are taken over a patch as an edit would delete it: grown and
    feathered.

    Args:
        activations: of F on the batch.
        photo: which photo of the batch.
        weights: how much of each cell belongs to the region, in [0, 1], ``[K, rows, columns]``.
        pooled: mean of the last layer's map over the region, ``[K, D]``.
        head: F's head on it, ``[K, n]``.
        shape: area (share of the photo), its root, and the centre (x, y), ``[K, 4]``.
    """

    GRID = 56  # rows of the grid on which regions are softened

    def __init__(
        self, activations: Activations, photo: int, weights: Tensor, pooled: Tensor, head: Tensor, shape: Tensor
    ) -> None:
        self._activations, self._photo = activations, photo
        self.weights, self.pooled, self.shape = weights, pooled, shape
        self.head = head - head.mean(1, keepdim=True)
        self.area = shape[:, :1]
        self.fades: Fades | None = None  # of the patches of a photo, where they were asked about
        self._on_grid: dict[tuple[int, int], Tensor] = {}  # the weights on the grids of maps, made once each

    @classmethod
    def of_patches(
        cls, classifier: Classifier, activations: Activations, photo: int, patches: Patches, margin: float
    ) -> Evidence:
        """Of the patches of one photo; ``margin``: by how much an edit grows them, share of the photo's side."""
        pooled = pool(patches, activations.maps[classifier.layers[-1].name][photo]).float()
        area = torch.from_numpy(patches.areas)[:, None]
        rows, columns = (min(cls.GRID, side) for side in patches.shape)
        share = torch.from_numpy(patches.cell_shares(rows, columns)).reshape(-1, rows, columns)
        soft = soften(share, margin)[1][:, 0] if len(share) else share
        shape = torch.cat([area, area.sqrt(), torch.from_numpy(patches.centroids)], dim=1)
        return cls(activations, photo, soft, pooled.cpu(), classifier.head_values(pooled).float().cpu(), shape)

    def rest(self, classifier: Classifier, matched: NDArray[np.int64]) -> Evidence:
        """Of what is left of the photo in each graph when the patches of its nodes are taken out: n regions."""
        left = torch.stack([1 - self._covered(row[row != UNMATCHED]) for row in matched])
        last = self._activations.maps[classifier.layers[-1].name][self._photo].float().cpu()
        share = F.adaptive_avg_pool2d(left[:, None], (last.shape[1], last.shape[2])).flatten(1)
        pooled = (share @ last.flatten(1).T) / share.sum(1, keepdim=True).clamp(min=1e-6)
        area = left.mean((1, 2))[:, None]
        shape = torch.cat([area, area.sqrt(), torch.full((len(left), 2), NEUTRAL)], dim=1)
        head = classifier.head_values(pooled.to(classifier.device)).float().cpu()
        return Evidence(self._activations, self._photo, left, pooled, head, shape)

    def _covered(self, patches: NDArray[np.int64]) -> Tensor:
        return self.weights[patches].amax(0) if len(patches) else torch.zeros(self.weights.shape[1:])

    def _over_region(self, maps: Tensor) -> Tensor:
        """Sum of ``[n, h, w]`` over each region, in units of whole cells: ``[K, n]``."""
        if not len(self.weights):
            return torch.zeros(0, len(maps))
        grid = (maps.shape[1], maps.shape[2])
        if grid not in self._on_grid:
            self._on_grid[grid] = F.adaptive_avg_pool2d(self.weights[:, None], grid).flatten(1)
        return self._on_grid[grid] @ maps.flatten(1).T.float().cpu()

    def gradient(self, source: str, layer: str) -> Tensor:
        """One of ``GRADIENTS`` at one layer, ``[K, n]``."""
        maps = {
            "gradact": self._activations.grad_act,
            "gradact_positive": self._activations.grad_act_positive,
            "grad_diff": self._activations.grad_diff,
        }[source]
        return self._over_region(maps[layer][self._photo])

    @property
    def lost(self) -> tuple[Tensor, Tensor]:
        """``falls`` and ``alone`` of :class:`Fades`, ``[K, n]`` each; 0 of what was not asked about."""
        if self.fades is None:
            return torch.zeros_like(self.head), torch.zeros_like(self.head)
        return self.fades.falls, self.fades.alone

    def gradcam_sum(self) -> Tensor:
        """Grad-CAM of each class summed over the region, ``[K, n]``."""
        return self._over_region(self._activations.gradcam[self._photo])
