"""What each concept and each relation contributes to each class (3.3)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from vrx.models.graph_network import GraphNetwork
from vrx.scores import margins
from vrx.structures import SCG

BUDGET = 2**24  # values of node features in one pass of the knockouts


class ContributionMethod(Protocol):
    """What every node contributes to the score of every class."""

    def settings(self) -> dict[str, object]: ...

    def __call__(self, grn: GraphNetwork, scg: SCG, shared: Tensor | None = None) -> Tensor:
        """Contributions on the graphs of B photos.

        Args:
            grn: in whatever mode; it explains in eval mode.
            scg: ``[B, n, N, ...]``.
            shared: which nodes go together when one is knocked out, bool ``[B, n, N, n, N]``; None: each alone. A node
                always goes itself.

        Returns:
            ``[B, n (class), n (graph), N]``, 0 for dummies.
        """
        ...


class Knockout:
    """The fall of the margin of a class when the node becomes a dummy.

    The margin is the logit minus the log-sum-exp of the others: what the measured effect is taken of.
    """

    def settings(self) -> dict[str, object]:
        return {}

    @torch.no_grad()
    def __call__(self, grn: GraphNetwork, scg: SCG, shared: Tensor | None = None) -> Tensor:
        size, n, num = scg.detected.shape
        gone = torch.eye(n * num, dtype=torch.bool, device=scg.nodes.device).reshape(1, n, num, n, num)
        gone = (gone if shared is None else gone | shared).expand(size, -1, -1, -1, -1).flatten(1, 2)
        falls = []
        chunk = max(1, BUDGET // (n * num * scg.nodes[0].numel()))
        with evaluating(grn):
            for rows in torch.arange(size, device=gone.device).split(chunk):
                clean, masked = grn.masked(scg[rows], gone[rows])
                falls.append(margins(clean)[:, None] - margins(masked))
        found = torch.cat(falls).unflatten(1, (n, num)) if falls else scg.nodes.new_zeros(0, n, num, n)
        return (found * scg.detected.unsqueeze(-1)).movedim(-1, 1)


class GradientTimesEmbedding:
    """Eq. 5-6 per block: the gradient of y_c with respect to the graph embedding times the embedding.

    With the linear E the scores of all blocks (:func:`block_scores`) and E's bias add up to y_c.
    """

    def settings(self) -> dict[str, object]:
        return {}

    def __call__(self, grn: GraphNetwork, scg: SCG, shared: Tensor | None = None) -> Tensor:
        with evaluating(grn):
            return block_scores(grn, scg)[0] * scg.detected.unsqueeze(1)


def edge_contributions(grn: GraphNetwork, scg: SCG) -> Tensor:
    """Eq. 5-6 of every edge, ``[B, n (class), n (graph), N(N-1)]``, 0 where an end is a dummy."""
    j, i = grn.edge_index
    with evaluating(grn):
        return block_scores(grn, scg)[1] * (scg.detected[:, :, j] & scg.detected[:, :, i]).unsqueeze(1)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Eval mode within; each module's own mode after, even on error."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def block_scores(grn: GraphNetwork, scg: SCG) -> tuple[Tensor, Tensor]:
    """Eq. 5-6 for every block, dummies included, in eval mode: with E's bias they add up to the class scores.

    Returns:
        ``[B, n, n, N]`` and ``[B, n, n, N(N-1)]``.
    """
    with torch.no_grad():
        nodes, links = grn.embed(scg)
    nodes, links = nodes.detach().requires_grad_(), links.detach().requires_grad_()
    with torch.enable_grad():
        scores = grn.read_out(nodes, links)
        gradients = [
            torch.autograd.grad(scores[:, c].sum(), (nodes, links), retain_graph=True) for c in range(scores.shape[1])
        ]
    return (
        torch.stack([(g * nodes).sum(-1) for g, _ in gradients], 1).detach(),
        torch.stack([(g * links).sum(-1) for _, g in gradients], 1).detach(),
    )
