"""Discovery: ACE's rules by hand, planted parts found, clear errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests import planted
from vrx.bank import ConceptBank
from vrx.classifier.classifier import Classifier
from vrx.concepts.discovery import area_matched, is_popular
from vrx.data.images import PhotoFolder, read_image
from vrx.edits import Editor
from vrx.errors import VRXError
from vrx.scores import margins
from vrx.thumbnails import THUMBNAIL, thumbnail


@pytest.mark.parametrize(
    ("size", "spread", "photos", "popular"),
    [
        (20, 20, 20, False),  # not more than min_patches = 20
        (21, 20, 20, True),
        (40, 21, 200, True),  # more than half of the patches are from different photos
        (40, 20, 200, False),  # exactly half, and from a tenth of the photos
        (40, 11, 43, True),  # more than a quarter of the patches and of the photos
        (40, 10, 39, False),  # exactly a quarter of the patches
        (40, 11, 44, False),  # exactly a quarter of the photos
        (100, 11, 21, True),  # more than a tenth of the patches and more than half of the photos
        (100, 11, 22, False),  # exactly half of the photos
        (110, 11, 21, False),  # exactly a tenth of the patches
    ],
)
def test_popularity_rules(size: int, spread: int, photos: int, popular: bool) -> None:
    members = np.resize(np.arange(spread), size)
    assert is_popular(members, photos, min_patches=20) is popular


def exemplar_masks(bank: ConceptBank, f: Classifier, c: int, k: int) -> list[tuple[np.ndarray, str]]:
    """The patch of each exemplar's photo that lies nearest to the concept, and the photo."""
    extractor = planted.make_extractor()
    found = []
    for path in filter(None, bank.exemplar_paths[c][k]):
        x = f.transform(read_image(path))[None]
        candidates = extractor(f, x, [extractor.segmenter(f.pixels(x)[0])])
        nearest = np.linalg.norm(candidates.features.numpy() - bank.centroids[c, k], axis=1).argmin()
        found.append((candidates.patches[0].masks[nearest], path))
    return found


def test_the_most_important_concept_of_each_class_is_its_planted_part(bank: ConceptBank, colour_f: Classifier) -> None:
    for c, name in enumerate(planted.CLASSES):
        found = exemplar_masks(bank, colour_f, c, 0)
        assert len(found) == 6 and all(f"/train/{name}/" in path for _, path in found)
        on_part = [(mask & planted.part_of(path)).sum() / mask.sum() for mask, path in found]
        assert np.median(on_part) > 0.8, f"{name}: {on_part}"
        assert len({path for _, path in found}) == len(found), "at most one a photo"


def test_only_the_part_matters_to_f_and_the_bank_says_so(bank: ConceptBank) -> None:
    assert (np.diff(np.where(bank.present, bank.importance, -np.inf), axis=1)[bank.present[:, 1:]] <= 0).all()
    assert (bank.importance[:, 0] > 0.5).all()
    assert (bank.p_value[:, 0] < 0.05).all(), bank.p_value
    assert ((bank.p_value >= 0) & (bank.p_value <= 1)).all()


def test_importance_is_the_mean_fall_of_the_margin(colour_f: Classifier, source: PhotoFolder) -> None:
    """All exemplars shown: edit each away by hand, and the mean fall is the concept's importance."""
    extractor = planted.make_extractor()
    photos = planted.discovery_photos(colour_f, source, extractor.segmenter)
    made = planted.make_discovery(extractor, shown_exemplars=10, num_concepts=2)(colour_f, photos)
    by_path = {p.path: p.x for found in photos.values() for p in found}
    editor = Editor("blur", 0.03)
    for c in range(3):
        falls = []
        for mask, path in exemplar_masks(made, colour_f, c, 0):
            x = by_path[path][None]
            after = colour_f(editor.delete(x, torch.from_numpy(mask)[None]))
            falls.append(float((margins(colour_f(x).double()) - margins(after.double()))[0, c]))
        assert made.importance[c, 0] == pytest.approx(np.mean(falls), rel=1e-3, abs=1e-4)


def test_same_seed_same_bank(bank: ConceptBank, colour_f: Classifier, source: PhotoFolder) -> None:
    extractor = planted.make_extractor()
    photos = planted.discovery_photos(colour_f, source, extractor.segmenter)
    again = planted.make_discovery(extractor)(colour_f, photos)
    assert again.digest == bank.digest
    np.testing.assert_array_equal(again.p_value, bank.p_value)


