"""Eq. 3 and appendix table 3 against a slow dense implementation; dummies; batching."""

import pytest
import torch
from torch import Tensor

from vrx.errors import VRXError
from vrx.models.grn import GRN
from vrx.structures import SCG, edges


def graphs(size: int = 3, n: int = 2, num: int = 3, width: int = 5, seed: int = 0, share: float = 0.6) -> SCG:
    g = torch.Generator().manual_seed(seed)
    detected = torch.rand(size, n, num, generator=g) < share
    whole = SCG(
        torch.randn(size, n, num, width, generator=g),
        torch.rand(size, n, num, 2, generator=g),
        torch.ones_like(detected),
    )
    return whole.drop(~detected)


def shaken(grn: GRN, seed: int = 0) -> GRN:
    """Every parameter and running statistic away from its start, eval mode."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in grn.parameters():
            value.copy_(torch.randn(value.shape, generator=g) * 0.5)
        for norm in [*grn.node_norms, *grn.edge_norms]:
            norm.running_mean.copy_(torch.randn(norm.running_mean.shape, generator=g))
            norm.running_var.copy_(torch.rand(norm.running_var.shape, generator=g) + 0.5)
    return grn.eval()


def batch_norm(norm: torch.nn.BatchNorm1d, v: Tensor) -> Tensor:
    return (v - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias


def slow(grn: GRN, scg: SCG, class_of: int | None = None) -> list[Tensor]:
    """Eq. 3 node by node and edge by edge, then the blocks of every graph side by side: a row of E's input a photo.

    Args:
        class_of: use this class' weights in every graph.
    """
    pairs = [(j, i) for j in range(grn.num_nodes) for i in range(grn.num_nodes) if i != j]
    rows = []
    given = grn._standard(scg)  # what enters the first layer: tested on its own
    for b in range(len(scg.nodes)):
        blocks = []
        for c in range(grn.num_classes):
            seen = scg.detected[b, c].tolist()
            f = list(given[b, c])
            edge = {}
            for j, i in pairs:
                known = seen[i] and seen[j]
                place = torch.cat([scg.centroids[b, c, j], scg.centroids[b, c, i]])
                edge[j, i] = place if known else torch.full((4,), 0.5)
            for layer, conv in enumerate(grn.convs):
                w1, w2, w3, w4 = (m.weight for m in (conv.centre, conv.neighbour, conv.message_map, conv.edge_map))
                e = conv.dependency[c if class_of is None else class_of]
                new = []
                for i in range(grn.num_nodes):
                    value = w1 @ f[i] + conv.centre.bias
                    for k, (j, to) in enumerate(pairs):
                        if to == i and seen[i]:
                            value = value + w3 @ torch.cat([e[k] * (w2 @ f[j]), edge[j, i]])
                    new.append(batch_norm(grn.node_norms[layer], value.clamp(min=0)))
                edge = {p: batch_norm(grn.edge_norms[layer], (w4 @ v).clamp(min=0)) for p, v in edge.items()}
                f = new
            blocks += [torch.cat(f), *(edge[p] for p in pairs)]
        rows.append(torch.cat(blocks))
    return rows


def slow_logits(grn: GRN, scg: SCG) -> Tensor:
    return torch.stack([grn.embedding.weight @ row + grn.embedding.bias for row in slow(grn, scg)])


def test_is_equation_3() -> None:
    scg = graphs()
    grn = shaken(GRN(2, 3, 5, (7, 6, 4), (5, 3, 2)))
    grn.set_normalisation(scg.nodes, scg.detected)
    torch.testing.assert_close(grn(scg), slow_logits(grn, scg), rtol=1e-4, atol=1e-4)


def test_defaults_have_the_shapes_of_table_3() -> None:
    grn = GRN(num_classes=6, num_nodes=4, node_features=2048)
    shapes = [
        (c.centre.weight.shape, c.neighbour.weight.shape, c.message_map.weight.shape, c.edge_map.weight.shape)
        for c in grn.convs
    ]
    assert shapes == [
        ((64, 2048), (64, 2048), (64, 68), (5, 4)),
        ((32, 64), (32, 64), (32, 37), (5, 5)),
        ((32, 32), (32, 32), (32, 37), (5, 5)),
    ]
    assert [tuple(c.dependency.shape) for c in grn.convs] == [(6, 12)] * 3
    assert tuple(grn.embedding.weight.shape) == (6, 188 * 6)
    nodes, links = grn.eval().embed(graphs(2, 6, 4, 2048))
    assert nodes.shape == (2, 6, 4, 32)
    assert links.shape == (2, 6, 12, 5)
    assert nodes[0, 0].numel() + links[0, 0].numel() == 188


def test_weights_of_a_class_reach_that_class_alone() -> None:
    scg = graphs(share=1.0)
    grn = shaken(GRN(2, 3, 5, (7, 6, 4), (5, 3, 2)))
    before = grn.embed(scg)[0].clone()
    with torch.no_grad():
        grn.convs[0].dependency[1, 2] += 1.0
    after = grn.embed(scg)[0]
    assert torch.equal(before[:, 0], after[:, 0])
    assert (before[:, 1] - after[:, 1]).abs().max() > 1e-3
    # edge 2 of three nodes is 1 -> 0: the sender of an edge is row 0 of `edges`
    assert edges(3)[:, 2].tolist() == [1, 0]
    single = GRN(2, 3, 5, (7,), (5,))
    shaken(single).embed(scg)[0][:, 1, 0].sum().backward()
    reached = single.convs[0].dependency.grad
    assert reached is not None
    heard = edges(3)[1] == 0
    assert (reached[1][heard] != 0).all()
    assert (reached[1][~heard] == 0).all()
    assert (reached[0] == 0).all()


def test_equal_graphs_differ_by_their_class_alone() -> None:
    scg = graphs(share=1.0)
    same = SCG(*(v[:, :1].expand(-1, 2, *v.shape[2:]) for v in (scg.nodes, scg.centroids, scg.detected)))
    fresh = GRN(2, 3, 5).eval()  # every e_ji^c starts at the same value
    nodes = fresh.embed(same)[0]
    torch.testing.assert_close(nodes[:, 0], nodes[:, 1])
    nodes = shaken(fresh).embed(same)[0]
    assert (nodes[:, 0] - nodes[:, 1]).abs().max() > 1e-3


def test_a_dummy_is_the_same_in_every_photo() -> None:
    """Its block, the blocks of its edges, and so what it sends, whatever the rest of the photo."""
    scg = graphs(size=8, share=1.0)
    gone = torch.zeros(8, 2, 3, dtype=torch.bool)
    gone[:, 0, 1] = True
    grn = shaken(GRN(2, 3, 5, (7, 6, 4), (8, 8, 8)))
    grn.set_normalisation(scg.nodes, scg.detected)
    nodes, links = grn.embed(scg.drop(gone))
    touching = (edges(3) == 1).any(0)
    torch.testing.assert_close(nodes[:, 0, 1], nodes[:1, 0, 1].expand(8, -1))
    torch.testing.assert_close(links[:, 0, touching], links[:1, 0, touching].expand(8, -1, -1))
    assert nodes[:, 0, [0, 2]].std(0).max() > 1e-3  # the others do differ
    assert links[:, 1].std(0).max() > 1e-3


def test_photos_of_a_batch_do_not_touch_each_other() -> None:
    scg = graphs(size=5)
    grn = shaken(GRN(2, 3, 5))
    together = grn(scg)
    alone = torch.cat(
        [grn(SCG(scg.nodes[b : b + 1], scg.centroids[b : b + 1], scg.detected[b : b + 1])) for b in range(5)]
    )
    torch.testing.assert_close(together, alone)


def test_a_batch_of_one_photo_trains() -> None:
    grn = GRN(2, 3, 5)
    grn(graphs(size=1)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in grn.parameters())


def test_a_single_concept_has_no_edges() -> None:
    grn = GRN(2, 1, 5)
    assert grn(graphs(num=1)).shape == (3, 2)
    assert grn.eval().embed(graphs(num=1))[1].shape == (3, 2, 0, 5)


def test_evidence_of_any_scale_enters_alike() -> None:
    """Standardised by detected nodes alone, order kept, a constant feature at 0, dummies as they are."""
    scg = graphs(size=40)
    scg.nodes[..., 0] = torch.where(scg.detected, 7.0, scg.nodes[..., 0])
    other = SCG(torch.where(scg.detected[..., None], 100 * scg.nodes + 40, scg.nodes), scg.centroids, scg.detected)
    entered = []
    for given in (scg, other):
        grn = GRN(2, 3, 5)
        assert not grn.normalised
        grn.set_normalisation(given.nodes, given.detected)
        assert grn.normalised
        seen = given.nodes[given.detected]
        torch.testing.assert_close(grn.node_mean, seen.mean(0))
        torch.testing.assert_close(grn.node_std[1:], seen[:, 1:].std(0))
        entered.append(grn._standard(given))
        assert torch.equal(entered[-1][~given.detected], given.nodes[~given.detected])
    torch.testing.assert_close(entered[0], entered[1], atol=1e-3, rtol=1e-3)
    inside, seen = entered[0][scg.detected], scg.nodes[scg.detected]
    assert inside[:, 0].abs().max() < 1e-4
    assert inside[:, 1:].mean(0).abs().max() < 0.2
    assert torch.equal(inside[:, 1:].argsort(0), seen[:, 1:].argsort(0))


def test_rebuilds_from_its_hyperparameters() -> None:
    grn = shaken(GRN(2, 3, 5, (7, 6), (5, 3), dropout=0.3))
    again = GRN(**grn.hparams)
    again.load_state_dict(grn.state_dict())
    assert torch.equal(again.eval()(graphs()), grn(graphs()))


def test_wrong_graphs_and_widths_are_named() -> None:
    grn = GRN(2, 3, 5)
    with pytest.raises(VRXError, match=r"\[B, 2, 3, 5\].*\[3, 2, 3, 6\]"):
        grn(graphs(width=6))
    with pytest.raises(VRXError, match="edge_widths"):
        GRN(2, 3, 5, (4, 4), (5,))
