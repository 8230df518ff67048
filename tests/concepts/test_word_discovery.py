"""Visual words in the planted world: the disc that the classifier counts is found, wherever it is, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests import planted
from vrx.bank import ConceptBank
from vrx.classifier.classifier import Classifier
from vrx.concepts import word_discovery
from vrx.concepts.assembly import DiscoveryPhoto
from vrx.concepts.candidates import EVEN, Found, WordFinder
from vrx.concepts.joining import Neighbours, joined, looseness
from vrx.concepts.word_discovery import elsewhere, width
from vrx.data.images import Photo, PhotoFolder
from vrx.data.scg_datamodule import SCGDataModule
from vrx.edits import Editor
from vrx.errors import VRXError
from vrx.graphs.scg import SCGBuilder
from vrx.scores import SIGNIFICANT, margins
from vrx.structures import UNMATCHED, Patches

NOT_A_WORD = np.zeros((planted.SIDE, planted.SIDE), bool)
WHOLE = planted.word_discovery().extractor.segmenter


def finder(bank: ConceptBank) -> WordFinder:
    found = planted.word_discovery().extractor.finder(bank)
    assert isinstance(found, WordFinder)
    return found


def find(f: Classifier, bank: ConceptBank, x: torch.Tensor, given: Patches | None = None) -> Found:
    return finder(bank)(f, x, [WHOLE(pixels) if given is None else given for pixels in f.pixels(x)])


def mask_of(found: Found, photo: int, graph: int, concept: int) -> NDArray[np.bool_]:
    place = found.matched[photo, graph, concept]
    return NOT_A_WORD if place == UNMATCHED else found.patches[photo].masks[place]


def square_of(path: str) -> NDArray[np.bool_]:
    """Pixels of the yellow square, from the file's name."""
    place = re.search(r"x(\d+)y(\d+)", path)
    assert place
    x, y = (min(max((int(v) + 32) % planted.SIDE, 7), planted.SIDE - 7) for v in place.groups())
    square = NOT_A_WORD.copy()
    square[y - 6 : y + 6, x - 6 : x + 6] = True
    return square & ~planted.part_of(path)


@pytest.fixture(scope="module")
def photos(source: PhotoFolder) -> list[Photo]:
    """Photos that the concepts were not discovered on."""
    return [photo for split in ("train", "val", "test") for photo in source.photos(split)]


@pytest.fixture(scope="module")
def x(colour_f: Classifier, source: PhotoFolder, photos: list[Photo]) -> torch.Tensor:
    return torch.stack([colour_f.transform(source.read(photo)) for photo in photos])


@pytest.fixture(scope="module")
def found(colour_f: Classifier, word_bank: ConceptBank, x: torch.Tensor) -> Found:
    return find(colour_f, word_bank, x)


# --- which concepts there are


def test_the_most_important_concept_of_each_class_lies_on_its_disc(found: Found, photos: list[Photo]) -> None:
    for label in range(3):
        masks = [(p, mask_of(found, i, label, 0)) for i, p in enumerate(photos) if p.label == label]
        assert all(mask.any() for _, mask in masks), "it is found in every photo of the class"
        inside = [(mask & planted.part_of(p.path)).sum() / mask.sum() for p, mask in masks]
        covered = [(mask & planted.part_of(p.path)).sum() / planted.part_of(p.path).sum() for p, mask in masks]
        assert np.median(inside) > 0.95 and min(inside) > 0.8, inside
        assert np.median(covered) > 0.5, covered


def test_what_the_classifier_sees_but_does_not_use_is_no_concept(
    word_bank: ConceptBank, found: Found, photos: list[Photo]
) -> None:
    for photo, shown in enumerate(photos):
        square = square_of(shown.path)
        assert square.sum() > 60
        for graph, concept in zip(*np.nonzero(word_bank.present), strict=True):
            mask = mask_of(found, photo, graph, concept)
            assert (mask & square).sum() < 0.2 * max(mask.sum(), 1)


