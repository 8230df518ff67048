"""Visual words against planted clusters and a slow second implementation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from tests.classifier.toy import photos, random_classifier
from vrx.bank import ConceptBank
from vrx.concepts import words
from vrx.concepts.words import FINER, LEAST, SHARPNESS, Vocabulary, appearance, calibrated, traits
from vrx.structures import Patches

WIDTHS = (6, 3)  # of two layers; the second one's values are a hundred times larger
KINDS, WORDS = 5, 12
MOBILE = "mobilenetv2_100"


def kinds(seed: int = 0) -> NDArray[np.float64]:
    """Five unlike directions, ``[5, 9]``."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(9, KINDS)))[0].T


def planted_cells(seed: int = 0, count: int = 80) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cells that show one of five kinds more or less strongly, and which."""
    rng = np.random.default_rng(seed)
    kind = np.repeat(np.arange(KINDS), count)
    cells = kinds()[kind] * rng.uniform(1.2, 2.5, (len(kind), 1)) + rng.normal(0, 0.05, (len(kind), 9))
    cells[:, 6:] *= 100
    return (cells + 3).astype(np.float32), kind


def one_kind_each(word: NDArray[np.int64], kind: NDArray[np.int64]) -> bool:
    """Whether no word is seen in cells of two kinds."""
    return len(set(zip(word.tolist(), kind.tolist(), strict=True))) == len(set(word.tolist())) >= KINDS


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.fit(planted_cells()[0], WIDTHS, WORDS, seed=0)


def as_maps(cells: NDArray[np.float32], rows: int) -> torch.Tensor:
    """Cells ``[rows * columns, D]`` as one photo's maps ``[1, D, rows, columns]``."""
    return torch.from_numpy(cells.T.copy().reshape(1, cells.shape[1], rows, -1))


def test_words_are_the_planted_kinds(vocabulary: Vocabulary) -> None:
    cells, kind = planted_cells(seed=1)
    word = vocabulary.posterior(as_maps(cells, 20))[0].argmax(0).flatten().numpy()
    assert one_kind_each(word, kind), "in new cells too"
    np.testing.assert_allclose(np.linalg.norm(vocabulary.clusters, axis=1), 1, rtol=1e-5)


def test_all_layers_count_alike(vocabulary: Vocabulary) -> None:
    cells, _ = planted_cells()
    offsets = (cells - vocabulary.centre) * vocabulary.scale
    for part in np.split(offsets, np.cumsum(WIDTHS)[:-1], axis=1):
        assert (part**2).sum(1).mean() == pytest.approx(1, rel=1e-4)


def test_a_layer_that_says_nothing_does_no_harm() -> None:
    cells, kind = planted_cells()
    cells = np.concatenate([cells, np.full((len(cells), 2), 7, np.float32)], axis=1)
    made = Vocabulary.fit(cells, (*WIDTHS, 2), WORDS, seed=0)
    word = made.posterior(as_maps(cells, 20))[0].argmax(0).flatten().numpy()
    assert np.isfinite(made.clusters).all() and one_kind_each(word, kind)


def test_the_same_seed_gives_the_same_words(vocabulary: Vocabulary) -> None:
    again = Vocabulary.fit(planted_cells()[0], WIDTHS, WORDS, seed=0)
    for name, value in vocabulary.state().items():
        np.testing.assert_array_equal(value, again.state()[name])


