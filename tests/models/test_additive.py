"""The additive GRN: its effects against loops, its sums, what a missing node takes with it."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vrx.errors import VRXError
from vrx.models.additive import AdditiveGRN
from vrx.models.graph_network import GraphNetwork
from vrx.models.grn import GRN
from vrx.structures import SCG, edges

N, NUM, WIDTH, LINKS, M = 3, 4, 5, 3, 4


def graphs(size: int = 4, seed: int = 0) -> SCG:
    g = torch.Generator().manual_seed(seed)
    lead = (size, N, NUM)
    whole = SCG(
        torch.randn(*lead, WIDTH, generator=g),
        torch.rand(*lead, 2, generator=g),
        torch.ones(lead, dtype=torch.bool),
        torch.randn(size, N, NUM * (NUM - 1), LINKS, generator=g),
        patch=torch.randint(-1, M, lead, generator=g),
        pairs=torch.randn(size, M * (M - 1) // 2, N, generator=g),
    )
    return whole.drop(torch.rand(lead, generator=g) > 0.7)


def of_patches(scg: SCG) -> Tensor:
    """What the pairs of the patches that are there count for, added up by hand, ``[B, n]``."""
    total = torch.zeros(len(scg.nodes), N)
    assert scg.patch is not None and scg.pairs is not None
    for photo in range(len(total)):
        shown = set(scg.patch[photo].unique().tolist())
        for place, pair in enumerate(combinations(range(M), 2)):
            if shown >= set(pair):
                total[photo] += scg.pairs[photo, place]
    return total


def made(seed: int = 0) -> AdditiveGRN:
    torch.manual_seed(seed)
    grn = AdditiveGRN(N, NUM, WIDTH, link_features=LINKS)
    scg = graphs(32, 9)
    grn.set_normalisation(scg.nodes, scg.detected, scg.links)
    with torch.no_grad():
        for parameter in grn.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return grn.eval()


def test_scores_are_the_sum_of_all_effects_and_the_bias() -> None:
    grn, scg = made(), graphs()
    nodes, links = grn.embed(scg)
    assert nodes.shape == (4, N, NUM, N) and links.shape == (4, N, NUM * (NUM - 1), N)
    summed = nodes.sum((1, 2)) + links.sum((1, 2)) + grn.known * of_patches(scg) + grn.bias
    torch.testing.assert_close(grn(scg), summed)
    without = replace(scg, patch=None, pairs=None)
    torch.testing.assert_close(grn(without), grn.read_out(*grn.embed(without)))
    assert (nodes[~scg.detected] == 0).all() and not scg.detected.all()
    j, i = edges(NUM)
    both = scg.detected[..., j] & scg.detected[..., i]
    assert (links[~both] == 0).all() and (links[both] != 0).any()


def test_variants_are_the_graphs_without_the_nodes() -> None:
    grn, scg = made(), graphs()
    drop = torch.rand(4, 7, N, NUM, generator=torch.Generator().manual_seed(4)) < 0.4
    clean, masked = grn.masked(scg, drop)
    torch.testing.assert_close(clean, grn(scg))
    for v in range(7):
        torch.testing.assert_close(masked[:, v], grn(scg.drop(drop[:, v])), atol=1e-5, rtol=1e-4)
    plain = GRN(N, NUM, WIDTH, (7,), (5,), link_features=LINKS).eval()
    for ours, theirs in zip(plain.masked(scg, drop), GraphNetwork.masked(plain, scg, drop), strict=True):
        assert torch.equal(ours, theirs)
    for v in range(7):
        torch.testing.assert_close(plain.masked(scg, drop)[1][:, v], plain(scg.drop(drop[:, v])), atol=1e-5, rtol=1e-4)


def test_nothing_counts_for_more_than_two_at_once() -> None:
    """The difference of differences of any three nodes is 0."""
    grn, scg = made(), graphs(1)
    scg = replace(scg, detected=torch.ones_like(scg.detected))
    for trio in combinations([(0, 0), (1, 2), (0, 3), (2, 1)], 3):
        total: Tensor | float = 0.0
        for size in range(4):
            for some in combinations(trio, size):
                drop = torch.zeros(1, N, NUM, dtype=torch.bool)
                for g, k in some:
                    drop[0, g, k] = True
                total = total + (-1) ** size * grn(scg.drop(drop))
        assert isinstance(total, Tensor) and total.abs().max() < 1e-4


def test_pairs_begin_as_they_are_known_each_once() -> None:
    """Whatever the graphs: by their patches, or by the link of an edge whose ends are no patches of the photo."""
    grn = AdditiveGRN(N, NUM, WIDTH, link_features=LINKS).eval()
    scg = graphs(2, 3)
    assert scg.patch is not None
    nodes, links = grn.embed(scg)
    torch.testing.assert_close(grn(scg), nodes.sum((1, 2)) + links.sum((1, 2)) + of_patches(scg))
    for e, (a, b) in enumerate(edges(NUM).T.tolist()):
        forth = e if a < b else edges(NUM).T.tolist().index([b, a])
        for graph in range(N):
            order = [graph, *(c for c in range(N) if c != graph)]
            for photo in range(2):
                both = bool(scg.detected[photo, graph, a] and scg.detected[photo, graph, b])
                none = bool((scg.patch[photo, graph, [a, b]] == -1).any())
                half = scg.links[photo, graph, forth] / 2 * both * none
                for place, c in enumerate(order):
                    assert links[photo, graph, e, c].item() == pytest.approx(half[place].item(), abs=1e-6)


def test_a_file_opens_as_the_network_that_it_is(tmp_path: Path) -> None:
    scg = graphs()
    for grn in (made(), GRN(N, NUM, WIDTH, (7,), (5,), link_features=LINKS).eval()):
        grn.save(tmp_path / "grn.safetensors")
        again = GraphNetwork.load(tmp_path / "grn.safetensors")
        assert type(again) is type(grn) and torch.equal(again(scg), grn(scg))
    with pytest.raises(VRXError, match=r"rerun train\.py"):
        GraphNetwork.load(tmp_path / "missing.safetensors")


def test_graphs_of_other_settings_are_refused() -> None:
    scg = graphs()
    with pytest.raises(VRXError, match="other settings"):
        made()(SCG(scg.nodes, scg.centroids, scg.detected))
