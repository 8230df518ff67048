"""The Graph Reasoning Network (3.2.2, appendix table 3): a GNN G with class-specific edge weights, and an embedding E."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from vrx.structures import SCG, edges


class ConceptGraphConv(MessagePassing):
    """One layer of Eq. 3: ``f_i' = W1 f_i + sum_j W3 C(e_ji^c W2 f_j, edge_ji)``, ``edge_ji' = W4 edge_ji``.

    W1..W4 are shared by all classes; e_ji^c, one scalar an edge and class, is not. It starts at 1.

    Args:
        num_classes: n.
        num_edges: N(N-1), edges of one graph.
        nodes: (in, out) width of the node features.
        edges: (in, out) width of the edge features.
    """

    def __init__(self, num_classes: int, num_edges: int, nodes: tuple[int, int], edges: tuple[int, int]) -> None:
        super().__init__(aggr="add")
        self.centre = nn.Linear(*nodes)  # W1
        self.neighbour = nn.Linear(*nodes, bias=False)  # W2
        self.message_map = nn.Linear(nodes[1] + edges[0], nodes[1], bias=False)  # W3
        self.edge_map = nn.Linear(*edges, bias=False)  # W4
        self.dependency = nn.Parameter(torch.ones(num_classes, num_edges))  # e_ji^c

    def forward(
        self, x: Tensor, edge_index: Tensor, edge_attr: Tensor, classes: Tensor, keep: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Update nodes and edges of G graphs.

        Args:
            x: node features ``[G * N, in]``.
            edge_index: j -> i, int64 ``[2, G * E]``, graph after graph.
            edge_attr: ``[G * E, in]``.
            classes: class of interest of each graph, int64 ``[G]``.
            keep: 0 for a relation that is taken away, else 1, ``[G * E, 1]``.

        Returns:
            Node features ``[G * N, out]`` and edge features ``[G * E, out]``.
        """
        weight = self.dependency[classes].reshape(-1, 1)
        sent = self.propagate(edge_index, x=self.neighbour(x), weight=weight, edge_attr=edge_attr, keep=keep)
        return self.centre(x) + sent, self.edge_map(edge_attr)

    def message(self, x_j: Tensor, weight: Tensor, edge_attr: Tensor, keep: Tensor) -> Tensor:
        """What node j sends to node i."""
        return keep * self.message_map(torch.cat([weight * x_j, edge_attr], dim=1))


class GRN(nn.Module):
    """G and E. Defaults are those of appendix table 3; every other size follows from the graphs.

    Args:
        num_classes: n, classes of interest.
        num_concepts: N, nodes of a graph.
        node_features: D, width of a node.
        node_widths: width of the node features after each layer.
        edge_widths: width of the edge features after each layer.
        dropout: on the graph embedding, before E.
        skip: E also reads the nodes as they came (an additive read-out beside the GNN; the paper has none).
    """

    def __init__(
        self,
        num_classes: int,
        num_concepts: int,
        node_features: int,
        node_widths: Sequence[int] = (64, 32, 32),
        edge_widths: Sequence[int] = (5, 5, 5),
        dropout: float = 0.0,
        skip: bool = False,
    ) -> None:
        super().__init__()
        self.hparams = {
            "num_classes": num_classes,
            "num_concepts": num_concepts,
            "node_features": node_features,
            "node_widths": list(node_widths),
            "edge_widths": list(edge_widths),
            "dropout": dropout,
            "skip": skip,
        }
        self.num_classes, self.num_concepts, self.skip = num_classes, num_concepts, skip
        self.num_edges = num_concepts * (num_concepts - 1)
        nodes, links = [node_features, *node_widths], [4, *edge_widths]
        self.convs = nn.ModuleList(
            ConceptGraphConv(num_classes, self.num_edges, (nodes[i], nodes[i + 1]), (links[i], links[i + 1]))
            for i in range(len(node_widths))
        )
        self.node_norms = nn.ModuleList(nn.BatchNorm1d(w) for w in node_widths)
        self.edge_norms = nn.ModuleList(nn.BatchNorm1d(w) for w in edge_widths)
        self.node_size = nodes[-1] + (node_features if skip else 0)
        self.edge_size = links[-1]
        self.dropout = nn.Dropout(dropout)
        per_class = num_concepts * self.node_size + self.num_edges * self.edge_size
        self.embedding = nn.Linear(num_classes * per_class, num_classes)  # E
        self.register_buffer("edge_index", edges(num_concepts), persistent=False)
        self.register_buffer("node_mean", torch.zeros(node_features))
        self.register_buffer("node_std", torch.ones(node_features))
        self.edge_index: Tensor
        self.node_mean: Tensor
        self.node_std: Tensor

    @property
    def normalised(self) -> bool:
        """Whether the scale of the node features was set."""
        return bool((self.node_std != 1).any() or (self.node_mean != 0).any())

    def set_normalisation(self, nodes: Tensor, detected: Tensor) -> None:
        """Standardise node features by the mean and deviation of detected training nodes.

        Args:
            nodes: ``[..., D]``.
            detected: bool ``[...]``.
        """
        seen = nodes[detected]
        if len(seen) > 1:
            self.node_mean.copy_(seen.mean(0))
            self.node_std.copy_(seen.std(0).clamp(min=1e-6))

    def _standard(self, scg: SCG) -> Tensor:
        """Standardised features of detected nodes; dummies keep their epsilon."""
        scaled = (scg.nodes - self.node_mean) / self.node_std
        return torch.where(scg.detected.unsqueeze(-1), scaled, scg.nodes)

    def embed(self, scg: SCG, keep_edges: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """G: all graphs of all photos in one batched pass.

        Args:
            scg: ``[B, n, N, ...]``.
            keep_edges: bool ``[B, n, N(N-1)]``; False: this relation does not exist. None: all do.

        Returns:
            Node blocks ``[B, n, N, node_size]`` and edge blocks ``[B, n, N(N-1), edge_size]``.
        """
        size, n, num, _ = scg.nodes.shape
        graphs = size * n
        given = self._standard(scg)
        x = given.reshape(graphs * num, -1)
        j, i = self.edge_index
        attr = torch.cat([scg.centroids[:, :, j], scg.centroids[:, :, i]], dim=-1).reshape(graphs * self.num_edges, 4)
        offsets = torch.arange(graphs, device=x.device).repeat_interleave(self.num_edges) * num
        index = self.edge_index.repeat(1, graphs) + offsets
        classes = torch.arange(n, device=x.device).repeat(size)
        kept = torch.ones(len(attr), 1, device=x.device) if keep_edges is None else keep_edges.reshape(-1, 1).float()
        for conv, node_norm, edge_norm in zip(self.convs, self.node_norms, self.edge_norms, strict=True):
            x, attr = conv(x, index, attr, classes, kept)
            x, attr = node_norm(x.relu()), edge_norm(attr.relu()) * kept
        x = x.reshape(size, n, num, -1)
        return torch.cat([x, given], -1) if self.skip else x, attr.reshape(size, n, self.num_edges, -1)

    def read_out(self, nodes: Tensor, links: Tensor) -> Tensor:
        """E: the blocks of all graphs -> class scores ``[B, n]``."""
        blocks = torch.cat([nodes.flatten(2), links.flatten(2)], dim=2)  # [B, n, 32 N + 5 N(N-1)]
        return self.embedding(self.dropout(blocks).flatten(1))

    def forward(self, scg: SCG, keep_edges: Tensor | None = None) -> Tensor:
        """Class scores ``[B, n]`` (Eq. 1)."""
        return self.read_out(*self.embed(scg, keep_edges))