def test_radius_is_a_quantile_of_the_members(colour_f: Classifier, source: PhotoFolder) -> None:
    """With quantile 1 every member is in reach; a smaller quantile gives a smaller radius, never another centre."""
    extractor = planted.make_extractor()
    photos = planted.discovery_photos(colour_f, source, extractor.segmenter)
    wide = planted.make_discovery(extractor, radius_quantile=1.0)(colour_f, photos)
    narrow = planted.make_discovery(extractor, radius_quantile=0.3)(colour_f, photos)
    np.testing.assert_array_equal(wide.centroids, narrow.centroids)
    assert (narrow.radius[narrow.present] < wide.radius[wide.present]).all()


def test_fewer_concepts_than_places_leaves_places_that_are_never_detected(
    colour_f: Classifier, source: PhotoFolder
) -> None:
    """Of six clusters a class, two (lighter and darker background) have over a hundred patches, the others under 40."""
    extractor = planted.make_extractor()
    photos = planted.discovery_photos(colour_f, source, extractor.segmenter)
    made = planted.make_discovery(extractor, num_concepts=6, min_patches=60)(colour_f, photos)
    assert made.present.tolist() == [[True, True, False, False, False, False]] * 3
    absent = ~made.present
    assert (made.radius[absent] == -1).all() and (made.p_value[absent] == 1).all()
    assert (made.radius[~absent] > 0).all()
    assert all(made.exemplar_paths[c][k] == [""] * 6 for c, k in zip(*np.nonzero(absent), strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_patches": 10_000}, "No concept of class 'berry' survives"),
        ({"clusters": 5_000}, "Class 'berry' has .* patches for 5000 clusters"),
    ],
)
def test_hopeless_discovery_is_named(
    colour_f: Classifier, source: PhotoFolder, settings: dict[str, Any], message: str
) -> None:
    extractor = planted.make_extractor()
    photos = planted.discovery_photos(colour_f, source, extractor.segmenter)
    with pytest.raises(VRXError, match=message):
        planted.make_discovery(extractor, **settings)(colour_f, photos)


def test_a_class_without_photos_is_named(colour_f: Classifier, source: PhotoFolder) -> None:
    extractor = planted.make_extractor()
    photos = planted.discovery_photos(colour_f, source, extractor.segmenter)
    with pytest.raises(VRXError, match="Class 'leaf' has no readable discovery photo"):
        planted.make_discovery(extractor)(colour_f, {**photos, "leaf": []})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"radius_quantile": 0.0}, r"radius_quantile=0\.0"),
        ({"clusters": 2, "num_concepts": 3}, "clusters=2 cannot give 3"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(VRXError, match=message):
        planted.make_discovery(planted.make_extractor(), **settings)


def test_area_matched_takes_one_of_the_nearest_in_area_that_are_allowed() -> None:
    areas = np.array([0.10, 0.11, 0.095, 0.30, 0.02, 0.105], np.float32)
    forbidden = np.array([False, True, False, False, False, False])
    rng = np.random.default_rng(0)
    drawn = {area_matched(areas, 0, forbidden, rng, among=2) for _ in range(60)}
    assert drawn == {2, 5}, "both, and never itself, the forbidden one or one of another size"
    assert area_matched(areas, 0, np.ones(6, bool), rng) == -1
    assert area_matched(areas[:1], 0, np.zeros(1, bool), rng) == -1


@pytest.mark.parametrize(
    "box", [(slice(20, 30), slice(40, 60)), (slice(0, 64), slice(0, 64)), (slice(0, 1), slice(0, 1))]
)
def test_thumbnail_shows_the_patch_in_its_colours(box: tuple[slice, slice]) -> None:
    mask = np.zeros((64, 64), bool)
    mask[box] = True
    image = np.zeros((64, 64, 3), np.uint8)
    image[mask] = (0, 200, 0)
    made = thumbnail(image, mask)
    assert made.shape == (THUMBNAIL, THUMBNAIL, 3) and made.dtype == np.uint8
    assert (made == (0, 200, 0)).all(2).any(), "the patch's own colour is not touched"
    assert (made == (40, 40, 40)).all(2).any() or mask.all(), "outlined"
