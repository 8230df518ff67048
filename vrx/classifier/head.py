"""F from its last feature map on: the logits of one feature vector."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vrx.classifier.layers import Hook, hooked

if TYPE_CHECKING:
    from vrx.classifier.classifier import Classifier


class Head:
    """Logits of interest of pooled features of the last layer: F's logits when its last map is f everywhere.

    W f + b where the head is global average pooling and a linear layer (after a norm, perhaps); other convolutional
    networks are asked. A transformer's last norm and linear layer are applied to f as if it were the token that they
    read: a "logit lens", an approximation, for it leaves the last block out.

    ``like``: the head of the same F with other classes of interest, which knows how it is built.
    """

    def __init__(self, classifier: Classifier, like: Head | None = None) -> None:
        self._f, self._last = classifier, classifier.layers[-1]
        if like is not None:
            self.__dict__["linear"] = like.linear

    @torch.no_grad()
    def __call__(self, features: Tensor) -> Tensor:
        """Features f, ``[K, D]``, D the channels of the last layer -> float32 ``[K, n]``."""
        if self.linear is not None:
            return self._apply(features, *self.linear)
        parts = [self._ask(part) for part in features.split(64) if len(part)]
        return torch.cat(parts) if parts else features.new_zeros(0, len(self._f.class_indices))

    def _apply(self, features: Tensor, linear: nn.Linear, norm: nn.LayerNorm | None) -> Tensor:
        if norm is not None:
            features = F.layer_norm(features, features.shape[1:], norm.weight, norm.bias, norm.eps)
        return linear(features)[:, self._f.class_indices].float()

    @cached_property
    def linear(self) -> tuple[nn.Linear, nn.LayerNorm | None] | None:
        """The linear layer (and norm before it) that turn a pooled feature into logits, where they do it alone."""
        ran, last = self._ran_modules(), self._last
        linear = next((m for m in reversed(ran) if isinstance(m, nn.Linear)), None)
        if linear is None or linear.in_features != last.channels:
            return None
        norm = next((m for m in reversed(ran) if isinstance(m, nn.LayerNorm)), None)
        if norm is not None and tuple(norm.normalized_shape) != (last.channels,):
            norm = None
        if last.layout == "tokens":
            return linear, norm
        probe = torch.randn(4, last.channels, generator=torch.Generator().manual_seed(0)).to(self._f.device)
        asked = self._ask(probe)
        for candidate in (None, norm):
            if torch.allclose(self._apply(probe, linear, candidate), asked, rtol=1e-2, atol=1e-3):
                return linear, candidate
        return None

    @property
    def _blank(self) -> Tensor:
        return torch.zeros(1, 3, *self._f.input_size, device=self._f.device)

    def _ran_modules(self) -> list[nn.Module]:
        """Modules without children, in the order in which they ran."""
        ran: list[nn.Module] = []

        def record(module: nn.Module, args: Any, output: Any) -> None:
            ran.append(module)

        leaves: dict[str, Hook] = {
            name: record for name, module in self._f.network.named_modules() if name and not any(module.children())
        }
        with hooked(self._f.network, leaves):
            self._f(self._blank)
        return ran

    def _ask(self, features: Tensor) -> Tensor:
        """In float32, whatever the precision of F: bf16 would hide that a head is linear."""

        def replace(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            return self._last.constant(features.to(output.dtype), output)

        with hooked(self._f.network, {self._last.name: replace}):
            logits: Tensor = self._f.network(self._blank)
        return logits[:, self._f.class_indices].float()
