"""Masked variants against slow versions and hand-edited photos."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import planted
from vrx.classifier.classifier import Classifier
from vrx.data.images import PhotoFolder
from vrx.edits import Editor
from vrx.graphs.scg import PhotoGraphs, SCGBuilder
from vrx.graphs.variants import (
    ask_edited,
    asked_patches,
    concept_coalitions,
    concept_variants,
    covered_by,
    drop_all,
)
from vrx.structures import UNMATCHED, Patches

EDITOR = Editor("blur", 0.03)
MATCHED = np.array([[4, UNMATCHED, 2], [7, 4, UNMATCHED], [1, 9, 5]])


def test_patches_of_the_predicted_class_are_asked_first() -> None:
    assert asked_patches(MATCHED, 0, 0).tolist() == [1, 2, 4, 5, 7, 9]
    assert asked_patches(MATCHED, 0, 2).tolist() == [2, 4]
    for seed in range(5):
        drawn = asked_patches(MATCHED, 2, 4, seed)
        assert {1, 5, 9} < set(drawn.tolist()) and len(drawn) == 4 and (np.diff(drawn) > 0).all()
        assert drawn.tolist() == asked_patches(MATCHED, 2, 4, seed).tolist()
    assert len({tuple(asked_patches(MATCHED, 2, 4, seed)) for seed in range(20)}) == 3, "any of the others"
    assert len(asked_patches(np.full((2, 3), UNMATCHED), 0, 5)) == 0


def test_covered_by_against_pixels() -> None:
    rng = np.random.default_rng(0)
    labels = np.stack([rng.integers(0, 5, (12, 12)), np.repeat(np.repeat(np.arange(5, 9).reshape(2, 2), 6, 0), 6, 1)])
    labels[0, :6, :6] = 2  # patch 2 covers patch 5 whole
    patches = Patches(labels.astype(np.int16), np.arange(9))
    matched = np.array([[2, 5, UNMATCHED], [5, 0, 8]])
    edited = np.array([0, 2, 5, 8])
    got = covered_by(edited, matched, patches)
    masks = patches.masks
    for v, e in enumerate(edited):
        for c in range(2):
            for k in range(3):
                p = matched[c, k]
                gone = p != UNMATCHED and (masks[e] & masks[p]).sum() >= 0.5 * masks[p].sum()
                assert bool(got[v, c, k]) == gone
    assert got[1].tolist() == [[True, True, False], [True, False, False]], "every hypothesis sees the edit"
    assert covered_by(np.zeros(0, np.int64), matched, patches).shape == (0, 2, 3)


def test_ask_edited_equals_one_photo_at_a_time(colour_f: Classifier) -> None:
    x = torch.randn(3, 64, 64)
    masks = torch.zeros(5, 64, 64, dtype=torch.bool)
    for k in range(5):
        masks[k, 5 * k : 5 * k + 20, 10:30] = True
    expected = torch.cat([colour_f(EDITOR.delete(x[None], mask[None])) for mask in masks])
    for batch in (2, 64):
        torch.testing.assert_close(ask_edited(colour_f, EDITOR, x, masks, batch), expected, atol=1e-4, rtol=1e-4)
    assert ask_edited(colour_f, EDITOR, x, masks[:0]).shape == (0, 3)


@pytest.fixture(scope="module")
def made(
    colour_f: Classifier, source: PhotoFolder, builder: SCGBuilder
) -> tuple[torch.Tensor, list[Patches], PhotoGraphs]:
    x, superpixels = planted.inputs(colour_f, source, builder.extractor.segmenter, "val")
    return x, superpixels, builder(x, superpixels)


@pytest.mark.parametrize("limit", [0, 2])
def test_variants_against_hand_edited_photos(
    colour_f: Classifier, made: tuple[torch.Tensor, list[Patches], PhotoGraphs], limit: int
) -> None:
    x, _, graphs = made
    variants = concept_variants(colour_f, EDITOR, x, graphs, limit)
    for b, patches in enumerate(graphs.patches):
        predicted = int(graphs.logits[b].argmax())
        edited = asked_patches(graphs.matched[b], predicted, limit)
        assert int(variants.valid[b].sum()) == len(edited) == len(variants.masks[b]) and len(edited)
        assert variants.valid[b, : len(edited)].all()
        for v, patch in enumerate(edited):
            mask = torch.from_numpy(patches.masks[patch])
            assert torch.equal(variants.masks[b][v], mask)
            by_hand = colour_f(EDITOR.delete(x[b : b + 1], mask[None]))[0]
            torch.testing.assert_close(variants.logits[b, v], by_hand, atol=1e-4, rtol=1e-4)
        assert torch.equal(variants.drop[b, : len(edited)], covered_by(edited, graphs.matched[b], patches))
        for c in range(3):
            for k in range(graphs.matched.shape[2]):
                patch, v = graphs.matched[b, c, k], int(variants.of_node[b, c, k])
                asked = patch != UNMATCHED and patch in edited
                assert (v >= 0) == asked
                assert not asked or (edited[v] == patch and variants.drop[b, v, c, k])
    assert not variants.drop[..., -1].any(), "the rest of the photo is never edited away"


def test_photos_without_a_match_have_no_variant(
    colour_f: Classifier, builder: SCGBuilder, made: tuple[torch.Tensor, list[Patches], PhotoGraphs]
) -> None:
    x, superpixels, _ = made
    none = superpixels[0].select(np.zeros(len(superpixels[0]), bool))
    variants = concept_variants(colour_f, EDITOR, x[:2], builder(x[:2], [none, superpixels[1]]))
    assert not variants.valid[0].any() and (variants.of_node[0] == -1).all() and variants.valid[1].any()
    assert variants.masks[0].shape == (0, 64, 64)


def test_coalitions_against_hand_edited_photos(
    colour_f: Classifier, made: tuple[torch.Tensor, list[Patches], PhotoGraphs]
) -> None:
    x, _, graphs = made
    variants = concept_variants(colour_f, EDITOR, x, graphs)
    members, logits = concept_coalitions(colour_f, EDITOR, x, variants, 8, seed=3)
    assert members.shape == (len(x), 8, variants.drop.shape[1]) and members.any()
    assert not (members & ~variants.valid[:, None]).any(), "only patches that there are"
    lost = drop_all(members, variants.drop)
    for b, rows in enumerate(members):
        sets = [tuple(row.nonzero()[:, 0].tolist()) for row in rows if row.any()]
        assert len(set(sets)) == len(sets) and all(len(some) >= 2 for some in sets)
        if len(variants.masks[b]) >= 5:
            assert len(sets) == 8 and sum(len(some) == 2 for some in sets) >= 4
        for q, some in enumerate(sets):
            union = variants.masks[b][list(some)].any(0)
            expected = colour_f(EDITOR.delete(x[b : b + 1], union[None]))[0]
            torch.testing.assert_close(logits[b, q], expected, atol=1e-3, rtol=1e-3)
            assert torch.equal(lost[b, q], variants.drop[b, list(some)].any(0))
    again, _ = concept_coalitions(
        colour_f, EDITOR, x[:1], concept_variants(colour_f, EDITOR, x[:1], graphs_of(graphs, 0)), 8, seed=3
    )
    assert torch.equal(again[0], members[0]), "whatever photos are beside it"


def graphs_of(graphs: PhotoGraphs, photo: int) -> PhotoGraphs:
    one = slice(photo, photo + 1)
    return PhotoGraphs(
        graphs.scg[one],
        graphs.matched[one],
        graphs.patches[one],
        graphs.regions[one],
        graphs.presence[one],
        graphs.logits[one],
        graphs.gradcam[one],
    )
