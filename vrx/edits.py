"""Edit a photo as F sees it: take the pixels of a concept away, put others there, or move them. Pure functions.

A hard-edged patch of one colour is itself something that F reacts to. The default fill therefore paints the
hole from its surroundings and feathers its edge ("remove and debias", Rong et al., ICML 2022); how much this
matters is measured in ``docs/results.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vrx.errors import VRXError

Fill = Literal["inpaint", "blur", "mean", "grey"]
FAR = 0.25  # least way of a moved patch, share of the photo's longer side
LARGEST = 0.15  # share of the photo: larger patches are not moved


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
    """Grow masks by ``margin`` (share of the longer side) and feather the grown edge, inwards and outwards.

    The feather is a Gaussian of half the margin, cut off at one and a half: nothing further than two and a half
    margins from a mask has a weight.

    Args:
        masks: bool or 0/1 ``[B, H, W]``.

    Returns:
        The grown mask and the blending weight, both float ``[B, 1, H, W]`` in [0, 1].
    """
    mask = masks.unsqueeze(1)
    radius = round(margin * max(mask.shape[-2:]))
    if radius < 1:
        return mask.float(), mask.float()
    grown = _dilated(_dilated(mask, radius, -1), radius, -2).float()
    return grown, gaussian_blur(grown, radius / 2)


def _dilated(mask: Tensor, radius: int, dim: int) -> Tensor:
    """The largest of the ``2 * radius + 1`` values >= 0 around each, along one of the last two dimensions.

    Windows of 2, 4, 8, ... values are made of two of half the length: thirty times faster than ``max_pool2d`` on a CPU.
    """
    window, reached = F.pad(mask, (radius, radius, 0, 0) if dim == -1 else (0, 0, radius, radius)), 1
    while reached < 2 * radius + 1:
        step = min(reached, 2 * radius + 1 - reached)
        length = window.shape[dim] - step
        window = torch.maximum(window.narrow(dim, 0, length), window.narrow(dim, step, length))
        reached += step
    return window


class Editor:
    """Deletes concepts from photos, always in the same way.

    Args:
        fill: what the hole is painted with: ``inpaint`` (its surroundings), ``blur`` (the photo, blurred),
            ``mean`` (the photo's mean colour), ``grey`` (F's mean colour, 0 after normalisation).
        margin: by how much the hole is grown and feathered, share of the longer side, in [0, 0.2].
    """

    def __init__(self, fill: Fill = "blur", margin: float = 0.027) -> None:
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
        """Delete the pixels of ``masks``.

        Args:
            x: normalised photos ``[B, 3, H, W]``, or one ``[1, 3, H, W]`` for all masks.
            masks: what to delete of each photo, bool ``[B, H, W]``.

        Returns:
            The edited photos ``[B, 3, H, W]``.
        """
        hole, alpha = soften(masks.to(x.device), self.margin)
        return alpha * self._background(x, hole) + (1 - alpha) * x

    def paste(self, x: Tensor, masks: Tensor, layers: Tensor) -> Tensor:
        """Let ``layers`` show in the place of ``masks``, blended like every edit (4.2, 4.3).

        Args:
            x: normalised photos ``[B, 3, H, W]``.
            masks: what to replace of each photo, bool ``[B, H, W]``.
            layers: what to put there, ``[B, 3, H, W]``; see :func:`placed`.

        Returns:
            The edited photos ``[B, 3, H, W]``.
        """
        _, alpha = soften(masks.to(x.device), self.margin)
        return alpha * layers.to(x.device) + (1 - alpha) * x

    def move(self, x: Tensor, masks: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Move patches to another place of the same photo and fill what they leave behind (4.3).

        Args:
            x: normalised photos ``[B, 3, H, W]``.
            masks: what to move, bool ``[B, H, W]``.
            offsets: (dx, dy) in pixels, right and down, int ``[B, 2]``; shortened so that the patch stays inside.

        Returns:
            The edited photos ``[B, 3, H, W]`` and where the patches are now, bool ``[B, H, W]``.
        """
        _, alpha = soften(masks.to(x.device), self.margin)
        emptied, edited, places = self.delete(x, masks), [], []
        for photo, left, weight, mask, offset in zip(x, emptied, alpha, masks, offsets.tolist(), strict=True):
            dx, dy = _inside(_box(mask), offset, (x.shape[2], x.shape[3])) if mask.any() else (0, 0)
            weight = shifted(weight, dx, dy)
            edited.append(weight * shifted(photo, dx, dy) + (1 - weight) * left)
            places.append(shifted(mask, dx, dy))
        return (torch.stack(edited), torch.stack(places)) if edited else (x, masks)