def test_concepts_are_what_the_class_needs(word_bank: ConceptBank) -> None:
    there = word_bank.present
    assert there[:, 0].all()
    assert (word_bank.p_value[there] < SIGNIFICANT).all() and (word_bank.importance[there] > 0).all()
    assert (word_bank.p_value[~there] == 1).all() and (word_bank.importance[~there] == 0).all()
    assert (np.diff(np.where(there, word_bank.importance, -1), axis=1) <= 0).all(), "the most needed first"
    words = word_bank.state["word"]
    np.testing.assert_array_equal(words >= 0, there)
    for row, centroids in zip(words, word_bank.centroids, strict=True):
        own = row[row >= 0]
        assert len(set(own)) == len(own), "no word twice in a class"
        np.testing.assert_allclose(centroids[row >= 0], word_bank.state["clusters"][own], rtol=1e-5)


def test_a_class_with_fewer_concepts_says_why(colour_f: Classifier, source: PhotoFolder) -> None:
    bank = planted.word_discovery(num_concepts=12)(colour_f, planted.word_photos(colour_f, source))
    assert not bank.present.all(1).any() and set(bank.notes) == set(planted.CLASSES)
    for name, there in zip(planted.CLASSES, bank.present, strict=True):
        assert re.fullmatch(
            rf"\d+ kinds of regions .* 25% .* deleting {there.sum()} of them lowers .*", bank.notes[name]
        )


