"""Structural Concept Graphs: what a node holds, dummies, the rest of the photo."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from tests import planted
from vrx.bank import ConceptBank
from vrx.classifier.classifier import Classifier
from vrx.data.images import PhotoFolder
from vrx.edits import Editor
from vrx.errors import VRXError
from vrx.graphs.evidence import Evidence
from vrx.graphs.scg import BASELINES, SOURCES, PhotoGraphs, SCGBuilder
from vrx.structures import EPSILON, NEUTRAL, UNMATCHED, Patches


def make_builder(f: Classifier, bank: ConceptBank, margin: float = 0.03, **kwargs: Any) -> SCGBuilder:
    return SCGBuilder(f, bank, planted.make_extractor(), Editor("blur", margin), **kwargs)


@pytest.fixture(scope="module")
def batch(colour_f: Classifier, source: PhotoFolder) -> tuple[torch.Tensor, list[Patches]]:
    return planted.inputs(colour_f, source, planted.make_extractor().segmenter, "val")


@pytest.fixture(scope="module")
def graphs(builder: SCGBuilder, batch: tuple[torch.Tensor, list[Patches]]) -> PhotoGraphs:
    return builder(*batch, baselines=True)


def test_width_of_a_node_for_every_combination_of_sources(
    colour_f: Classifier, bank: ConceptBank, batch: tuple[torch.Tensor, list[Patches]]
) -> None:
    x, superpixels = batch[0][:1], batch[1][:1]
    for size in (1, 2, len(SOURCES)):
        for sources in combinations(SOURCES, size):
            rest = size != 2
            layers = [colour_f.layers[0].name] if len(sources) == 2 else []
            made = make_builder(colour_f, bank, sources=sources, layers=layers, rest=rest)
            nodes = made(x, superpixels).scg.nodes
            assert nodes.shape == (1, 3, made.num_nodes, made.node_features), sources
            assert made.num_nodes == bank.num_concepts + rest


def test_dummies_hold_epsilon_in_the_middle_and_are_not_detected(graphs: PhotoGraphs, bank: ConceptBank) -> None:
    num = bank.num_concepts
    dummy = graphs.matched[:, :, :num] == UNMATCHED
    assert dummy.any() and not dummy.all()
    scg = graphs.scg
    assert (scg.nodes[:, :, :num][dummy] == EPSILON).all()
    assert (scg.centroids[:, :, :num][dummy] == NEUTRAL).all()
    np.testing.assert_array_equal(scg.detected[:, :, :num], ~dummy)


def test_own_part_is_detected_and_stands_where_it_is(graphs: PhotoGraphs, source: PhotoFolder) -> None:
    for b, photo in enumerate(source.photos("val")):
        own = graphs.scg.detected[b, photo.label, 0]
        if own:
            y, x = np.nonzero(planted.part_of(photo.path))
            place = torch.tensor([x.mean(), y.mean()]).float() / planted.SIDE
            assert (graphs.scg.centroids[b, photo.label, 0] - place).abs().max() < 0.15
    labels = torch.tensor([p.label for p in source.photos("val")])
    rows = torch.arange(len(labels))
    assert graphs.scg.detected[rows, labels, 0].float().mean() > 0.7
    others = torch.stack([graphs.scg.detected[rows, (labels + k) % 3, 0] for k in (1, 2)])
    assert not others.any(), "no photo has another class' colour"


def test_pooled_node_is_the_mean_of_the_last_map_over_the_patch(
    colour_f: Classifier, bank: ConceptBank, batch: tuple[torch.Tensor, list[Patches]]
) -> None:
    made = make_builder(colour_f, bank)(*batch)
    maps = colour_f.inspect(batch[0]).maps[colour_f.layers[-1].name]
    for b, c, k in zip(*np.nonzero(made.matched != UNMATCHED), strict=True):
        mask = made.patches[b].masks[made.matched[b, c, k]]
        full = maps[b].repeat_interleave(8, 1).repeat_interleave(8, 2)
        torch.testing.assert_close(made.scg.nodes[b, c, k], full[:, mask].mean(1), atol=1e-4, rtol=1e-4)


def test_evidence_of_a_class_comes_first_in_its_own_graph(
    colour_f: Classifier, bank: ConceptBank, batch: tuple[torch.Tensor, list[Patches]]
) -> None:
    made = make_builder(colour_f, bank, sources=["head_area", "shape"])(*batch)
    for b, c, k in zip(*np.nonzero(made.matched != UNMATCHED), strict=True):
        patches, p = made.patches[b], made.matched[b, c, k]
        mask = patches.masks[p]
        full = colour_f.inspect(batch[0][b : b + 1]).maps[colour_f.layers[-1].name][0]
        full = full.repeat_interleave(8, 1).repeat_interleave(8, 2)
        head = colour_f.head_values(full[:, mask].mean(1)[None])[0]
        values = (head - head.mean()) * mask.mean()
        order = [c, *(o for o in range(3) if o != c)]
        torch.testing.assert_close(made.scg.nodes[b, c, k, :3], values[order], atol=1e-4, rtol=1e-3)
        shape = torch.tensor([mask.mean(), mask.mean() ** 0.5, *patches.centroids[p]]).float()
        torch.testing.assert_close(made.scg.nodes[b, c, k, 3:], shape)


def test_gradient_evidence_without_margin_against_a_sum_over_pixels(
    colour_f: Classifier, bank: ConceptBank, batch: tuple[torch.Tensor, list[Patches]]
) -> None:
    layer = colour_f.layers[-1].name
    made = make_builder(colour_f, bank, margin=0.0, sources=["gradact"], layers=[layer])(*batch)
    maps = colour_f.inspect(batch[0], gradients=True).grad_act[layer]
    for b, c, k in zip(*np.nonzero(made.matched != UNMATCHED), strict=True):
        mask = torch.from_numpy(made.patches[b].masks[made.matched[b, c, k]]).float()
        cells = mask.unflatten(1, (8, 8)).unflatten(0, (8, 8)).mean((1, 3))  # share of each cell that is covered
        expected = (cells * maps[b, c]).sum()
        # the regions are softened on a grid of 56 rows, which does not divide 64 evenly
        torch.testing.assert_close(made.scg.nodes[b, c, k, 0], expected, atol=0.15, rtol=0.15)


@pytest.mark.parametrize("side", [56, 60, 64, 75])
def test_weights_of_a_region_are_shares(colour_f: Classifier, side: int) -> None:
    """Where the grid does not divide the photo, cells have different numbers of pixels: never more than whole."""
    labels = np.zeros((1, side, side), np.int16)
    labels[:, :, side // 2 :] = 1
    patches = Patches(labels, np.array([0, 1]))
    activations = colour_f.inspect(torch.zeros(1, 3, 64, 64))
    evidence = Evidence.of_patches(colour_f, activations, 0, patches, 0.0)
    assert evidence.weights.min() >= 0
    torch.testing.assert_close(evidence.weights.sum(0), torch.ones(56, 56))


def test_the_rest_is_what_no_node_of_the_graph_covers(
    colour_f: Classifier, bank: ConceptBank, batch: tuple[torch.Tensor, list[Patches]]
) -> None:
    made = make_builder(colour_f, bank, margin=0.0, sources=["shape"], rest=True)(*batch)
    assert (made.matched[:, :, -1] == UNMATCHED).all() and made.scg.detected[:, :, -1].all()
    assert (made.scg.centroids[:, :, -1] == NEUTRAL).all()
    for b in range(len(made.matched)):
        for c in range(3):
            used = made.matched[b, c][made.matched[b, c] != UNMATCHED]
            covered = made.patches[b].masks[used].any(0) if len(used) else np.zeros((64, 64), bool)
            area, root, x, y = made.scg.nodes[b, c, -1].tolist()
            assert area == pytest.approx(1 - covered.mean(), abs=0.03)
            assert root == pytest.approx(area**0.5) and (x, y) == (NEUTRAL, NEUTRAL)


def test_baselines_are_zero_for_dummies_and_area_is_the_patchs(graphs: PhotoGraphs) -> None:
    assert graphs.baselines.shape[-1] == len(BASELINES)
    assert (graphs.baselines[torch.from_numpy(graphs.matched == UNMATCHED)] == 0).all()
    for b, c, k in zip(*np.nonzero(graphs.matched != UNMATCHED), strict=True):
        area = graphs.patches[b].areas[graphs.matched[b, c, k]]
        values = dict(zip(BASELINES, graphs.baselines[b, c, k].tolist(), strict=True))
        assert values["area"] == pytest.approx(area)
        assert values["gradcam_mean"] == pytest.approx(values["gradcam_sum"] / area, rel=1e-4)


def test_graphs_do_not_depend_on_the_photos_beside(
    builder: SCGBuilder, graphs: PhotoGraphs, batch: tuple[torch.Tensor, list[Patches]]
) -> None:
    alone = builder(batch[0][4:5], batch[1][4:5])
    np.testing.assert_array_equal(alone.matched[0], graphs.matched[4])
    torch.testing.assert_close(alone.scg.nodes[0], graphs.scg.nodes[4], atol=1e-4, rtol=1e-4)


def test_a_photo_without_patches_has_dummies_only(
    builder: SCGBuilder, batch: tuple[torch.Tensor, list[Patches]]
) -> None:
    none = batch[1][0].select(np.zeros(len(batch[1][0]), bool))
    made = builder(batch[0][:1], [none])
    assert (made.matched == UNMATCHED).all() and not made.scg.detected[:, :, :-1].any()
    assert torch.isfinite(made.scg.nodes).all()


def test_unknown_sources(colour_f: Classifier, bank: ConceptBank) -> None:
    for sources in ([], ["pooled", "magic"]):
        with pytest.raises(VRXError, match=r"graph\.builder\.sources"):
            make_builder(colour_f, bank, sources=sources)