Box = tuple[int, int, int, int]
"""Top, left, bottom (exclusive), right (exclusive), pixels."""


def _box(mask: Tensor) -> Box:
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    if not len(rows):
        raise ValueError("an empty mask has no place: give a patch with at least one pixel")
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _inside(box: Box, offset: Sequence[float], shape: tuple[int, int]) -> tuple[int, int]:
    """The offset (dx, dy), shortened so that the box stays inside the photo."""
    dx, dy = (round(v) for v in offset)
    return max(-box[1], min(dx, shape[1] - box[3])), max(-box[0], min(dy, shape[0] - box[2]))


def shifted(x: Tensor, dx: int, dy: int) -> Tensor:
    """``[..., H, W]`` moved right by ``dx`` and down by ``dy`` pixels; what enters at the border is 0."""
    return F.pad(x, (dx, -dx, dy, -dy))


def slid(x: Tensor, dx: int, dy: int) -> Tensor:
    """``[B, C, H, W]`` moved right by ``dx`` and down by ``dy`` pixels; the border's values go on."""
    left, top = max(-dx, 0), max(-dy, 0)
    padded = F.pad(x, (max(dx, 0), left, max(dy, 0), top), mode="replicate")
    return padded[..., top : top + x.shape[2], left : left + x.shape[3]]


def far_offset(
    mask: NDArray[np.bool_], others: NDArray[np.bool_], rng: np.random.Generator, tries: int = 24
) -> tuple[int, int] | None:
    """Where to move a patch: of random places far enough away, inside the photo, the one that covers others least.

    Returns:
        (dx, dy) in pixels; None when the patch is empty or too large, or no place is far enough.
    """
    if not 0 < mask.mean() <= LARGEST:
        return None
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    least = FAR * max(height, width)
    drawn = np.stack(
        [
            rng.integers(-columns[0], width - columns[-1], tries),
            rng.integers(-rows[0], height - rows[-1], tries),
        ],
        axis=1,
    )
    far = drawn[np.hypot(*drawn.T) >= least]
    if not len(far):
        return None
    y, x = mask.nonzero()
    covered = [int(others[y + dy, x + dx].sum()) for dx, dy in far.tolist()]
    dx, dy = far[int(np.argmin(covered))].tolist()
    return dx, dy


def placed(donor: Tensor, donor_mask: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
    """A patch of another photo in the place of a hole, at its own size: enlarging it would blur what F reads in it.

    Its middle comes to lie on the hole's, as far as the photo's border allows; one larger than the photo is averaged
    down until it fits.

    Args:
        donor: normalised photo of any size, ``[3, Hd, Wd]``.
        donor_mask: its patch, bool ``[Hd, Wd]``, not empty.
        hole: bool ``[H, W]``, not empty.

    Returns:
        The donor photo in its new place, ``[3, H, W]`` (beyond its border its border pixels go on), and the pixels to
        replace: the hole and the patch, bool ``[H, W]``.
    """
    shape = (hole.shape[0], hole.shape[1])
    top, left, bottom, right = _box(donor_mask)
    zoom = min(1.0, shape[0] / (bottom - top), shape[1] / (right - left))
    if zoom < 1:
        size = (max(1, int(donor.shape[1] * zoom)), max(1, int(donor.shape[2] * zoom)))
        donor = F.interpolate(donor[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]
        donor_mask = F.interpolate(donor_mask[None, None].float(), size=size, mode="area")[0, 0] > 0.5
        top, left, bottom, right = _box(donor_mask)
    box = _box(hole)
    offset = [(box[1] + box[3] - left - right) / 2, (box[0] + box[2] - top - bottom) / 2]
    dx, dy = _inside((top, left, bottom, right), offset, shape)
    rows = (torch.arange(shape[0], device=donor.device) - dy).clamp(0, donor.shape[1] - 1)
    columns = (torch.arange(shape[1], device=donor.device) - dx).clamp(0, donor.shape[2] - 1)
    patch = torch.zeros(shape, dtype=torch.bool)
    patch[top + dy : bottom + dy, left + dx : right + dx] = donor_mask[top:bottom, left:right]
    return donor[:, rows][:, :, columns], patch | hole
