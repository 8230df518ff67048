"""Graphs of edited photos with the matches of the clean ones: only what the patches show, and where, may differ."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests import planted
from vrx.bank import ConceptBank
from vrx.classifier.classifier import Classifier
from vrx.data.images import PhotoFolder
from vrx.edits import Editor
from vrx.graphs.scg import PhotoGraphs, SCGBuilder
from vrx.structures import NEUTRAL, UNMATCHED, Patches

Batch = tuple[torch.Tensor, list[Patches]]


@pytest.fixture(scope="module")
def batch(colour_f: Classifier, source: PhotoFolder) -> Batch:
    return planted.inputs(colour_f, source, planted.make_extractor().segmenter, "val")


@pytest.fixture(scope="module")
def clean(builder: SCGBuilder, batch: Batch) -> PhotoGraphs:
    return builder(*batch)


def matches(graphs: PhotoGraphs, bank: ConceptBank) -> NDArray[np.int64]:
    return graphs.matched[:, :, : bank.num_concepts]


def test_an_unedited_photo_gives_the_same_graphs(
    builder: SCGBuilder, bank: ConceptBank, batch: Batch, clean: PhotoGraphs
) -> None:
    again = builder.rebuild(batch[0], clean.patches, matches(clean, bank))
    np.testing.assert_array_equal(again.matched, clean.matched)
    torch.testing.assert_close(again.scg.nodes, clean.scg.nodes, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again.scg.centroids, clean.scg.centroids)
    assert torch.equal(again.scg.detected, clean.scg.detected)
    torch.testing.assert_close(again.logits, clean.logits)
    torch.testing.assert_close(again.baselines, clean.baselines, atol=1e-5, rtol=1e-5)


def moved(patches: Patches, index: int, place: NDArray[np.bool_]) -> Patches:
    """The patch at ``index`` somewhere else, in a layer of its own."""
    label, nobody = int(patches.ids[index]), int(patches.labels.max()) + 1
    layers = [*np.where(patches.labels == label, nobody, patches.labels), np.where(place, label, nobody)]
    return Patches(np.stack(layers).astype(np.int16), patches.ids)


def test_a_moved_patch_moves_its_own_nodes_alone(
    builder: SCGBuilder, bank: ConceptBank, batch: Batch, clean: PhotoGraphs
) -> None:
    num, seen = bank.num_concepts, 0
    for b in range(len(batch[0])):
        matched = matches(clean, bank)[b]
        for index in np.unique(matched[matched != UNMATCHED]).tolist():
            place = np.zeros((planted.SIDE, planted.SIDE), bool)
            place[50:60, 4:20] = True
            patches = moved(clean.patches[b], index, place)
            again = builder.rebuild(batch[0][b : b + 1], [patches], matched[None]).scg
            own = torch.from_numpy(matched == index)
            centre = torch.tensor([12.0, 55.0]) / planted.SIDE  # of columns 4 to 19 and rows 50 to 59
            torch.testing.assert_close(again.centroids[0, :, :num][own], centre.expand(int(own.sum()), 2))
            for name in ("nodes", "centroids"):
                after, before = getattr(again, name)[0, :, :num], getattr(clean.scg, name)[b, :, :num]
                torch.testing.assert_close(after[~own], before[~own], atol=1e-5, rtol=1e-5)
            assert torch.equal(again.detected[0], clean.scg.detected[b])
            seen += 1
    assert seen >= len(batch[0])


def test_nodes_hold_what_the_patches_show_after_the_edit(
    colour_f: Classifier, bank: ConceptBank, batch: Batch, source: PhotoFolder
) -> None:
    """The mean of the last map of the edited photo, though the concept would not be detected there again."""
    builder = SCGBuilder(colour_f, bank, planted.make_extractor(), Editor("grey", 0.0))
    made, lost = builder(*batch), 0
    for b, photo in enumerate(source.photos("val")):
        matched = made.matched[b]
        if matched[photo.label, 0] == UNMATCHED:
            continue
        disc = torch.from_numpy(planted.part_of(photo.path))[None]
        x = builder.editor.delete(batch[0][b : b + 1], disc)
        again = builder.rebuild(x, [made.patches[b]], matched[None])
        np.testing.assert_array_equal(again.matched[0], matched)
        last = colour_f.inspect(x).maps[colour_f.layers[-1].name][0]
        full = last.repeat_interleave(8, 1).repeat_interleave(8, 2)
        for c, k in zip(*np.nonzero(matched != UNMATCHED), strict=True):
            mask = made.patches[b].masks[matched[c, k]]
            torch.testing.assert_close(again.scg.nodes[0, c, k], full[:, mask].mean(1), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(again.logits, colour_f(x).detach(), atol=1e-5, rtol=1e-5)
        lost += int(builder(x, [batch[1][b]]).matched[0, photo.label, 0] == UNMATCHED)
    assert lost > 0


def test_dummies_stay_dummies(builder: SCGBuilder, bank: ConceptBank, batch: Batch, clean: PhotoGraphs) -> None:
    nothing = np.full_like(matches(clean, bank)[:1], UNMATCHED)
    again = builder.rebuild(batch[0][:1], clean.patches[:1], nothing).scg
    assert not again.detected[:, :, : bank.num_concepts].any()
    assert (again.centroids[:, :, : bank.num_concepts] == NEUTRAL).all()
