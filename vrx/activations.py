"""What F did with photos, and the evidence for each class that its gradients give."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from vrx.layers import Layer
from vrx.structures import VRXError

Target = Literal["centred", "logit", "margin"]


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


def class_targets(logits: Tensor, target: Target = "centred") -> Tensor:
    """What is attributed to each class, ``[B, n]`` from logits ``[B, n]``.

    ``logit``: the logit; ``centred``: minus the mean over the classes of interest; ``margin``: minus the
    log-sum-exp of the others. With a single class of interest there is nothing to compare: its logit.

    Raises:
        VRXError: no such target.
    """
    if target not in get_args(Target):
        raise VRXError(f"Unknown target {target!r}: use one of {', '.join(get_args(Target))}.")
    n = logits.shape[1]
    if target == "logit" or n == 1:
        return logits
    if target == "centred":
        return logits - logits.mean(1, keepdim=True)
    others = (
        logits[:, None].expand(-1, n, -1).masked_fill(torch.eye(n, dtype=torch.bool, device=logits.device), -torch.inf)
    )
    return logits - others.logsumexp(2)


@contextmanager
def recording() -> Iterator[None]:
    """Autograd on, whatever the caller switched off."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def gradcam_of(slope: Tensor, activation: Tensor) -> Tensor:
    """Grad-CAM ``[B, h, w]`` from gradient and activation ``[B, D, h, w]``."""
    weights = slope.float().mean((2, 3))
    return torch.einsum("bd,bdhw->bhw", weights, activation.float()).relu()


def gradient_x_activation(layer: Layer, slope: Tensor, output: Tensor, reference: Tensor | None) -> tuple[Tensor, ...]:
    """Sum over the channels, ``[B, h, w]`` each, of gradient x activation, of its positive part, and, where there is

    a reference, of gradient x (activation minus reference).
    """
    gradient, activation = layer.to_map(slope).float(), layer.to_map(output).float()
    product = gradient * activation
    pair = product.sum(1), product.clamp_(min=0).sum(1)
    return pair if reference is None else (*pair, (gradient * (activation - reference)).sum(1))
