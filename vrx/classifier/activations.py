"""What F did with photos, and the evidence for each class that its gradients give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vrx.classifier.layers import Layer
from vrx.scores import margins


@dataclass(frozen=True)
class Activations:
    """What F did with a batch of B photos; all float32, detached.

    Args:
        logits: of the n classes of interest, ``[B, n]``.
        maps: feature maps by layer name, ``[B, D, h, w]``.
        gradcam: Grad-CAM of each logit of interest at the last layer, >= 0, ``[B, n, h, w]``; empty unless asked.
        grad_act: gradient x activation of each class' target, summed over the channels, ``[B, n, h, w]`` a layer.
        grad_act_positive: the same, the positive part of each channel alone.
        grad_diff: gradient x (activation minus that of a reference photo), where a reference was given.
    """

    logits: Tensor
    maps: dict[str, Tensor]
    gradcam: Tensor
    grad_act: dict[str, Tensor] = field(default_factory=dict)
    grad_act_positive: dict[str, Tensor] = field(default_factory=dict)
    grad_diff: dict[str, Tensor] = field(default_factory=dict)


def class_targets(logits: Tensor) -> Tensor:
    """What is attributed to each class: its margin, the logit minus the log-sum-exp of the others, ``[B, n]``.

    With a single class of interest there is nothing to compare: its logit.
    """
    return logits if logits.shape[1] == 1 else margins(logits)


def most_probable(logits: Tensor, count: int) -> Tensor:
    """The so many most probable classes of each photo, in the order of the classes, int64 ``[B, count]``.

    Their order says nothing of the logits, so that nothing made of them can read the prediction off it.
    """
    return logits.topk(min(count, logits.shape[1]), dim=1).indices.sort(1).values


@contextmanager
def recording() -> Iterator[None]:
    """Autograd on, whatever the caller switched off."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def gradcam_of(slope: Tensor, activation: Tensor) -> Tensor:
    """Grad-CAM ``[B, h, w]`` from gradient and activation ``[B, D, h, w]``."""
    weights = slope.float().mean((2, 3))
    return torch.einsum("bd,bdhw->bhw", weights, activation.float()).relu()


def slopes_in_logits(logits: Tensor) -> tuple[Tensor, Tensor]:
    """What to differentiate so that one backward pass fewer than classes is enough, of logits ``[B, n]`` of a graph.

    A margin stays the same when all logits are shifted alike, so its gradient is a mixture of the gradients of n - 1
    differences of logits.

    Returns:
        What to differentiate, ``[B, m]`` (m = n - 1, or 1 where n is 1), and how the gradient of each class' target is
        mixed from theirs, ``[B, n, m]``.
    """
    if logits.shape[1] == 1:
        return logits, torch.ones_like(logits)[..., None]
    leaf = logits.detach().requires_grad_()
    targets = class_targets(leaf)
    rows = [torch.autograd.grad(target.sum(), leaf, retain_graph=True)[0] for target in targets.unbind(1)]
    return logits[:, :-1] - logits[:, -1:], torch.stack(rows, 1)[..., :-1]


def gradient_evidence(
    logits: Tensor, outputs: Sequence[tuple[Layer, Tensor]], reference: Mapping[str, Tensor] | None
) -> dict[str, tuple[Tensor, ...]]:
    """Gradient x activation of every class at some layers; one backward pass fewer than classes.

    Args:
        logits: ``[B, n]``, part of a graph.
        outputs: layers, and the outputs of their modules in that graph.
        reference: maps of a reference photo by layer name.

    Returns:
        Of each layer, sums over the channels, ``[B, n, h, w]`` each: of the product, of its positive part and, with a
        reference, of gradient x (activation minus reference).
    """
    if not outputs:
        return {}
    differentiated, mixing = slopes_in_logits(logits)
    values = [output for _, output in outputs]
    slopes = [torch.autograd.grad(value.sum(), values, retain_graph=True) for value in differentiated.unbind(1)]
    found: dict[str, tuple[Tensor, ...]] = {}
    for (layer, output), of_layer in zip(outputs, zip(*slopes, strict=True), strict=True):
        activation = layer.to_map(output.detach()).float()
        gradients = [layer.to_map(slope).float() for slope in of_layer]
        found[layer.name] = _products(activation, gradients, mixing)
        if reference is not None and layer.name in reference:
            differences = [(gradient * (activation - reference[layer.name])).sum(1) for gradient in gradients]
            found[layer.name] += (torch.einsum("bcm,bmhw->bchw", mixing, torch.stack(differences, 1)),)
    return found


def _products(activation: Tensor, gradients: Sequence[Tensor], mixing: Tensor) -> tuple[Tensor, ...]:
    """Sums over the channels of gradient x activation and of its positive part, classes mixed, ``[B, n, h, w]`` each.

    From the activation and m gradients, ``[B, D, h, w]`` each; ``mixing``: of the classes' gradients from these,
    ``[B, n, m]``.
    """
    products = [(gradient * activation).permute(0, 2, 3, 1) for gradient in gradients]  # sums run along memory
    whole, positive = [], []
    for b, weights in enumerate(mixing):  # photo by photo: all classes of a batch at once would take much memory
        product = torch.tensordot(weights, torch.stack([p[b] for p in products]), dims=1)
        whole.append(product.sum(-1))
        positive.append(product.clamp_(min=0).sum(-1))
    return torch.stack(whole), torch.stack(positive)
