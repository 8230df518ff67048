"""Changes that nobody sees: small, and undone where they move something."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vrx.bank import ConceptBank
from vrx.classifier.classifier import Classifier
from vrx.concepts.attention import GradientAttention
from vrx.concepts.candidates import WordExtractor
from vrx.concepts.perturbations import BRIGHTER, PERTURBATIONS, SHIFT, moved_back
from vrx.concepts.word_discovery import overlaps
from vrx.concepts.words import Vocabulary, appearance
from vrx.data.images import PhotoFolder
from vrx.structures import Patches

NOTHING = 9


@pytest.fixture(scope="module")
def x(colour_f: Classifier, source: PhotoFolder) -> torch.Tensor:
    return torch.stack([colour_f.transform(source.read(photo)) for photo in source.photos("val")])


@pytest.mark.parametrize(("name", "mean"), [("jpeg", 4.0), ("brighter", 3.0), ("shifted", 16.0)])
def test_a_change_is_small_but_there(colour_f: Classifier, x: torch.Tensor, name: str, mean: float) -> None:
    changed = PERTURBATIONS[name](colour_f, x)
    assert changed.shape == x.shape and changed.dtype == x.dtype
    difference = np.abs(colour_f.pixels(changed).astype(int) - colour_f.pixels(x).astype(int))
    assert 0 < difference.mean() < mean
    assert (colour_f(changed).argmax(1) == colour_f(x).argmax(1)).all()


def test_brighter_is_two_percent_up_to_white(colour_f: Classifier) -> None:
    grey = np.full((1, 64, 64, 3), 100, np.uint8)
    grey[:, 10:20], grey[:, 20:30] = 0, 253
    made = colour_f.pixels(PERTURBATIONS["brighter"](colour_f, colour_f.normalize(grey)))
    assert [made[0, row, 0, 0] for row in (0, 15, 25)] == [round(100 * BRIGHTER), 0, 255]


def test_shifted_is_the_same_photo_two_pixels_on(colour_f: Classifier, x: torch.Tensor) -> None:
    moved = PERTURBATIONS["shifted"](colour_f, x)
    torch.testing.assert_close(moved[..., SHIFT:, SHIFT:], x[..., :-SHIFT, :-SHIFT], rtol=0, atol=0)
    for line in range(SHIFT):
        torch.testing.assert_close(moved[..., line, SHIFT:], x[..., 0, :-SHIFT], rtol=0, atol=0)
        torch.testing.assert_close(moved[..., SHIFT:, line], x[..., :-SHIFT, 0], rtol=0, atol=0)


def test_shifted_labels_moved_back_coincide() -> None:
    labels = np.random.default_rng(0).integers(0, NOTHING, (2, 12, 15)).astype(np.int16)
    moved = np.full_like(labels, 5)
    moved[:, SHIFT:, SHIFT:] = labels[:, :-SHIFT, :-SHIFT]
    back = moved_back("shifted", moved, NOTHING)
    assert back.dtype == np.int16
    np.testing.assert_array_equal(back[:, :-SHIFT, :-SHIFT], labels[:, :-SHIFT, :-SHIFT])
    assert (back[:, -SHIFT:] == NOTHING).all() and (back[:, :, -SHIFT:] == NOTHING).all()
    for name in ("jpeg", "brighter"):
        np.testing.assert_array_equal(moved_back(name, labels, NOTHING), labels)


def test_overlaps_by_hand() -> None:
    before = Patches(np.array([[[0, 0, 1], [0, 3, 1], [3, 3, 3]]], np.int16), np.array([0, 1]))  # 3: no word
    after = np.array([[0, 1, 1], [0, 0, 1], [3, 3, 2]], np.int16)
    areas, overlap = overlaps(before, after, 3)
    np.testing.assert_allclose(areas, [3 / 9, 2 / 9, 0], rtol=1e-6)
    np.testing.assert_allclose(overlap, [2 / 4, 2 / 3, 0], rtol=1e-6)


@pytest.mark.parametrize(("name", "least"), [("jpeg", 0.8), ("brighter", 0.85), ("shifted", 0.6)])
def test_the_disc_is_the_same_word_at_the_same_place(
    colour_f: Classifier, word_bank: ConceptBank, x: torch.Tensor, name: str, least: float
) -> None:
    extractor, vocabulary = WordExtractor(GradientAttention(0.25)), Vocabulary.of(word_bank.state)
    labels = []
    for photos in (x, PERTURBATIONS[name](colour_f, x)):
        activations, attention = extractor.inspect(colour_f, photos)
        labels.append(
            vocabulary.regions(appearance(colour_f, photos, activations, int(vocabulary.depth[0])), attention)[0]
        )
    count = vocabulary.count
    found = []
    for photo, (before, after) in enumerate(zip(*labels, strict=True)):
        _, overlap = overlaps(before, moved_back(name, after.labels, count)[0], count)
        found.append(overlap[word_bank.state["word"][photo * 3 // len(x), 0]])
    assert np.median(found) > least, found
