"""Multi-resolution superpixels of a photo, and the matching features of the patches they make (3.1, 3.2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from skimage.segmentation import slic
from torch import Tensor

from vrx.classifier.classifier import Activations, Classifier
from vrx.errors import VRXError
from vrx.structures import Patches

Encoder = Literal["pooled", "crop"]


class Segmenter:
    """SLIC at several resolutions; near-duplicates between the resolutions are dropped.

    Args:
        segments: target number of superpixels at each resolution (ACE: 15, 50, 80).
        max_jaccard: of two patches that overlap by more than this, the finer one is dropped.
        compactness: SLIC's balance of colour (low) and space (high).
        min_area: smaller patches are dropped, share of the photo.
        side: longer side, in pixels, at which SLIC runs; its label map is enlarged to the photo. 0: full size.
    """

    def __init__(
        self,
        segments: Sequence[int] = (15, 50, 80),
        max_jaccard: float = 0.5,
        compactness: float = 10.0,
        min_area: float = 0.01,
        side: int = 0,
    ) -> None:
        if not segments or min(segments) < 1:
            raise VRXError(f"concepts.segments={list(segments)} must be positive numbers of superpixels.")
        self.segments = tuple(segments)
        self.max_jaccard = max_jaccard
        self.compactness = compactness
        self.min_area = min_area
        self.side = side

    def settings(self) -> dict[str, object]:
        """What determines the patches, for cache keys."""
        return {**vars(self), "segments": list(self.segments)}

    def __call__(self, image: NDArray[np.uint8]) -> Patches:
        """Segment one photo, uint8 ``[H, W, 3]``."""
        step = max(1, round(max(image.shape[:2]) / self.side)) if self.side else 1
        small = image[::step, ::step]
        labels = np.zeros((len(self.segments), *small.shape[:2]), np.int16)
        count = 0
        for resolution, number in enumerate(self.segments):
            raw = slic(small, n_segments=number, sigma=1.0, compactness=self.compactness, start_label=0)
            _, dense = np.unique(raw, return_inverse=True)  # every label, the last one too
            labels[resolution] = dense.reshape(raw.shape) + count
            count = int(labels[resolution].max()) + 1
        ids = _without_duplicates(labels, count, self.max_jaccard)
        if step > 1:
            labels = labels.repeat(step, 1).repeat(step, 2)[:, : image.shape[0], : image.shape[1]]
        patches = Patches(np.ascontiguousarray(labels), ids)
        return patches.select(patches.areas >= self.min_area)


def _without_duplicates(labels: NDArray[np.int16], count: int, max_jaccard: float) -> NDArray[np.int64]:
    """Ids of the patches to keep, coarse resolutions first; patches of one resolution never overlap."""
    flat = labels.reshape(len(labels), -1).astype(np.int64)
    sizes = np.bincount(flat.ravel(), minlength=count)
    keep = np.ones(count, bool)
    for fine in range(1, len(flat)):
        for coarse in range(fine):
            pairs, shared = np.unique(flat[coarse] * count + flat[fine], return_counts=True)
            a, b = np.divmod(pairs, count)
            twin = keep[a] & (shared > max_jaccard * (sizes[a] + sizes[b] - shared))
            keep[b[twin]] = False
    return np.flatnonzero(keep)


def attended(patches: Patches, attention: Tensor, threshold: float, share: float = 0.5) -> Patches:
    """The Grad-CAM pre-filter of 3.1: keep the patches that lie on what F attends to.

    Args:
        attention: ``[h, w]``, values >= 0, e.g. the maximum of Grad-CAM over the classes of interest.
        threshold: tau, share of the map's maximum above which a pixel is foreground, in [0, 1].
        share: a patch is kept when at least this share of it is foreground.
    """
    full = F.interpolate(attention[None, None].float(), size=patches.shape, mode="bilinear", align_corners=False)[0, 0]
    peak = float(full.max())
    if peak <= 0:
        return patches
    foreground = (full >= threshold * peak).cpu().numpy()
    return patches.select(patches.mean_of(foreground.astype(np.float32)) >= share)


def pool(patches: Patches, maps: Tensor) -> Tensor:
    """Mean of a feature map inside each patch.

    Args:
        maps: ``[D, h, w]``.

    Returns:
        ``[K, D]``.
    """
    counts = torch.from_numpy(patches.cell_counts(*maps.shape[1:])).to(maps.device)
    weights = counts / counts.sum(1, keepdim=True).clamp(min=1)
    return weights @ maps.flatten(1).T


class PatchEncoder:
    """Matching features: like parts of different photos should lie close together.

    ``pooled`` reads all patches of a photo off one pass of F (a middle layer, minus the photo's mean, L2
    normalised). ``crop`` is ACE's and the paper's way: cut the patch out, fill with the mean colour, resize,
    one pass of F a patch, pooled last layer.

    Args:
        kind: ``pooled`` or ``crop``.
        crop_batch: crops a forward pass.
    """

    def __init__(self, kind: Encoder = "pooled", crop_batch: int = 64) -> None:
        if kind not in get_args(Encoder):
            raise VRXError(f"Unknown patch encoder {kind!r}: use one of {', '.join(get_args(Encoder))}.")
        self.kind: Encoder = kind
        self.crop_batch = crop_batch

    def settings(self) -> dict[str, object]:
        """What determines the features, for cache keys."""
        return {"kind": self.kind}

    def __call__(self, classifier: Classifier, x: Tensor, activations: Activations, patches: list[Patches]) -> Tensor:
        """Features of all patches of a batch, photo after photo.

        Args:
            x: normalised photos ``[B, 3, H, W]``.
            activations: of F on ``x``; must hold ``classifier.match_layer``.
            patches: the patches of each photo.

        Returns:
            ``[sum K, Dm]``, float32.
        """
        if self.kind == "crop":
            crops = [crop for image, p in zip(x, patches, strict=True) for crop in _crops(image, p)]
            return self._encode_crops(classifier, crops)
        maps = activations.maps[classifier.match_layer]
        photos = [pool(p, m) - m.mean((1, 2)) for p, m in zip(patches, maps, strict=True)]
        return F.normalize(torch.cat(photos).float(), dim=1)

    def _encode_crops(self, classifier: Classifier, crops: list[Tensor]) -> Tensor:
        last = classifier.layers[-1].name
        features = [
            classifier.inspect(torch.stack(crops[i : i + self.crop_batch]), layers=[last], gradcam=False)
            .maps[last]
            .mean((2, 3))
            for i in range(0, len(crops), self.crop_batch)
        ]
        return torch.cat(features).float() if features else torch.zeros(0, classifier.layers[-1].channels)


def _crops(image: Tensor, patches: Patches) -> list[Tensor]:
    """Each patch cut out, its surroundings the photo's mean colour, resized to the photo's size."""
    mean = image.mean((1, 2), keepdim=True)
    crops = []
    for mask in patches.masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        inside = torch.from_numpy(mask[box]).to(image.device)
        cut = torch.where(inside, image[:, box[0], box[1]], mean)
        crops.append(
            F.interpolate(cut[None], size=image.shape[1:], mode="bilinear", align_corners=False, antialias=True)[0]
        )
    return crops