def test_a_concept_must_be_surer_where_enough_photos_test_it(
    colour_f: Classifier, source: PhotoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven photos at most test a word: no p-value is below 1 / 128 = .0078."""
    photos = planted.word_photos(colour_f, source)
    monkeypatch.setattr(word_discovery, "SIGNIFICANT", 0.0)
    monkeypatch.setattr(word_discovery, "SURE", 0.1)
    assert planted.word_discovery()(colour_f, photos).present.any()
    monkeypatch.setattr(word_discovery, "SURE", 0.005)
    with pytest.raises(VRXError, match="No class has a concept"):
        planted.word_discovery()(colour_f, photos)


def test_exemplars_are_photos_of_the_class(word_bank: ConceptBank) -> None:
    for graph, concept in zip(*np.nonzero(word_bank.present), strict=True):
        paths = word_bank.exemplar_paths[graph][concept]
        assert len(set(paths)) == len(paths) == 6
        assert all(f"/train/{planted.CLASSES[graph]}/" in path for path in paths)


def test_importance_is_the_mean_fall_of_the_margin_over_the_photos_that_test_it(
    colour_f: Classifier, word_bank: ConceptBank, source: PhotoFolder
) -> None:
    """The disc's word is in all 14 photos of a class; half of them screen it, the others test it."""
    editor = Editor("blur", 0.03)
    for label in range(3):
        x = torch.stack([colour_f.transform(source.read(p)) for p in source.photos("discovery") if p.label == label])
        there = find(colour_f, word_bank, x)
        masks = np.stack([mask_of(there, i, label, 0) for i in range(len(x))])
        logits = [colour_f(v).double() for v in (x, editor.delete(x, torch.from_numpy(masks)))]
        falls = (margins(logits[0]) - margins(logits[1]))[:, label].numpy()
        assert falls.min() < word_bank.importance[label, 0] < falls.max()
        assert word_bank.importance[label, 0] == pytest.approx(falls.mean(), abs=3 * falls.std() / np.sqrt(7))


def test_the_same_seed_gives_the_same_bank(colour_f: Classifier, source: PhotoFolder, word_bank: ConceptBank) -> None:
    again = planted.word_discovery()(colour_f, planted.word_photos(colour_f, source))
    assert again.digest == word_bank.digest and again.exemplar_paths == word_bank.exemplar_paths
    for name in ("importance", "p_value", "exemplars"):
        np.testing.assert_array_equal(getattr(again, name), getattr(word_bank, name))
    other = planted.word_discovery(seed=1)(colour_f, planted.word_photos(colour_f, source))
    assert other.digest != word_bank.digest


def test_a_photo_without_detail_is_asked_for_every_fill(word_bank: ConceptBank) -> None:
    assert set(word_bank.featureless) == {"blur", "mean", "grey"}
    for shares in word_bank.featureless.values():
        assert len(shares) == 3 and sum(shares) == pytest.approx(1, abs=1e-5) and max(shares) < 0.5
    assert word_bank.fallback is None, "this classifier calls it nothing in particular"


def test_the_width_of_a_region_is_that_of_a_strip_or_half_a_disc_s_radius() -> None:
    strip = NOT_A_WORD.copy()
    strip[10:14] = True  # from border to border of the photo
    assert width(strip) == 4 / planted.SIDE and width(strip.T) == 4 / planted.SIDE
    rows, columns = np.mgrid[:200, :200]
    away = np.hypot(rows - 100, columns - 100)
    assert width(away < 40) == pytest.approx(40 / 200, rel=0.15)  # 2 pi r^2 / 2 pi r, diagonal steps are longer
    assert width((away < 60) & (away > 54)) == pytest.approx(6 / 200, rel=0.15)
    assert width(NOT_A_WORD) == 0


def test_a_rim_that_is_narrower_than_the_edge_of_its_deletion_is_no_concept(
    colour_f: Classifier, source: PhotoFolder
) -> None:
    discovery = planted.word_discovery()
    photos = planted.word_photos(colour_f, source)
    assert discovery(colour_f, photos).present.any()
    discovery.editor = Editor("blur", 0.2)  # a fifth of the photo: wider than any disc
    with pytest.raises(VRXError, match="No class has a concept"):
        discovery(colour_f, photos)


def test_elsewhere_is_as_large() -> None:
    mask = planted.disc((20, 30))
    rng = np.random.default_rng(0)
    moved = [elsewhere(mask, rng) for _ in range(20)]
    assert all(m.sum() == mask.sum() for m in moved)
    assert len({m.tobytes() for m in moved}) == 20


# --- where they are found


def test_a_word_is_found_in_photos_of_other_classes_that_show_it(
    colour_f: Classifier, word_bank: ConceptBank, source: PhotoFolder, found: Found, photos: list[Photo]
) -> None:
    for number, photo in enumerate(photos):
        for other in {0, 1, 2} - {photo.label}:
            assert found.matched[number, other, 0] == UNMATCHED, "the clean photo has no disc of that colour"
    tried, hits = 0, 0
    for photo in photos[::2]:
        pixels = np.asarray(source.read(photo)).copy()
        rows, columns = np.nonzero(planted.part_of(photo.path))
        place = planted.disc((14 if columns.mean() > 32 else 49, int(rows.mean())))
        for other in {0, 1, 2} - {photo.label}:
            shown = pixels.copy()
            shown[place] = planted.COLOURS[other]
            there = find(colour_f, word_bank, colour_f.transform(Image.fromarray(shown))[None])
            mask = mask_of(there, 0, other, 0)
            tried += 1
            hits += bool(mask.any()) and (mask & place).sum() > 0.9 * mask.sum()
    assert tried >= 20 and hits > 0.9 * tried


def test_found_is_what_has_even_odds(found: Found) -> None:
    assert ((found.presence >= 0) & (found.presence <= 1)).all()
    np.testing.assert_array_equal(found.matched != UNMATCHED, found.presence >= EVEN)
    assert (found.presence[found.matched == UNMATCHED] < EVEN).all()


class Relabelled:
    """The same photos with other labels."""

    def __init__(self, source: PhotoFolder) -> None:
        self.source, self.class_names, self.read = source, source.class_names, source.read

    def photos(self, split: str) -> list[Photo]:
        return [Photo(p.path, (p.label + 1 + i % 2) % 3, p.split) for i, p in enumerate(self.source.photos(split))]

    def settings(self) -> dict[str, Any]:
        return self.source.settings()


def test_labels_do_not_leak(colour_f: Classifier, source: PhotoFolder, word_bank: ConceptBank, tmp_path: Path) -> None:
    """Whatever the labels: bit-identical graphs, and regions that do not depend on the order of the classes."""
    tables = []
    for given in (source, Relabelled(source)):
        extractor, editor = planted.word_discovery().extractor, Editor("blur", 0.03)
        builder = SCGBuilder(colour_f, word_bank, extractor, editor, ("head", "gradact", "shape"), rest=True)
        data = SCGDataModule(given, builder, editor, tmp_path / type(given).__name__, variants=3, workers=0)  # type: ignore[arg-type]
        data.setup()
        tables.append(data.tables["val"])
    assert (tables[0]["label"] != tables[1]["label"]).all()
    assert all(torch.equal(tables[0][name], tables[1][name]) for name in tables[0] if name != "label")


def test_the_order_of_the_classes_does_not_decide_the_regions(
    colour_f: Classifier, word_bank: ConceptBank, x: torch.Tensor, found: Found
) -> None:
    turned = Classifier(planted.ColourNet(), planted.CLASSES, [2, 0, 1], colour_f.transform)
    other = find(turned, word_bank, x)
    assert not torch.equal(found.activations.logits, other.activations.logits)
    for one, same in zip(found.regions, other.regions, strict=True):
        assert (one.labels == same.labels).mean() > 0.999
    np.testing.assert_array_equal(found.matched != UNMATCHED, other.matched != UNMATCHED)


@pytest.mark.parametrize("grey", [0, 60, 128, 200, 255])
def test_nothing_is_found_in_a_photo_without_features(
    colour_f: Classifier, word_bank: ConceptBank, x: torch.Tensor, grey: int
) -> None:
    flat = colour_f.normalize(np.full((1, 64, 64, 3), grey, np.uint8))
    there = find(colour_f, word_bank, torch.cat([flat, x[:1]]))
    assert (there.matched[0] == UNMATCHED).all() and (there.presence[0] < EVEN).all()
    assert (there.matched[1] != UNMATCHED).any(), "the photo beside it is not touched"
    builder = SCGBuilder(
        colour_f, word_bank, planted.word_discovery().extractor, Editor(), ("head", "shape"), rest=True
    )
    graphs = builder(flat, [WHOLE(colour_f.pixels(flat)[0])])
    assert torch.isfinite(graphs.scg.nodes).all() and not graphs.scg.detected[..., :-1].any()


# --- the regions of a clean photo, given for an edited one


def test_given_regions_of_the_clean_photo_show_what_its_own_show(
    colour_f: Classifier, word_bank: ConceptBank, x: torch.Tensor, found: Found, photos: list[Photo]
) -> None:
    for number, photo in enumerate(photos[:12]):
        given = found.patches[number]
        again = find(colour_f, word_bank, x[number : number + 1], given)
        assert again.patches[0] is given
        np.testing.assert_array_equal(
            mask_of(again, 0, photo.label, 0), mask_of(found, number, photo.label, 0), photo.path
        )


def test_a_region_whose_pixels_are_deleted_does_not_show_its_concept_any_more(
    colour_f: Classifier, word_bank: ConceptBank, x: torch.Tensor, found: Found, photos: list[Photo]
) -> None:
    for number, photo in enumerate(photos[:12]):
        disc = torch.from_numpy(planted.part_of(photo.path))[None]
        edited = Editor("grey", 0.0).delete(x[number : number + 1], disc)
        there = find(colour_f, word_bank, edited, found.patches[number])
        assert there.matched[0, photo.label, 0] == UNMATCHED


def test_a_region_shows_the_concept_that_is_painted_there(
    colour_f: Classifier, word_bank: ConceptBank, source: PhotoFolder, found: Found, photos: list[Photo]
) -> None:
    for number, photo in enumerate(photos[:12]):
        other, given = (photo.label + 1) % 3, found.patches[number]
        pixels = np.asarray(source.read(photo)).copy()
        pixels[planted.part_of(photo.path)] = planted.COLOURS[other]
        there = find(colour_f, word_bank, colour_f.transform(Image.fromarray(pixels))[None], given)
        assert there.matched[0, photo.label, 0] == UNMATCHED
        assert (mask_of(there, 0, other, 0) & planted.part_of(photo.path)).any()


def test_of_two_given_regions_the_likelier_one_shows_the_concept(
    colour_f: Classifier, word_bank: ConceptBank, x: torch.Tensor, photos: list[Photo]
) -> None:
    """The disc cut into a large and a small piece: both are most like its word."""
    for number, photo in enumerate(photos[:6]):
        disc = planted.part_of(photo.path)
        column = int(np.nonzero(disc)[1].mean()) + 4
        labels = np.full((1, *disc.shape), 2, np.int16)
        labels[0][disc] = np.where(np.nonzero(disc)[1] < column, 0, 1)
        there = find(colour_f, word_bank, x[number : number + 1], Patches(labels, np.array([1, 0])))
        assert there.matched[0, photo.label, 0] == 1, "index of the patch whose id is 0"


# --- what cannot be


@pytest.fixture(scope="module")
def world(colour_f: Classifier, source: PhotoFolder) -> dict[str, list[DiscoveryPhoto]]:
    return planted.word_photos(colour_f, source)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"words_per_class": 1000}, r"looks at \d+ cells .* too few for 3000 words: lower concepts\.words_per_class"),
        ({"effects": 1}, r"No class has a concept .* berry: \d+ kinds .*raise concepts\.effects, or lower"),
    ],
)
def test_hopeless_discovery_is_named(
    colour_f: Classifier, world: dict[str, list[DiscoveryPhoto]], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(VRXError, match=message):
        planted.word_discovery(**settings)(colour_f, world)


def test_words_that_no_two_photos_share_are_no_concepts(
    colour_f: Classifier, world: dict[str, list[DiscoveryPhoto]]
) -> None:
    with pytest.raises(VRXError, match=r"berry: 0 kinds of regions .* 100% .*Give more discovery photos"):
        planted.word_discovery(frequency=1.0)(colour_f, {name: found[:1] for name, found in world.items()})


def test_a_class_without_photos_is_named(colour_f: Classifier, world: dict[str, list[DiscoveryPhoto]]) -> None:
    with pytest.raises(VRXError, match="Class 'leaf' has no readable discovery photo: give some, or leave it out"):
        planted.word_discovery()(colour_f, {**world, "leaf": []})


def test_a_class_whose_photos_show_nothing_in_common_has_no_concept_and_the_others_keep_theirs(
    colour_f: Classifier, world: dict[str, list[DiscoveryPhoto]], found: Found, word_bank: ConceptBank
) -> None:
    rng = np.random.default_rng(0)
    noise = colour_f.normalize(rng.integers(60, 190, (14, 64, 64, 1), dtype=np.uint8).repeat(3, axis=3))
    empty = [DiscoveryPhoto(f"noise {k}", one, WHOLE(np.zeros((64, 64, 3), np.uint8))) for k, one in enumerate(noise)]
    made = planted.word_discovery()(colour_f, {**world, "sky": empty})
    assert made.present.any(1).tolist() == [True, True, False]
    assert "deleting 0 of them lowers" in made.notes["sky"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frequency": 0.0}, r"concepts\.frequency=0\.0"),
        ({"num_concepts": 0}, r"concepts\.num_concepts=0"),
        ({"words_per_class": 0}, r"concepts\.words_per_class=0"),
        ({"effects": 0}, r"concepts\.effects=0"),
        ({"min_area": 1.0}, r"concepts\.min_area=1\.0"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(VRXError, match=message):
        planted.word_discovery(**settings)


def test_a_bank_of_superpixels_is_refused(bank: ConceptBank) -> None:
    with pytest.raises(VRXError, match="concepts=paper"):
        finder(bank)


def test_pieces_of_one_thing_are_joined_and_neighbours_by_class_are_not() -> None:
    """A pole has two sides in all classes, its flag flies at the top or at the foot; one class has a mark, too."""
    nothing, rng = 4, np.random.default_rng(0)

    def photo(flag: int, off: int, with_own: bool) -> np.ndarray:
        labels = np.full((32, 32), nothing, np.int16)
        top, left = rng.integers(2, 14, 2).tolist()
        labels[top : top + 12, left : left + 2], labels[top : top + 12, left + 2 : left + 4] = 0, 1  # the sides
        labels[top + flag : top + flag + 4, left + 4 + off : left + 8 + off] = 2
        if with_own:
            labels[top + 12 : top + 16, left : left + 4] = 3
        return labels

    def pictures(flag: int, off: int = 0, with_own: bool = False) -> list[Neighbours]:
        return [Neighbours.of(photo(flag, off, with_own), nothing) for _ in range(5)]

    classes = [pictures(0, with_own=True), pictures(8), pictures(0)]
    loose = looseness(classes, 0.01)
    assert set(loose) == {(0, 1), (1, 2)}, "the left side touches no flag, and one class alone shows the mark"
    assert loose[0, 1] < 0.01 and loose[1, 2] > 1, "the sides move together, the flag is now here, now there"
    assert joined(classes, nothing, 0.01).tolist() == [0, 0, 1, 2]
    always = [pictures(0, with_own=True), pictures(0), pictures(0)]
    assert joined(always, nothing, 0.01).tolist() == [0, 0, 0, 1], "a flag that is always at the top is a piece"
    assert joined([*always[:2], pictures(0, off=3)], nothing, 0.01).tolist() == [0, 0, 1, 2], "it often flies away"
    assert joined(always[:1], nothing, 0.01).tolist() == [0, 1, 2, 3], "one class says too little"


def test_a_thing_is_joined_band_by_band_and_the_ground_is_left() -> None:
    """A ball of three bands, the outer two of which never touch, rolls over a ground that touches the lowest."""
    low, middle, high, ground, nothing = range(5)

    def photo(left: int) -> np.ndarray:
        labels = np.full((24, 96), nothing, np.int16)
        labels[18:] = ground
        labels[12:18, left : left + 6] = low
        labels[6:12, left : left + 6] = middle
        labels[2:6, left : left + 6] = high
        return labels

    some = [Neighbours.of(photo(left), nothing) for left in (0, 22, 44, 66, 90)]
    assert (low, high) not in looseness([some] * 3, 0.01)
    assert joined([some] * 3, nothing, 0.01).tolist() == [0, 0, 0, 1]


def test_looseness_is_what_the_pixels_say() -> None:
    """Beside a slow second implementation, on photos of words at random places."""
    rng, nothing, least = np.random.default_rng(5), 4, 0.02
    labels = [[_scattered(rng, nothing) for _ in range(7)] for _ in range(3)]
    found = looseness([[Neighbours.of(one, nothing) for one in photos] for photos in labels], least)
    assert found, "some pair must be asked about"
    every = [one for photos in labels for one in photos]
    for (w, v), value in found.items():
        offsets, sizes = [], []
        for one in every:
            masks = one == w, one == v
            if min(mask.mean() for mask in masks) >= least:
                middles = [np.argwhere(mask).mean(0) / one.shape for mask in masks]
                offsets.append(middles[1] - middles[0])
                sizes.append(2 * np.sqrt(masks[0].mean() * masks[1].mean()))
        off = np.linalg.norm(np.array(offsets) - np.median(offsets, 0), axis=1)
        assert value == pytest.approx(np.quantile(off, 0.9) / np.sqrt(np.median(sizes)))


def _scattered(rng: np.random.Generator, nothing: int) -> np.ndarray:
    """Two blocks that touch at a random place, beside them two that come and go."""
    labels = np.full((20, 30), nothing, np.int16)
    row, column = rng.integers(2, 8), rng.integers(2, 12)
    labels[row : row + 5, column : column + int(rng.integers(3, 7))] = 0
    labels[row + 5 : row + 9, column : column + 4] = 1
    for word in (2, 3):
        row, column = rng.integers(0, 17), rng.integers(0, 27)
        labels[row : row + int(rng.integers(1, 5)), column : column + 3] = word
    return labels


def test_what_the_words_of_a_photo_touch_is_what_their_clusters_touch() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 7, (12, 12)).repeat(2, 0).repeat(2, 1).astype(np.int16)
    member = np.array([0, 1, 0, 3, 1, 5])
    whole = Neighbours.of(np.append(member, 6)[labels].astype(np.int16), 6)
    made = Neighbours.of(labels, 6).joined(member)
    assert made.words.tolist() == whole.words.tolist() == [0, 1, 3, 5]
    np.testing.assert_allclose(made.areas, whole.areas)
    np.testing.assert_allclose(made.middles, whole.middles)
    off = ~np.eye(4, dtype=bool)
    np.testing.assert_array_equal(made.border[off], whole.border[off])
