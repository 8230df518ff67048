"""The Graph Reasoning Network (3.2.2, appendix table 3): G, a GNN with class-specific edge weights, and E."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from vrx.errors import VRXError
from vrx.models.graph_network import GraphNetwork
from vrx.structures import NEUTRAL, SCG
from vrx.structures import edges as edge_ends


class ConceptGraphConv(nn.Module):
    """One layer of Eq. 3: ``f_i' = W1 f_i + sum_j W3 C(e_ji^c W2 f_j, edge_ji)``, ``edge_ji' = W4 edge_ji``.

    W1..W4 are shared by all classes; e_ji^c, one scalar an edge and class, is not. It starts at 1 / (N - 1): every
    class begins with the mean of a node's neighbours, with no preference. Only W1 has a bias: those of W2..W4 would
    add nothing that W1's, or the batch norm that follows, does not.

    W3 is linear, so the messages are summed before it: ``W3 C(sum_j e_ji^c W2 f_j, sum_j edge_ji)``. On complete
    graphs of one size that is a product of small dense matrices, which no message has to be kept for.

    Args:
        num_classes: classes that there are.
        num_nodes: N, nodes per graph: the concepts and, perhaps, the rest of the photo.
        nodes: (in, out) width of the node features.
        edges: (in, out) width of the edge features.
    """

    def __init__(self, num_classes: int, num_nodes: int, nodes: tuple[int, int], edges: tuple[int, int]) -> None:
        super().__init__()
        num_edges = num_nodes * (num_nodes - 1)
        self.num_nodes = num_nodes
        self.centre = nn.Linear(*nodes)  # W1
        self.neighbour = nn.Linear(*nodes, bias=False)  # W2
        self.message_map = nn.Linear(nodes[1] + edges[0], nodes[1], bias=False)  # W3
        self.edge_map = nn.Linear(*edges, bias=False)  # W4
        self.dependency = nn.Parameter(torch.full((num_classes, num_edges), 1 / max(num_nodes - 1, 1)))  # e_ji^c
        j, i = functional.one_hot(edge_ends(num_nodes), num_nodes).float()
        self.register_buffer("receives", i.T.contiguous(), persistent=False)  # [N, E]
        self.register_buffer("place", (i[:, :, None] * j[:, None]).flatten(1), persistent=False)  # [E, N * N]
        self.receives: Tensor
        self.place: Tensor

    def forward(self, x: Tensor, edge_attr: Tensor, keep: Tensor, dependency: Tensor) -> tuple[Tensor, Tensor]:
        """Update the nodes ``[B, n, N, in]`` and edges ``[B, n, E, in]`` of the n graphs of B photos.

        ``[B, n, E]`` each: ``keep``, 0 for an edge that carries no message, else 1; ``dependency``, e_ji^c.
        """
        num = self.num_nodes
        adjacency = ((dependency * keep) @ self.place).unflatten(2, (num, num))  # [B, n, i, j]
        heard = adjacency @ self.neighbour(x)
        places = self.receives @ (edge_attr * keep.unsqueeze(-1))
        return self.centre(x) + self.message_map(torch.cat([heard, places], dim=-1)), self.edge_map(edge_attr)


class GRN(GraphNetwork):
    """G and E of the paper. Defaults are those of appendix table 3; every other size follows from the graphs.

    After each layer nodes and edges alike pass ReLU and then batch norm, in the order of the table. A dummy hears
    nothing, and the edges at it tell no place, so that what it sends and what its block gives E are the same in every
    photo; between detected nodes Eq. 3 is as written. Each of ``all_classes`` has its e_ji^c; E reads the classes of
    the photo in their order.

    Args (beside those of :class:`GraphNetwork`):
        node_widths: width of the node features after each layer.
        edge_widths: width of the edge features after each layer.
        dropout: on the graph embedding, before E.

    Raises:
        VRXError: not as many widths of edges as of nodes, or none.
    """

    def __init__(
        self,
        num_classes: int,
        num_nodes: int,
        node_features: int,
        node_widths: Sequence[int] = (64, 32, 32),
        edge_widths: Sequence[int] = (5, 5, 5),
        dropout: float = 0.0,
        link_features: int = 0,
        all_classes: int | None = None,
    ) -> None:
        if len(node_widths) != len(edge_widths) or not node_widths:
            raise VRXError(
                f"model.grn: node_widths={list(node_widths)} and edge_widths={list(edge_widths)} must name one width a "
                "layer each, and at least one layer."
            )
        super().__init__(
            {
                "num_classes": num_classes,
                "num_nodes": num_nodes,
                "node_features": node_features,
                "link_features": link_features,
                "node_widths": list(node_widths),
                "edge_widths": list(edge_widths),
                "dropout": dropout,
                "all_classes": all_classes,
            }
        )
        nodes, links = [node_features, *node_widths], [4 + link_features, *edge_widths]
        self.convs = nn.ModuleList(
            ConceptGraphConv(self.all_classes, num_nodes, (nodes[i], nodes[i + 1]), (links[i], links[i + 1]))
            for i in range(len(node_widths))
        )
        self.node_norms = nn.ModuleList(nn.BatchNorm1d(w) for w in node_widths)
        self.edge_norms = nn.ModuleList(nn.BatchNorm1d(w) for w in edge_widths)
        self.node_size, self.edge_size = nodes[-1], links[-1]
        self.dropout = nn.Dropout(dropout)
        per_class = num_nodes * self.node_size + self.num_edges * self.edge_size
        self.embedding = nn.Linear(num_classes * per_class, num_classes)  # E

    def _standard(self, scg: SCG) -> Tensor:
        """Standardised features of detected nodes; dummies keep their epsilon."""
        scaled = (scg.nodes - self.node_mean) / self.node_std
        return torch.where(scg.detected.unsqueeze(-1), scaled, scg.nodes)

    def _edges(self, scg: SCG) -> tuple[Tensor, Tensor]:
        """``[x_j, y_j, x_i, y_i]`` and links of the edges, ``[B, n, E, 4 + K]``; 1 for those heard, ``[B, n, E]``."""
        j, i = self.edge_index
        places = torch.cat([scg.centroids[:, :, j], scg.centroids[:, :, i]], dim=-1)
        links = scg.links / self.link_std
        sender, receiver = scg.detected[:, :, j], scg.detected[:, :, i]
        places = places.masked_fill(~(sender & receiver).unsqueeze(-1), NEUTRAL)
        return torch.cat([places, links], -1), receiver.to(places.dtype)

    def embed(self, scg: SCG) -> tuple[Tensor, Tensor]:
        """G (Eq. 3): blocks ``[B, n, N, node_size]`` and ``[B, n, N(N-1), edge_size]``."""
        self.check(scg)
        x = self._standard(scg)
        attr, heard = self._edges(scg)
        for conv, node_norm, edge_norm in zip(self.convs, self.node_norms, self.edge_norms, strict=True):
            x, attr = conv(x, attr, heard, self.of_graphs(conv.dependency, scg))  # type: ignore[arg-type]
            x, attr = _over_features(node_norm, x.relu()), _over_features(edge_norm, attr.relu())
        return x, attr

    def read_out(self, nodes: Tensor, links: Tensor) -> Tensor:
        """E: one linear map of the blocks of all graphs."""
        blocks = torch.cat([nodes.flatten(2), links.flatten(2)], dim=2)  # [B, n, 32 N + 5 N(N-1)]
        scores: Tensor = self.embedding(self.dropout(blocks).flatten(1))
        return scores


def _over_features(norm: nn.Module, values: Tensor) -> Tensor:
    """Batch norm of the last dimension, over all others."""
    return norm(values.flatten(0, -2)).view_as(values) if values.numel() else values
