"""What F says of a photo without some of its regions, read in its own maps: where the evidence of concepts and of
relations comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vrx.classifier.classifier import Classifier
from vrx.classifier.layers import Hook, Layer, hooked
from vrx.scores import centred

COPIES = 256  # maps that run on from a layer at once


class _AllReadError(Exception):
    """All maps that were asked for are there."""


@torch.no_grad()
def maps_alone(classifier: Classifier, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """Feature maps of photos, float32 ``[B, D, h, w]`` by layer name: F runs no further than the last of them.

    Raises:
        VRXError: no such layer.
    """
    chosen = classifier._chosen(set(layers))
    outputs: dict[str, Tensor] = {}

    def capture(layer: Layer) -> Hook:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            outputs[layer.name] = layer.to_map(output).float()
            if len(outputs) == len(chosen):
                raise _AllReadError

        return hook

    with suppress(_AllReadError), hooked(classifier.network, {layer.name: capture(layer) for layer in chosen}):
        classifier(x)
    return outputs


def faded_logits(
    classifier: Classifier, x: Tensor, empty: Tensor, layer: str, regions: Sequence[Tensor], sets: Sequence[Tensor]
) -> list[Tensor]:
    """What F says where its own map of a photo shows, in some regions, what it shows of the photo without them.

    No pixel is edited for a set of regions: at ``layer``, one map goes over into the other inside the regions of the
    set, and F runs on from there. Shallow layers, most of the time, read each photo twice, however many sets there are.

    Args:
        x: normalised photos ``[B, 3, H, W]``.
        empty: the same photos with all regions deleted.
        layer: where the maps are joined, one of F's layers.
        regions: of each photo, how much of each cell belongs to them, float ``[P_b, rows, columns]`` in [0, 1].
        sets: the regions that are faded at a time, bool ``[Q_b, P_b]``.

    Returns:
        Centred logits of interest for each photo, ``[Q_b, n]`` on the CPU.
    """
    (where,) = classifier._chosen({layer})
    found: list[Tensor] = []
    for rows in _batches([len(s) for s in sets], COPIES):
        counts = [len(sets[b]) for b in rows]
        weights = [_on_grid(_joined(regions[b], sets[b]), where) for b in rows]
        photo = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(counts)).to(x.device)

        def fade(module: nn.Module, args: Any, output: Tensor, weights: Any = weights, photo: Tensor = photo) -> Tensor:
            whole, without = (maps[photo] for maps in output.chunk(2))
            return torch.lerp(whole, without, _spread(where, torch.cat(weights).to(output)).expand_as(whole))

        logits = x.new_zeros(0, len(classifier.class_names))
        if any(counts):
            with torch.no_grad(), hooked(classifier.network, {where.name: fade}):
                logits = classifier(torch.cat([x[rows], empty[rows]]))
        found += centred(logits.float()).cpu().split(counts)
    return found


def _joined(regions: Tensor, sets: Tensor) -> Tensor:
    """How much of each cell belongs to any region of each set, ``[Q, rows, columns]``."""
    nothing = regions.new_zeros(1, *regions.shape[1:])
    return (torch.cat([nothing, regions]) * F.pad(sets, (1, 0)).to(regions)[..., None, None]).amax(1)


def _batches(counts: Sequence[int], most: int) -> list[list[int]]:
    """Consecutive places whose counts add up to at most ``most``, or one place with more."""
    batches: list[list[int]] = []
    for place, count in enumerate(counts):
        if batches and sum(counts[b] for b in batches[-1]) + count <= most:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches


def _on_grid(regions: Tensor, layer: Layer) -> Tensor:
    """Regions on the grid of a layer's map, ``[P, h, w]``."""
    return F.adaptive_avg_pool2d(regions[:, None], layer.grid)[:, 0]


def _spread(layer: Layer, values: Tensor) -> Tensor:
    """One value per cell, ``[K, h, w]``, for every number of the module's output; 0 for prefix tokens."""
    if layer.layout == "nchw":
        return values[:, None]
    if layer.layout == "nhwc":
        return values[..., None]
    return F.pad(values.flatten(1), (layer.prefix, 0))[..., None]
