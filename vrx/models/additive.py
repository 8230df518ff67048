"""A Graph Reasoning Network whose scores are a sum of effects: of every concept, and of every pair of concepts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vrx.models.graph_network import GraphNetwork
from vrx.structures import SCG, UNMATCHED, patch_pairs


class AdditiveGRN(GraphNetwork):
    """Main effects of the nodes and effects of the edges between them, and nothing else.

    A generalised additive model with pairwise interactions (Lou et al., KDD 2013) on graphs. What a node adds to each
    class is a function of its own features and of which concept of which class it is; what a pair adds, of the evidence
    that only both give (``links``), of how they lie to each other and, as e_ji^c in Eq. 3, of which pair of which class
    it is. So what the network says of a concept or a relation is no approximation: it is what it adds. Without a node
    neither its effect nor those of its edges are there.

    Args (beside those of :class:`GraphNetwork`):
        width: of the hidden layers.
        embedding: numbers that stand for each concept, and for each pair, of each class.
        summary: numbers of each end that a pair reads beside its own.
        dropout: in the hidden layers.
    """

    def __init__(
        self,
        num_classes: int,
        num_nodes: int,
        node_features: int,
        width: int = 48,
        embedding: int = 12,
        summary: int = 8,
        dropout: float = 0.2,
        link_features: int = 0,
        all_classes: int | None = None,
    ) -> None:
        super().__init__(
            {
                "num_classes": num_classes,
                "num_nodes": num_nodes,
                "node_features": node_features,
                "link_features": link_features,
                "width": width,
                "embedding": embedding,
                "summary": summary,
                "dropout": dropout,
                "all_classes": all_classes,
            }
        )
        n = num_classes
        tail, head = torch.triu_indices(num_nodes, num_nodes, 1)
        place = {edge: k for k, edge in enumerate(map(tuple, self.edge_index.T.tolist()))}
        there = torch.tensor(
            [place[pair] for pair in zip(tail.tolist(), head.tolist(), strict=True)], dtype=torch.int64
        )
        back = torch.tensor([place[pair] for pair in zip(head.tolist(), tail.tolist(), strict=True)], dtype=torch.int64)
        own_first = torch.tensor([[g, *(c for c in range(n) if c != g)] for g in range(n)])
        constants = {"tail": tail, "head": head, "there": there, "back": back, "in_order": own_first.argsort(1)}
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)
        self.tail: Tensor
        self.head: Tensor
        self.there: Tensor
        self.back: Tensor
        self.in_order: Tensor
        self.concepts = nn.Parameter(0.3 * torch.randn(self.all_classes, num_nodes, embedding))
        self.pairs = nn.Parameter(0.3 * torch.randn(self.all_classes, len(tail), embedding))
        self.node_effect = _perceptron(node_features + embedding, width, n, dropout)
        self.node_linear = nn.Linear(node_features, n)
        self.summary = nn.Linear(node_features, summary)
        self.pair_effect = _perceptron(link_features + 7 + embedding + 2 * summary, width, n, dropout)
        for parameter in self.pair_effect[-1].parameters():  # pairs begin with what F's maps say of them alone
            nn.init.zeros_(parameter)
        self.known = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(n))

    def embed(self, scg: SCG) -> tuple[Tensor, Tensor]:
        """What every node and every edge adds to each class, ``[B, n, N, n]`` and ``[B, n, N(N-1), n]``.

        The two directions between two nodes have half of the effect of the pair each.
        """
        self.check(scg)
        x = ((scg.nodes - self.node_mean) / self.node_std).asinh()
        x = torch.where(scg.detected.unsqueeze(-1), x, 0.0)
        found = torch.cat([x, self.of_graphs(self.concepts, scg)], -1)
        nodes = self._by_class(self.node_effect(found) + self.node_linear(x)) * scg.detected.unsqueeze(-1)
        half = self._pairs(scg, x) / 2
        links = half.new_zeros(*half.shape[:2], self.num_edges, self.num_classes)
        links[:, :, self.there] = half
        links[:, :, self.back] = half
        return nodes, links

    def _pairs(self, scg: SCG, x: Tensor) -> Tensor:
        """What each pair of nodes adds to each class, ``[B, n, N(N-1)/2, n]``; 0 where one is missing."""
        a, b = self.tail, self.head
        together = scg.links[:, :, self.there]
        places, brief = scg.centroids, self.summary(x)
        way = places[:, :, a] - places[:, :, b]
        ends = [(together / self.link_std).asinh(), places[:, :, a], places[:, :, b]]
        ends += [way, way.norm(dim=-1, keepdim=True), self.of_graphs(self.pairs, scg), brief[:, :, a], brief[:, :, b]]
        effect = self.pair_effect(torch.cat(ends, -1))
        if scg.patch is not None:  # of a node that is no patch of the photo: what its links usually are
            of_none = (scg.patch[:, :, a] == UNMATCHED) | (scg.patch[:, :, b] == UNMATCHED)
            effect = effect + self.known * together * of_none.unsqueeze(-1)
        effect = self._by_class(effect)
        return effect * (scg.detected[:, :, a] & scg.detected[:, :, b]).unsqueeze(-1)

    def _by_class(self, values: Tensor) -> Tensor:
        """Values per graph, that of its own class first, ``[B, n, ..., n]``, in the order of the classes."""
        return values.gather(-1, self.in_order[:, None].expand_as(values))

    def read_out(self, nodes: Tensor, links: Tensor) -> Tensor:
        """The sum of all effects in the graphs."""
        return nodes.sum((1, 2)) + links.sum((1, 2)) + self.bias

    def forward(self, scg: SCG) -> Tensor:
        """Class scores ``[B, n]``: of the graphs, and of pairs of patches, whatever their graphs."""
        return super().forward(scg) + self._of_patches(scg, scg.detected[:, None])[:, 0]

    def _of_patches(self, scg: SCG, kept: Tensor) -> Tensor:
        """What pairs of patches add where some nodes are kept, bool ``[B, V, n, N]`` -> ``[B, V, n]``.

        A patch is there while any node shows it.
        """
        if scg.pairs is None or scg.patch is None:
            return kept.new_zeros(*kept.shape[:2], self.num_classes, dtype=self.bias.dtype)
        first, second = patch_pairs(round((1 + (1 + 8 * scg.pairs.shape[1]) ** 0.5) / 2)).to(kept.device)
        shown = scg.patch.flatten(1)[:, None] == torch.arange(int(second.max()) + 1, device=kept.device)[:, None]
        there = (kept.flatten(2)[:, :, None] & shown[:, None]).any(-1)  # [B, V, M]
        both = (there[..., first] & there[..., second]).to(scg.pairs.dtype)
        return self.known * torch.einsum("bvp,bpc->bvc", both, scg.pairs)

    def masked(self, scg: SCG, drop: Tensor) -> tuple[Tensor, Tensor]:
        """Every effect is computed once: a variant is the sum of those that are left."""
        nodes, links = self.embed(scg)
        kept = (~drop).to(nodes.dtype)
        j, i = self.edge_index
        left = torch.einsum("bvgk,bgkc->bvc", kept, nodes)
        left = left + torch.einsum("bvge,bgec->bvc", kept[..., j] * kept[..., i], links)
        there = torch.cat([torch.zeros_like(drop[:, :1]), drop], 1).logical_not() & scg.detected[:, None]
        between = self._of_patches(scg, there)
        return self.read_out(nodes, links) + between[:, 0], left + self.bias + between[:, 1:]


def _perceptron(inputs: int, width: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, outputs))
