"""What each concept and each relation contributes to each class (3.3)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from vrx.concepts.importance import margins
from vrx.models.grn import GRN
from vrx.structures import SCG, VRXError

Method = Literal["gradient", "knockout"]


def contributions(
    grn: GRN, scg: SCG, method: str, shared: Tensor | None = None, edges: bool = True
) -> tuple[Tensor, Tensor]:
    """Contribution of every node and edge to the score of every class.

    ``gradient`` is Eq. 5-6 a block: the gradient of y_c with respect to the graph embedding times the embedding. With
    the linear E the scores and E's bias add up to y_c. ``knockout`` is the fall of the margin of c (logit minus the
    log-sum-exp of the others) when the node becomes a dummy, or the relation does not exist.

    Args:
        grn: in whatever mode; it explains in eval mode.
        scg: ``[B, n, N, ...]``.
        method: ``gradient`` or ``knockout``.
        shared: which nodes go together when one is knocked out, bool ``[B, n, N, n, N]``; None: each alone.
        edges: False leaves the edge scores at 0 (knocking out every relation takes most of the time).

    Returns:
        Node scores ``[B, n (class), n (graph), N]``, 0 for dummies, and edge scores
        ``[B, n (class), n (graph), N(N-1)]``, 0 where an end is a dummy.
    """
    if method not in get_args(Method):
        raise VRXError(f"contributions={method!r}: use one of {', '.join(get_args(Method))}.")
    training = grn.training
    grn.eval()
    try:
        if method == "gradient":
            nodes, links = _gradient(grn, scg)
        else:
            nodes, links = _knockout(grn, scg, shared, edges)
    finally:
        grn.train(training)
    j, i = grn.edge_index
    both = scg.detected[:, :, j] & scg.detected[:, :, i]
    return nodes * scg.detected.unsqueeze(1), links * both.unsqueeze(1)


def block_scores(grn: GRN, scg: SCG) -> tuple[Tensor, Tensor]:
    """Eq. 5-6 for every block, dummies included: with E's bias they add up to the class scores.

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


def _gradient(grn: GRN, scg: SCG) -> tuple[Tensor, Tensor]:
    return block_scores(grn, scg)


@torch.no_grad()
def _knockout(grn: GRN, scg: SCG, shared: Tensor | None, with_edges: bool) -> tuple[Tensor, Tensor]:
    size, n, num = scg.detected.shape
    clean = margins(grn(scg))
    if shared is None:
        alone = torch.eye(n * num, dtype=torch.bool, device=scg.nodes.device).reshape(n, num, n, num)
        shared = alone.expand(size, -1, -1, -1, -1)
    gone = shared.reshape(size, n * num, n, num)
    nodes = clean[:, None] - margins(_ask(grn, scg, gone, None))
    links = torch.zeros(size, n * grn.num_edges, n, device=clean.device)
    if with_edges:
        kept = ~torch.eye(n * grn.num_edges, dtype=torch.bool, device=clean.device).reshape(1, -1, n, grn.num_edges)
        links = clean[:, None] - margins(_ask(grn, scg, None, kept.expand(size, -1, -1, -1)))
    return (
        nodes.transpose(1, 2).reshape(size, n, n, num),
        links.transpose(1, 2).reshape(size, n, n, grn.num_edges),
    )


def _ask(grn: GRN, scg: SCG, gone: Tensor | None, kept: Tensor | None, chunk: int = 2048) -> Tensor:
    """GRN's logits for K changed copies of each photo's graphs, ``[B, K, n]``, in chunks of bounded memory."""
    changes = gone if gone is not None else kept
    assert changes is not None
    size, count = changes.shape[:2]
    photos = torch.arange(size, device=changes.device).repeat_interleave(count)
    flat = changes.flatten(0, 1)
    answers = []
    for rows in torch.arange(size * count, device=changes.device).split(chunk):
        part = photos[rows]
        graphs = SCG(scg.nodes[part], scg.centroids[part], scg.detected[part])
        if gone is not None:
            answers.append(grn(graphs.drop(flat[rows])))
        else:
            answers.append(grn(graphs, flat[rows]))
    return torch.cat(answers).reshape(size, count, -1)
