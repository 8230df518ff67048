"""Graphs handed to PyTorch Geometric, and Eq. 3 written with its message passing against our dense layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch_geometric.data import Batch
from torch_geometric.nn import MessagePassing

from vrx.graphs.geometric import to_geometric
from vrx.models.grn import ConceptGraphConv
from vrx.structures import SCG

B, N_CLASSES, N, D = 3, 2, 4, 5


@pytest.fixture
def scg() -> SCG:
    g = torch.Generator().manual_seed(0)
    shape = (B, N_CLASSES, N)
    whole = SCG(torch.randn(*shape, D, generator=g), torch.rand(*shape, 2, generator=g), torch.ones(shape).bool())
    return whole.drop(torch.rand(shape, generator=g) < 0.3)


def test_every_graph_is_complete_and_knows_its_places(scg: SCG) -> None:
    graphs = to_geometric(scg)
    assert len(graphs) == B and all(len(row) == N_CLASSES for row in graphs)
    for b, row in enumerate(graphs):
        for c, data in enumerate(row):
            assert data.validate() and data.num_edges == N * (N - 1) and not data.has_self_loops()
            assert torch.equal(data.x, scg.nodes[b, c]) and torch.equal(data.detected, scg.detected[b, c])
            assert data.hypothesis == c
            for (j, i), place in zip(data.edge_index.T.tolist(), data.edge_attr, strict=True):
                assert place.tolist() == [*scg.centroids[b, c, j].tolist(), *scg.centroids[b, c, i].tolist()]


class EquationThree(MessagePassing):
    """``f_i' = W1 f_i + sum_j W3 C(e_ji^c W2 f_j, edge_ji)``, one message an edge."""

    def __init__(self, conv: ConceptGraphConv) -> None:
        super().__init__(aggr="sum", flow="source_to_target")
        self.conv = conv

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor, weight: Tensor) -> Tensor:
        return self.conv.centre(x) + self.propagate(edge_index, x=x, edge_attr=edge_attr, weight=weight)

    def message(self, x_j: Tensor, edge_attr: Tensor, weight: Tensor) -> Tensor:
        return self.conv.message_map(torch.cat([weight[:, None] * self.conv.neighbour(x_j), edge_attr], dim=1))


def test_the_dense_layer_is_message_passing(scg: SCG) -> None:
    torch.manual_seed(1)
    conv = ConceptGraphConv(N_CLASSES, N, (D, 6), (4, 3))
    torch.nn.init.normal_(conv.dependency)
    keep = (torch.rand(B, N_CLASSES, N * (N - 1)) < 0.7).float()
    graphs = to_geometric(scg)
    attr = torch.stack([torch.stack([data.edge_attr for data in row]) for row in graphs])
    nodes, _ = conv(scg.nodes, attr, keep)
    for b, row in enumerate(graphs):
        for c, data in enumerate(row):
            kept = keep[b, c].bool()
            other = EquationThree(conv)(
                data.x, data.edge_index[:, kept], data.edge_attr[kept], conv.dependency[c, kept]
            )
            torch.testing.assert_close(nodes[b, c], other, rtol=1e-4, atol=1e-5)


def test_graphs_batch_as_usual(scg: SCG) -> None:
    batch = Batch.from_data_list([data for row in to_geometric(scg) for data in row])
    assert batch.num_graphs == B * N_CLASSES and batch.x.shape == (B * N_CLASSES * N, D)
    assert batch.hypothesis.tolist() == [c for _ in range(B) for c in range(N_CLASSES)]
