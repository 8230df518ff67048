"""Edit a photo as F sees it: take the pixels of a concept away. Pure functions on normalised batches.

A hard-edged patch of one colour is itself something that F reacts to. The default fill therefore paints the
hole from its surroundings and feathers its edge ("remove and debias", Rong et al., ICML 2022); how much this
matters is measured in ``docs/results.md``.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from vrx.structures import VRXError

Fill = Literal["inpaint", "blur", "mean", "grey"]


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian blur of ``[B, C, H, W]`` with replicated borders; ``sigma`` in pixels.

    A wide blur is done on a smaller copy: it holds no detail that the copy would lose.
    """
    height, width = x.shape[-2:]
    step = max(1, min(int(sigma / 3), height // 8, width // 8))
    small = F.interpolate(x, size=(-(-height // step), -(-width // step)), mode="area") if step > 1 else x
    radius = max(1, round(3 * sigma / step))
    offsets = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-(offsets**2) / (2 * (sigma / step) ** 2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1).expand(x.shape[1], 1, 1, -1)
    across = F.conv2d(F.pad(small, (radius, radius, 0, 0), mode="replicate"), kernel, groups=x.shape[1])
    upright = kernel.transpose(2, 3).contiguous()
    small = F.conv2d(F.pad(across, (0, 0, radius, radius), mode="replicate"), upright, groups=x.shape[1])
    return F.interpolate(small, size=(height, width), mode="bilinear", align_corners=False) if step > 1 else small


def inpaint(x: Tensor, hole: Tensor) -> Tensor:
    """Fill holes smoothly from their surroundings by a push-pull pyramid (normalised convolution).

    Args:
        x: ``[B, C, H, W]``.
        hole: 1 in the hole, 0 outside, ``[B, 1, H, W]``.
    """
    levels = [(x, 1 - hole)]
    while min(levels[-1][0].shape[-2:]) > 1:  # push: average what is known into coarser levels
        colour, known = levels[-1]
        weight = F.avg_pool2d(known, 2, ceil_mode=True)
        mean = F.avg_pool2d(colour * known, 2, ceil_mode=True) / weight.clamp(min=1e-6)
        levels.append((mean, (weight * 4).clamp(max=1)))
    filled = levels[-1][0]
    for colour, known in reversed(levels[:-1]):  # pull: where nothing is known, read the coarser level
        coarse = F.interpolate(filled, size=colour.shape[-2:], mode="bilinear", align_corners=False)
        filled = known * colour + (1 - known) * coarse
    return filled


def soften(masks: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Grow masks by ``margin`` (share of the longer side) and feather their edge over the same width.

    Args:
        masks: bool or 0/1 ``[B, H, W]``.

    Returns:
        The grown mask and the blending weight, both float ``[B, 1, H, W]`` in [0, 1].
    """
    mask = masks.unsqueeze(1).float()
    radius = round(margin * max(mask.shape[-2:]))
    if radius < 1:
        return mask, mask
    wide = F.max_pool2d(mask, (1, 2 * radius + 1), stride=1, padding=(0, radius))
    grown = F.max_pool2d(wide, (2 * radius + 1, 1), stride=1, padding=(radius, 0))
    return grown, gaussian_blur(grown, radius / 2)


class Editor:
    """Deletes concepts from photos, always in the same way.

    Args:
        fill: what the hole is painted with: ``inpaint`` (its surroundings), ``blur`` (the photo, blurred),
            ``mean`` (the photo's mean colour), ``grey`` (F's mean colour, 0 after normalisation).
        margin: by how much the hole is grown and feathered, share of the longer side, in [0, 0.2].
    """

    def __init__(self, fill: Fill = "inpaint", margin: float = 0.03) -> None:
        if fill not in get_args(Fill):
            raise VRXError(f"Unknown fill {fill!r}: use one of {', '.join(get_args(Fill))}.")
        if not 0 <= margin <= 0.2:
            raise VRXError(f"edits.margin={margin} is out of range: use a share of the photo's side in [0, 0.2].")
        self.fill: Fill = fill
        self.margin = margin

    def settings(self) -> dict[str, object]:
        """What determines an edit, for cache keys."""
        return {"fill": self.fill, "margin": self.margin}

    def _background(self, x: Tensor, hole: Tensor) -> Tensor:
        if self.fill == "inpaint":
            return inpaint(x.expand(len(hole), -1, -1, -1), hole)
        if self.fill == "blur":
            return gaussian_blur(x, 0.05 * max(x.shape[-2:]))
        if self.fill == "mean":
            return x.mean((2, 3), keepdim=True)
        return torch.zeros_like(x[:, :, :1, :1])

    def delete(self, x: Tensor, masks: Tensor) -> Tensor:
        """Edit away the pixels of ``masks``.

        Args:
            x: normalised photos ``[B, 3, H, W]``, or one ``[1, 3, H, W]`` for all masks.
            masks: what to delete of each photo, bool ``[B, H, W]``.

        Returns:
            The edited photos ``[B, 3, H, W]``.
        """
        hole, alpha = soften(masks.to(x.device), self.margin)
        return alpha * self._background(x, hole) + (1 - alpha) * x
