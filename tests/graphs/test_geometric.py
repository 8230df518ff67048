"""Graphs handed to PyTorch Geometric, and Eq. 3 written with its message passing against our dense layer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch_geometric.loader import DataLoader
from torch_geometric.nn import MessagePassing

from tests import planted
from vrx.bank import ConceptBank
from vrx.data.images import PhotoFolder
from vrx.errors import VRXError
from vrx.graphs.geometric import SCGDataset, to_geometric
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
    photos = to_geometric(scg)
    assert len(photos) == B
    for b, data in enumerate(photos):
        assert data.validate() and data.num_edges == N_CLASSES * N * (N - 1) and not data.has_self_loops()
        of = list(zip(data.hypothesis.tolist(), data.concept.tolist(), strict=True))
        assert of == [(c, k) for c in range(N_CLASSES) for k in range(N)]
        for node, (c, k) in enumerate(of):
            assert torch.equal(data.x[node], scg.nodes[b, c, k]) and data.detected[node] == scg.detected[b, c, k]
            assert torch.equal(data.pos[node], scg.centroids[b, c, k])
        pairs = {tuple(pair) for pair in data.edge_index.T.tolist()}
        assert pairs == {(s, t) for s, (c, _) in enumerate(of) for t, (d, _) in enumerate(of) if s != t and c == d}
        for (j, i), place in zip(data.edge_index.T.tolist(), data.edge_attr, strict=True):
            assert place.tolist() == [*data.pos[j].tolist(), *data.pos[i].tolist()]


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
    photos = to_geometric(scg)
    attr = torch.stack([data.edge_attr.view(N_CLASSES, -1, 4) for data in photos])
    nodes, _ = conv(scg.nodes, attr, keep, conv.dependency)
    for b, data in enumerate(photos):
        kept = keep[b].flatten().bool()
        weight = conv.dependency.flatten()[kept]
        other = EquationThree(conv)(data.x, data.edge_index[:, kept], data.edge_attr[kept], weight)
        torch.testing.assert_close(nodes[b].flatten(0, 1), other, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def data(source: PhotoFolder, bank: ConceptBank, tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = planted.make_data(source, bank, tmp_path_factory.mktemp("cache"), rest=True)
    made.setup()
    return made


def test_a_dataset_holds_every_photo_with_its_targets(data: Any) -> None:
    table = data.tables["train"]
    dataset = SCGDataset(table)
    assert len(dataset) == len(table["label"]) == 15 and dataset.num_classes == 3
    assert dataset.num_node_features == table["nodes"].shape[-1] and dataset.num_edge_features == 4
    (batch,) = DataLoader(dataset, batch_size=len(dataset))
    assert torch.equal(batch.y, table["logits"]) and torch.equal(batch.x, table["nodes"].flatten(0, 2))
    assert torch.equal(batch.label, table["label"]), "PyTorch Geometric adds offsets to attributes with some names"
    assert torch.equal(batch.photo, table["index"])
    assert batch.detected[batch.concept == batch.concept.max()].all(), "the rest of the photo is always there"


def test_the_cache_folder_holds_the_same(data: Any, tmp_path: Path) -> None:
    for split, table in data.tables.items():
        opened = SCGDataset.from_cache(data.cache(split).folder)
        assert all(torch.equal(opened.table[name], table[name]) for name in opened.table)
    with pytest.raises(VRXError, match="manifest"):
        SCGDataset.from_cache(tmp_path)


def test_ten_lines_of_the_docs_train_another_network(data: Any) -> None:
    """The block is run as it is written."""
    text = (Path(__file__).parents[2] / "docs" / "your_own_gnn.md").read_text()
    block = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    torch.manual_seed(0)
    names: dict[str, Any] = {"folder": data.cache("train").folder}
    exec(block, names)
    (photos,) = DataLoader(names["graphs"], batch_size=100)
    hidden = names["attention"](photos.x.asinh(), photos.edge_index, photos.edge_attr).relu()
    logits = names["head"](names["global_add_pool"](hidden, photos.batch, photos.num_graphs))
    agreement = (logits.argmax(1) == photos.y.argmax(1)).float().mean()
    assert agreement > 0.9, "fifteen photos of three classes are learnt by heart"
