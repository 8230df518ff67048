"""What one region of a photo does to F's reading of another: where relations come from.

The last feature map speaks for every class, cell by cell. How far what it says at one region depends on what an earlier
map holds at another region is the share of the evidence that only both together give.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vrx.classifier.activations import recording
from vrx.classifier.classifier import Classifier
from vrx.classifier.layers import Hook, Layer, hooked
from vrx.scores import centred


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


def pair_evidence(classifier: Classifier, x: Tensor, layer: str, regions: Sequence[Tensor]) -> list[Tensor]:
    """How much of the evidence that F reads at region i for each class is due to what region j holds.

    The map of ``layer`` is faded in region j alone, and F runs on from there: what its last map then says at region i
    (gradient of the class' centred logit x activation, summed over the region) is compared with before.

    Args:
        x: normalised photos ``[B, 3, H, W]``.
        layer: where regions are faded, one of F's layers before the last.
        regions: of each photo, how much of each cell belongs to them, float ``[P_b, rows, columns]`` in [0, 1].

    Returns:
        For each photo ``[n, P_b, P_b]``: class, region i that is read, region j that is faded; in logits.
    """
    (where,) = classifier._chosen({layer})
    last = classifier.layers[-1]
    counts = [len(r) for r in regions]
    photo = torch.repeat_interleave(torch.arange(len(x)), torch.tensor(counts)).to(x.device)
    maps: dict[str, Tensor] = {}

    def fade(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        gone = torch.cat([_on_grid(r, where) for r in regions]).to(output)
        kept = torch.cat([output.new_ones(len(x), *gone.shape[1:]), 1 - gone])
        return output[torch.cat([torch.arange(len(x), device=x.device), photo])] * _spread(where, kept)

    def keep(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        maps["faded"] = last.to_map(output[len(x) :]).float()
        maps["leaf"] = output[: len(x)].detach().clone().requires_grad_()
        return torch.cat([maps["leaf"], output[len(x) :]])  # a transformer adds what the layer did not see

    with recording(), hooked(classifier.network, {where.name: fade, last.name: keep}):
        logits = classifier(x.detach().clone() if x.is_inference() else x.detach())
        scores = centred(logits[: len(x)])
        slopes = [torch.autograd.grad(s.sum(), maps["leaf"], retain_graph=True)[0] for s in scores.unbind(1)]
    clean = last.to_map(maps["leaf"].detach()).float()
    change = clean[photo] - maps["faded"]
    found, start = [], 0
    for b, count in enumerate(counts):
        slope = torch.stack([last.to_map(s[b : b + 1])[0] for s in slopes]).float()
        read = torch.einsum("cdhw,jdhw->cjhw", slope, change[start : start + count])
        seen = _on_grid(regions[b], last).to(read)
        found.append(torch.einsum("cjhw,ihw->cij", read, seen).cpu())
        start += count
    return found


def _on_grid(regions: Tensor, layer: Layer) -> Tensor:
    """Regions on the grid of a layer's map, ``[P, h, w]``."""
    return F.adaptive_avg_pool2d(regions[:, None], layer.grid)[:, 0]


def _spread(layer: Layer, values: Tensor) -> Tensor:
    """One value per cell, ``[K, h, w]``, for every number of the module's output; 1 for prefix tokens."""
    if layer.layout == "nchw":
        return values[:, None]
    if layer.layout == "nhwc":
        return values[..., None]
    return F.pad(values.flatten(1), (layer.prefix, 0), value=1.0)[..., None]
