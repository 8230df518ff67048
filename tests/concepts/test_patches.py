"""Superpixels, the attention filter and the two patch encoders, against slow second versions."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests import planted
from vrx.classifier.classifier import Classifier
from vrx.concepts.attention import attended
from vrx.concepts.encoders import CropEncoder, PatchEncoder, PooledEncoder
from vrx.concepts.patches import Segmenter, pool
from vrx.errors import VRXError
from vrx.structures import Patches


def pixels() -> np.ndarray:
    return np.asarray(planted.picture(0, (20, 24), (50, 44), seed=1))


def without_duplicates_slowly(patches: Patches, max_jaccard: float) -> list[int]:
    kept: list[np.ndarray] = []
    ids = []
    for mask, label in zip(patches.masks, patches.ids, strict=True):  # coarse ones come first
        overlaps = [(mask & other).sum() / (mask | other).sum() for other in kept]
        if not overlaps or max(overlaps) <= max_jaccard:
            kept.append(mask)
            ids.append(int(label))
    return ids


@pytest.mark.parametrize("max_jaccard", [0.3, 0.5, 0.8])
def test_near_duplicates_are_dropped_as_pair_by_pair(max_jaccard: float) -> None:
    resolutions = (8, 12, 25)
    every = Segmenter(resolutions, max_jaccard=1.0, min_area=0)(pixels())
    kept = Segmenter(resolutions, max_jaccard=max_jaccard, min_area=0)(pixels())
    assert kept.ids.tolist() == without_duplicates_slowly(every, max_jaccard)
    assert len(kept) < len(every)
    for a, b in combinations(kept.masks, 2):
        assert (a & b).sum() <= max_jaccard * (a | b).sum()


def test_every_superpixel_is_kept_the_last_one_too() -> None:
    """At each resolution the patches tile the photo: none is lost."""
    patches = Segmenter((8, 25), max_jaccard=1.0, min_area=0)(pixels())
    assert patches.ids.tolist() == np.unique(patches.labels).tolist()
    np.testing.assert_array_equal(patches.masks.sum(0), 2)


def test_small_patches_are_dropped() -> None:
    patches = Segmenter((8, 25), min_area=0.05)(pixels())
    assert len(patches) and (patches.areas >= 0.05).all()
    assert len(Segmenter((8, 25), min_area=0)(pixels())) > len(patches)


def test_a_photo_of_one_colour_is_no_error() -> None:
    assert len(Segmenter((4, 8))(np.full((32, 32, 3), 90, np.uint8))) >= 1


def test_bad_numbers_of_segments() -> None:
    for segments in ((), (15, 0)):
        with pytest.raises(VRXError, match=r"concepts\.segmenter\.segments"):
            Segmenter(segments)


def quarters() -> Patches:
    labels = np.zeros((1, 8, 8), np.int16)
    labels[0, :4, 4:], labels[0, 4:, :4], labels[0, 4:, 4:] = 1, 2, 3
    return Patches(labels, np.arange(4))


def test_attention_keeps_the_patches_that_lie_mostly_on_the_foreground() -> None:
    attention = torch.zeros(8, 8)
    attention[:4, :4] = 1.0  # all of patch 0
    attention[:4, 4:6] = 0.5  # half of patch 1
    attention[4:, :1] = 1.0  # a quarter of patch 2
    assert attended(quarters(), attention, 0.4).ids.tolist() == [0, 1]
    assert attended(quarters(), attention, 0.6).ids.tolist() == [0]
    assert attended(quarters(), attention, 0.4, share=0.2).ids.tolist() == [0, 1, 2]
    assert attended(quarters(), 7 * attention, 0.4).ids.tolist() == [0, 1], "a share of the maximum, not a value"
    assert attended(quarters(), attention, 0.0).ids.tolist() == [0, 1, 2, 3]
    assert len(attended(quarters(), torch.zeros(8, 8), 0.4)) == 4, "no attention at all: nothing to choose by"


def test_pool_is_the_mean_of_the_map_over_the_pixels_of_a_patch() -> None:
    patches = Segmenter((8, 25), min_area=0)(pixels())
    maps = torch.randn(5, 8, 8)
    full = F.interpolate(maps[None], size=64, mode="nearest")[0].numpy()
    expected = np.stack([full[:, mask].mean(1) for mask in patches.masks])
    np.testing.assert_allclose(pool(patches, maps), expected, atol=1e-5)


def test_pooled_encoder_against_a_loop(colour_f: Classifier) -> None:
    x = colour_f.normalize(np.stack([pixels(), pixels()[::-1]]))
    patches = [Segmenter((8,))(p) for p in colour_f.pixels(x)]
    activations = colour_f.inspect(x)
    features = PooledEncoder()(colour_f, x, activations, patches)
    expected = []
    for photo, found in enumerate(patches):
        full = F.interpolate(activations.maps[colour_f.match_layer][photo][None], size=64, mode="nearest")[0].numpy()
        for mask in found.masks:
            feature = full[:, mask].mean(1) - full.reshape(len(full), -1).mean(1)
            expected.append(feature / np.linalg.norm(feature))
    np.testing.assert_allclose(features, np.stack(expected), atol=1e-4)


def test_crop_encoder_against_a_hand_made_crop(colour_f: Classifier) -> None:
    image = pixels()
    labels = np.zeros((1, 64, 64), np.int16)
    labels[0, 16:48, 8:40] = 1
    labels[0, 16:20, 8:12] = 0  # a corner is missing: it is filled with the photo's mean colour
    patches = Patches(labels, np.array([1, 0]))
    x = colour_f.normalize(image[None])
    features = CropEncoder(batch_size=1)(colour_f, x, colour_f.inspect(x), [patches])
    crop = x[0, :, 16:48, 8:40].clone()
    crop[:, :4, :4] = x[0].mean((1, 2))[:, None, None]
    enlarged = F.interpolate(crop[None], size=(64, 64), mode="bilinear", align_corners=False, antialias=True)
    last = colour_f.layers[-1].name
    expected = colour_f.inspect(enlarged).maps[last].mean((2, 3))[0]
    assert features.shape == (2, colour_f.layers[-1].channels)
    torch.testing.assert_close(features[0], expected)


@pytest.mark.parametrize("encoder", [PooledEncoder(), CropEncoder()])
def test_photos_without_patches_have_no_features(colour_f: Classifier, encoder: PatchEncoder) -> None:
    x = colour_f.normalize(pixels()[None])
    none = quarters().select(np.zeros(4, bool))
    features = encoder(colour_f, x, colour_f.inspect(x), [none])
    assert features.shape == (0, 5)
