"""A patch of a photo in its surroundings, as a small square picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.segmentation import find_boundaries

THUMBNAIL = 96  # pixels a side


def thumbnail(image: NDArray[np.uint8], mask: NDArray[np.bool_], size: int = THUMBNAIL) -> NDArray[np.uint8]:
    """A patch, bool ``[H, W]``, of a photo, uint8 ``[H, W, 3]``, in its surroundings, outlined: a square picture."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    side = min(int(1.6 * max(np.ptp(rows) + 1, np.ptp(columns) + 1, 0.15 * height)), height, width)
    top = int(np.clip((rows[0] + rows[-1] - side) // 2 + 1, 0, height - side))
    left = int(np.clip((columns[0] + columns[-1] - side) // 2 + 1, 0, width - side))
    box = (slice(top, top + side), slice(left, left + side))
    picture = Image.fromarray(image[box]).resize((size, size), Image.Resampling.BILINEAR)
    inside = np.asarray(Image.fromarray(mask[box]).resize((size, size), Image.Resampling.NEAREST))
    pixels = np.asarray(picture).astype(np.float32)
    pixels[~inside] = 0.55 * pixels[~inside] + 0.45 * 255  # the surroundings stay readable, but step back
    pixels[find_boundaries(np.pad(inside, 1), mode="inner")[1:-1, 1:-1]] = (40, 40, 40)
    return pixels.astype(np.uint8)