def test_posterior_against_a_loop_over_cells(vocabulary: Vocabulary) -> None:
    cells = np.random.default_rng(2).normal(3, 20, (12, 9)).astype(np.float32)
    posterior = vocabulary.posterior(as_maps(cells, 3))
    assert posterior.shape == (1, WORDS, 3, 4)
    torch.testing.assert_close(posterior.sum(1), torch.ones(1, 3, 4))
    for number, cell in enumerate(cells):
        offset = [(c - m) * s for c, m, s in zip(cell, vocabulary.centre, vocabulary.scale, strict=True)]
        length = math.sqrt(sum(v * v for v in offset))
        cosines = [sum(a * b for a, b in zip(offset, word, strict=True)) / length for word in vocabulary.clusters]
        weights = [math.exp(SHARPNESS * c) for c in cosines]
        found = posterior[0, :, number // 4, number % 4].numpy()
        np.testing.assert_allclose(found, np.array(weights) / sum(weights), rtol=1e-3, atol=1e-5)


def scattered(seed: int, photos: int = 3, grid: int = 6, side: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps whose cells are of random kinds, and random attention."""
    rng = np.random.default_rng(seed)
    cells, _ = planted_cells(seed)
    chosen = cells[rng.integers(0, len(cells), (photos, grid, grid))]
    attention = F.interpolate(torch.from_numpy(rng.random((photos, 1, 5, 5))), size=(side, side), mode="bilinear")
    return torch.from_numpy(chosen).permute(0, 3, 1, 2), attention[:, 0] > 0.5


def test_regions_cover_exactly_what_is_attended_to(vocabulary: Vocabulary) -> None:
    maps, attention = scattered(3)
    patches, clarity = vocabulary.regions(maps, attention)
    assert clarity.shape == (3, WORDS) and clarity.dtype == np.float32
    for found, looks in zip(patches, attention.numpy(), strict=True):
        assert looks.any() and not looks.all()
        np.testing.assert_array_equal(found.masks.sum(0), looks, "each attended pixel is of one word, no other of any")
        assert (found.areas > 0).all() and sorted(found.ids.tolist()) == found.ids.tolist()


def test_each_pixel_is_of_the_word_that_it_shows_most_and_clarity_is_its_mean(vocabulary: Vocabulary) -> None:
    maps, attention = scattered(4)
    patches, clarity = vocabulary.regions(maps, attention)
    shares = F.interpolate(vocabulary.posterior(maps), size=(30, 30), mode="bilinear", align_corners=False).numpy()
    for photo, found in enumerate(patches):
        words = dict(zip(found.ids.tolist(), found.masks, strict=True))
        for word in range(WORDS):
            mask = (shares[photo].argmax(0) == word) & attention[photo].numpy()
            np.testing.assert_array_equal(words.get(word, np.zeros_like(mask)), mask)
            assert clarity[photo, word] == pytest.approx(
                shares[photo, word][mask].mean() if mask.any() else 0, rel=1e-4
            )


def test_nothing_attended_to_is_no_region(vocabulary: Vocabulary) -> None:
    maps, attention = scattered(5)
    (first, *others), clarity = vocabulary.regions(
        maps, attention & torch.tensor([0, 1, 1], dtype=torch.bool)[:, None, None]
    )
    assert len(first) == 0 and (clarity[0] == 0).all()
    assert all(len(found) for found in others)


@pytest.fixture(scope="module")
def judged() -> tuple[Vocabulary, NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """A vocabulary whose presence was learnt from words of known odds; new words, with their chance to stay."""
    rng = np.random.default_rng(6)
    areas = np.exp(rng.uniform(np.log(0.003), np.log(0.2), 12_000)).astype(np.float32)
    clarity = rng.uniform(0.3, 1, 12_000).astype(np.float32)
    chance = 1 / (1 + np.exp(-(1.5 * np.log(areas / 0.01) + 6 * clarity - 5)))
    stays = rng.random(12_000) < chance
    weights = calibrated(traits(areas[:6000], clarity[:6000], 0.01), stays[:6000])
    unit = np.eye(3, dtype=np.float32)
    return Vocabulary(unit[0], unit[0], unit, weights), areas[6000:], clarity[6000:], chance[6000:]


def test_the_probability_is_calibrated(
    judged: tuple[Vocabulary, NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]],
) -> None:
    vocabulary, areas, clarity, chance = judged
    np.testing.assert_allclose(vocabulary.presence, [1.5, 6, -5], rtol=0.15)
    found = vocabulary.probability(areas, clarity, 0.01)
    assert np.abs(found - chance).mean() < 0.02
    for low in np.arange(0, 1, 0.1):
        inside = (found >= low) & (found < low + 0.1)
        assert inside.sum() > 50 and abs(found[inside].mean() - chance[inside].mean()) < 0.04, low


def test_more_area_and_more_clarity_make_presence_more_probable(
    judged: tuple[Vocabulary, NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]],
) -> None:
    areas, clarity = np.meshgrid(np.linspace(0.0026, 0.3, 20), np.linspace(0.2, 1, 15), indexing="ij")
    found = judged[0].probability(areas.astype(np.float32), clarity.astype(np.float32), 0.01)
    assert (np.diff(found, axis=0) > 0).all() and (np.diff(found, axis=1) > 0).all()
    assert ((found > 0) & (found < 1)).all()


def test_a_speck_is_not_even_perhaps(
    judged: tuple[Vocabulary, NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]],
) -> None:
    areas = np.array([0, 0.9, 1.1], np.float32) * LEAST * 0.01
    found = judged[0].probability(areas, np.ones(3, np.float32), 0.01)
    assert found[:2].tolist() == [0, 0] and found[2] > 0


@pytest.mark.parametrize(("stays", "probability"), [(True, 1.0), (False, 0.0)])
def test_words_that_all_stay_or_all_go(stays: bool, probability: float) -> None:
    found = traits(np.full(4, 0.02, np.float32), np.full(4, 0.8, np.float32), 0.01)
    unit = np.eye(3, dtype=np.float32)
    made = Vocabulary(unit[0], unit[0], unit, calibrated(found, np.full(4, stays)))
    assert made.probability(np.array([0.02]), np.array([0.8]), 0.01)[0] == pytest.approx(probability, abs=1e-3)


def test_a_bank_keeps_the_vocabulary(vocabulary: Vocabulary, tmp_path: Path) -> None:
    unit = np.zeros((1, 1), np.float32)
    pictures = np.zeros((1, 1, 1, 2, 2, 3), np.uint8)
    bank = ConceptBank(("a",), np.zeros((1, 1, 9), np.float32), unit, unit, unit, pictures, state=vocabulary.state())
    bank.save(tmp_path)
    again = Vocabulary.of(ConceptBank.load(tmp_path).state)
    maps, attention = scattered(7)
    torch.testing.assert_close(again.posterior(maps), vocabulary.posterior(maps), rtol=0, atol=0)
    for one, other in zip(again.regions(maps, attention)[0], vocabulary.regions(maps, attention)[0], strict=True):
        assert isinstance(one, Patches)
        np.testing.assert_array_equal(one.labels, other.labels)


def test_a_word_of_two_clusters_has_the_share_of_both() -> None:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(4, 5)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    blank = (np.zeros(5, np.float32), np.ones(5, np.float32), directions, np.zeros(3, np.float32))
    alone = Vocabulary(*blank)
    together = Vocabulary(*blank, member=np.array([0, 1, 0, 2], np.int32))
    maps = torch.from_numpy(rng.normal(size=(2, 5, 3, 4)).astype(np.float32))
    each, both = alone.posterior(maps), together.posterior(maps)
    assert alone.count == 4 and together.count == 3 and both.shape == (2, 3, 3, 4)
    torch.testing.assert_close(both[:, 0], each[:, 0] + each[:, 2])
    torch.testing.assert_close(both[:, 2], each[:, 3])
    mean = directions[[0, 2]].mean(0)
    np.testing.assert_allclose(together.direction(0), mean / np.linalg.norm(mean), rtol=1e-5)
    again = Vocabulary.of(together.state())
    assert again.count == 3 and again.member.tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize(
    ("name", "depth"), [("mobilenetv2_100", 1), ("mobilenetv2_100", 2), ("vit_tiny_patch16_224", 1)]
)
def test_appearance_is_the_mean_of_the_photo_and_the_moved_one(name: str, depth: int) -> None:
    f, x = random_classifier(name), photos()
    made = appearance(f, x, f.inspect(x), depth).numpy()
    rows = f.inspect(x).maps[f.part_layer].shape[2]
    side, half = FINER * rows, 64 // rows // 2
    index = np.arange(64)
    moved = x[:, :, (index - half).clip(0)][:, :, :, (index - half).clip(0)]
    seen = []
    for photo, back in ((x, 0), (moved, FINER // 2)):
        maps = f.inspect(photo, layers=f.appearance_layers[-depth:]).maps
        place = (np.arange(side) + back).clip(0, side - 1)
        whole = [enlarge(maps[layer].numpy(), side) for layer in f.appearance_layers[-depth:]]
        seen.append(np.concatenate(whole, axis=1)[:, :, place][:, :, :, place])
    np.testing.assert_allclose(made, (seen[0] + seen[1]) / 2, rtol=1e-3, atol=1e-4)


def enlarge(maps: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Bilinear interpolation between the centres of cells, one axis after the other."""
    for axis in (2, 3):
        count = maps.shape[axis]
        at = ((np.arange(side) + 0.5) * count / side - 0.5).clip(0, count - 1)
        low = np.floor(at).astype(int)
        share = (at - low).reshape(-1, *[1] * (3 - axis))
        maps = maps.take(low, axis) * (1 - share) + maps.take((low + 1).clip(0, count - 1), axis) * share
    return maps


def test_many_words_are_looked_for_where_a_coarse_cell_shows_them(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps, attention = scattered(6)
    coarse = F.interpolate(maps, scale_factor=FINER, mode="nearest")
    every = vocabulary.regions(coarse, attention)[0]
    monkeypatch.setattr(words, "MANY", 1)
    few = vocabulary.regions(coarse, attention)[0]
    for one, other in zip(every, few, strict=True):
        assert (one.labels == other.labels).mean() > 0.99, "here every word fills a coarse cell"
