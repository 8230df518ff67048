"""Contributions against slow loops: Eq. 5-6 by finite sums, knockouts one node at a time."""

import pytest
import torch
from torch import Tensor

from vrx.errors import VRXError
from vrx.explain import contributions as module
from vrx.explain.contributions import (
    ContributionMethod,
    GradientTimesEmbedding,
    Knockout,
    block_scores,
    edge_contributions,
)
from vrx.models.grn import GRN
from vrx.structures import SCG, edges

N_CLASSES, NUM, WIDTH = 3, 3, 5


METHODS: list[ContributionMethod] = [GradientTimesEmbedding(), Knockout()]


def graphs(size: int = 4, seed: int = 0) -> SCG:
    g = torch.Generator().manual_seed(seed)
    lead = (size, N_CLASSES, NUM)
    whole = SCG(
        torch.randn(*lead, WIDTH, generator=g), torch.rand(*lead, 2, generator=g), torch.ones(lead, dtype=torch.bool)
    )
    return whole.drop(torch.rand(lead, generator=g) > 0.7)


def trained(dropout: float = 0.0) -> GRN:
    """Random weights, lively batch norms, eval mode."""
    torch.manual_seed(1)
    grn = GRN(N_CLASSES, NUM, WIDTH, (8, 6), (5, 4), dropout=dropout)
    with torch.no_grad():
        for conv in grn.convs:
            conv.dependency.normal_()
        for _ in range(20):
            grn(graphs(32))
    return grn.eval()


def margin(logits: Tensor, c: int) -> float:
    others = torch.cat([logits[:c], logits[c + 1 :]])
    return float(logits[c] - others.exp().sum().log())


def one(scg: SCG, b: int) -> SCG:
    return SCG(scg.nodes[b : b + 1].clone(), scg.centroids[b : b + 1].clone(), scg.detected[b : b + 1].clone())


def test_gradient_blocks_and_bias_add_up_to_the_logits() -> None:
    grn, scg = trained(), graphs()
    nodes, links = block_scores(grn, scg)
    total = nodes.sum((2, 3)) + links.sum((2, 3)) + grn.embedding.bias
    torch.testing.assert_close(total, grn(scg), atol=1e-5, rtol=1e-5)


def test_gradient_blocks_are_those_of_the_linear_read_out() -> None:
    """With E linear, dy_c / dblock is a piece of row c of E's matrix: each score by hand."""
    grn, scg = trained(), graphs()
    nodes, links = GradientTimesEmbedding()(grn, scg), edge_contributions(grn, scg)
    blocks, edge_blocks = grn.embed(scg)
    size, per_class = 6, NUM * 6 + NUM * (NUM - 1) * 4
    j, i = edges(NUM)
    for c in range(N_CLASSES):
        for g in range(N_CLASSES):
            row = grn.embedding.weight[c, g * per_class : (g + 1) * per_class]
            for k in range(NUM):
                expected = blocks[:, g, k] @ row[k * size : (k + 1) * size] * scg.detected[:, g, k]
                torch.testing.assert_close(nodes[:, c, g, k], expected, atol=1e-5, rtol=1e-5)
            for e in range(NUM * (NUM - 1)):
                start = NUM * size + e * 4
                seen = scg.detected[:, g, j[e]] & scg.detected[:, g, i[e]]
                expected = edge_blocks[:, g, e] @ row[start : start + 4] * seen
                torch.testing.assert_close(links[:, c, g, e], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("together", [False, True])
def test_node_knockout_is_one_loop_a_node(together: bool) -> None:
    grn, scg = trained(), graphs()
    g = torch.Generator().manual_seed(5)
    shared = torch.rand(4, N_CLASSES, NUM, N_CLASSES, NUM, generator=g) < 0.25 if together else None
    nodes = Knockout()(grn, scg, shared)

    with torch.no_grad():
        for b in range(4):
            clean = grn(one(scg, b))[0]
            for h in range(N_CLASSES):
                for k in range(NUM):
                    photo = one(scg, b)
                    gone = [(h, k)]
                    if shared is not None:
                        gone += [tuple(p) for p in shared[b, h, k].nonzero().tolist()]
                    for graph, node in gone:
                        photo.nodes[0, graph, node] = 1e-3
                        photo.centroids[0, graph, node] = 0.5
                        photo.detected[0, graph, node] = False
                    changed = grn(photo)[0]
                    for c in range(N_CLASSES):
                        fall = margin(clean, c) - margin(changed, c) if scg.detected[b, h, k] else 0.0
                        assert nodes[b, c, h, k].item() == pytest.approx(fall, abs=1e-4)
    assert nodes.abs().max() > 0.05


@pytest.mark.parametrize("method", METHODS)
def test_dummies_score_nothing_and_shapes_hold(method: ContributionMethod) -> None:
    grn, scg = trained(), graphs()
    nodes, links = method(grn, scg), edge_contributions(grn, scg)
    assert nodes.shape == (4, N_CLASSES, N_CLASSES, NUM)
    assert links.shape == (4, N_CLASSES, N_CLASSES, NUM * (NUM - 1))
    missing = ~scg.detected[:, None].expand_as(nodes)
    assert (nodes[missing] == 0).all()
    assert (nodes[~missing] != 0).any()
    nothing = scg.drop(torch.ones_like(scg.detected))
    assert all((value == 0).all() for value in (method(grn, nothing), edge_contributions(grn, nothing)))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    grn, scg = trained(), graphs()
    whole = Knockout()(grn, scg)
    monkeypatch.setattr(module, "BUDGET", 2 * scg.nodes[0].numel())
    torch.testing.assert_close(whole, Knockout()(grn, scg), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_explains_in_eval_mode_and_restores_each_mode(method: ContributionMethod) -> None:
    grn, scg = trained(dropout=0.5), graphs()
    expected = method(grn, scg)
    before = {k: v.clone() for k, v in grn.state_dict().items()}
    grn.train()
    grn.node_norms[0].eval()
    assert torch.equal(expected, method(grn, scg))
    assert grn.training
    assert grn.dropout.training
    assert not grn.node_norms[0].training
    assert all(torch.equal(v, before[k]) for k, v in grn.state_dict().items())
    assert all(p.grad is None for p in grn.parameters())
    wrong = SCG(scg.nodes[..., :2], scg.centroids, scg.detected)
    with pytest.raises(VRXError):
        method(grn, wrong)
    assert grn.dropout.training
