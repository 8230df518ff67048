"""A network run by ``torch.compile``, where that works."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

log = logging.getLogger("vrx")


class Compiled:
    """Calls a network compiled; as it is while something reads its maps, and from the first failure on."""

    def __init__(self, network: nn.Module) -> None:
        self.network, self.works = network, True
        self._compiled = torch.compile(network)

    def __call__(self, x: Tensor) -> Tensor:
        watched = any(module._forward_hooks for module in self.network.modules())
        if self.works and not watched:
            try:
                logits: Tensor = self._compiled(x)
                return logits
            except Exception as error:  # compilers fail in many ways
                self.works, reason = False, str(error).strip().split("\n")[0][:160]
                log.warning("classifier.compile=true: torch.compile does not work here (%s): it runs as it is.", reason)
        plain: Tensor = self.network(x)
        return plain
