"""Structural Concept Graphs as PyTorch Geometric data: for any other graph network, and to check ours against."""

from __future__ import annotations

import torch
from torch_geometric.data import Data

from vrx.structures import SCG, edges


def to_geometric(scg: SCG) -> list[list[Data]]:
    """Every graph as :class:`torch_geometric.data.Data`: complete, directed, dummies included.

    Args:
        scg: graphs of B photos, ``[B, n, N, ...]``.

    Returns:
        B lists of n graphs with ``x`` ``[N, D]``, ``pos`` (x, y) in [0, 1] ``[N, 2]``, ``edge_index`` ``[2, N(N-1)]``
        (from, to), ``edge_attr`` ``[x_j, y_j, x_i, y_i]`` ``[N(N-1), 4]``, ``detected`` bool ``[N]`` and
        ``hypothesis``, the class of the graph.
    """
    index = edges(scg.nodes.shape[-2]).to(scg.nodes.device)
    j, i = index
    places = torch.cat([scg.centroids[..., j, :], scg.centroids[..., i, :]], dim=-1)
    return [
        [
            Data(
                x=scg.nodes[b, c],
                pos=scg.centroids[b, c],
                edge_index=index,
                edge_attr=places[b, c],
                detected=scg.detected[b, c],
                hypothesis=c,
            )
            for c in range(scg.nodes.shape[1])
        ]
        for b in range(scg.nodes.shape[0])
    ]
