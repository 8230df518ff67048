"""How good concepts are: falls, completeness and stability, against slow second implementations and hand values."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from tests import planted
from tests.explain.test_explainer import make_explainer
from tests.report.synthetic import make_explanation
from vrx.concepts.assembly import logits_after
from vrx.data.images import Photo, PhotoFolder
from vrx.edits import Editor
from vrx.errors import VRXError
from vrx.explain import deletion, stability
from vrx.explain.deletion import area_under, attended, concept_falls, deletion_steps, random_blocks
from vrx.explain.explainer import Explainer
from vrx.explain.quality import concept_quality, part_quality, read_photos, sampled
from vrx.explain.stability import agreement
from vrx.explanation import Explanation
from vrx.graphs.scg import SCGBuilder
from vrx.scores import margins
from vrx.structures import UNMATCHED, Patches

SIDE = planted.SIDE


class PlantedParts(PhotoFolder):
    """The disc is a part, and the yellow square."""

    alike = None

    def has_parts(self, photo: Photo) -> bool:
        return True

    def parts(self, photo: Photo) -> dict[str, np.ndarray]:
        x, y = (int(v) for v in re.findall(r"[xy](\d+)", Path(photo.path).stem))
        square = np.abs(np.asarray(self.read(photo)).astype(int) - planted.YELLOW).sum(2) == 0
        return {"disc": planted.disc((x, y)), "square": square & ~planted.disc((x, y))}


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> PlantedParts:
    """The planted world with fifteen test photos a class: enough for a test to find something."""
    root = planted.write_tree(tmp_path_factory.mktemp("more"), val=15)
    return PlantedParts(root, list(planted.CLASSES), discovery=14, train=5, val=3, test=None)


@pytest.fixture(scope="module")
def explainer(builder: SCGBuilder) -> Explainer:
    return make_explainer(builder)


def halfway(mask: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return np.roll(mask, (SIDE // 2, SIDE // 2), axis=(0, 1))


def by_hand(explainer: Explainer, x: torch.Tensor, mask: np.ndarray, index: int) -> float:
    edited = explainer.editor.delete(x[None], torch.from_numpy(mask[None]))
    return float(margins(torch.from_numpy(explainer.logits(edited)))[0, index])


# --- each concept


def test_falls_and_p_values_are_those_of_photos_edited_one_by_one(
    explainer: Explainer, more: PhotoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "elsewhere", halfway)
    monkeypatch.setattr(deletion, "logits_after", partial(logits_after, step=7))  # batches that do not fit
    read = read_photos(explainer, more, more.photos("test"))
    falls = concept_falls(explainer, read)
    n, num = explainer.bank.present.shape
    raw = np.ones((n, num))
    for c, k in np.argwhere(explainer.bank.present).tolist():
        own, random = [], []
        for x, regions, label in read:
            explanation = explainer.explain_input(x, regions, relations=False)
            if label == c == explanation.predicted and explanation.detected[c, k]:
                mask = explanation.mask(c, k)
                own.append(explanation.margin(c) - by_hand(explainer, x, mask, c))
                random.append(explanation.margin(c) - by_hand(explainer, x, halfway(mask, None), c))
        assert falls.photos[c, k] == len(own)
        if len(own) >= 2:
            np.testing.assert_allclose(falls.own[c, k], np.mean(own), atol=1e-4)
            np.testing.assert_allclose(falls.random[c, k], np.mean(random), atol=1e-4)
            raw[c, k] = stats.wilcoxon(own, random, alternative="greater").pvalue
    for c in range(n):
        ps = raw[c, explainer.bank.present[c]]
        smaller = [[(len(ps) - i) * p for i, p in enumerate(sorted(ps)) if p <= q] for q in ps]
        np.testing.assert_allclose(falls.p_value[c, explainer.bank.present[c]], [min(1, max(s)) for s in smaller])
    assert falls.metrics["concepts/significant"] == (falls.p_value[explainer.bank.present] < 0.05).mean()


def test_what_the_classifier_counts_is_significant_and_what_it_ignores_is_not(
    explainer: Explainer, more: PlantedParts
) -> None:
    falls = concept_falls(explainer, read_photos(explainer, more, more.photos("test")))
    _, of_concepts = part_quality(explainer, more, 5)
    for label in range(3):  # the most important concept is the disc
        assert of_concepts[label, 0]["purity"] > 0.9
        assert falls.significant[label, 0] and falls.own[label, 0] > 0.5 > 0.2 > falls.random[label, 0]
    ignored = falls.present & (np.abs(falls.own) < 0.03)
    assert ignored.any() and not falls.significant[ignored].any()


def test_concepts_of_fewer_than_two_photos_are_not_significant(explainer: Explainer, more: PhotoFolder) -> None:
    falls = concept_falls(explainer, read_photos(explainer, more, more.photos("test")[:1]))
    assert falls.photos.max() == 1 and (falls.p_value == 1).all()
    assert falls.metrics == {"concepts/significant": 0.0}
    assert np.isnan(falls.own[falls.photos == 0]).all() and np.isfinite(falls.own[falls.photos == 1]).all()


def test_no_concept_is_tested_on_more_photos_than_asked(
    explainer: Explainer, more: PhotoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "MOST_PHOTOS", 3)
    assert concept_falls(explainer, read_photos(explainer, more, more.photos("test"))).photos.max() == 3


def test_photos_that_the_classifier_gets_wrong_test_nothing(explainer: Explainer, more: PhotoFolder) -> None:
    read = [(x, regions, (label + 1) % 3) for x, regions, label in read_photos(explainer, more, more.photos("test"))]
    assert concept_falls(explainer, read).photos.max() == 0


# --- all of them


def with_concepts(explainer: Explainer, photo: Photo, source: PhotoFolder, score: Callable[[int], float]) -> Any:
    """The disc in two halves and a piece of the background as the concepts of the predicted class."""
    explanation = explainer.explain_input(explainer.read(source.read(photo)), relations=False)
    disc = planted.part_of(photo.path)
    x = np.arange(SIDE)[None] + np.zeros((SIDE, 1), int)
    middle = int(x[disc].mean())
    labels = np.where(disc & (x <= middle), 0, np.where(disc, 1, 3))
    corner = ~disc & (x < 12) & (x.T < 12)
    labels[corner] = 2
    matched = np.full_like(explanation.matched, UNMATCHED)
    own = explanation.predicted
    matched[own, :3] = [0, 1, 2]
    scores = np.zeros_like(explanation.node_scores)
    scores[own, own, :3] = [score(k) for k in range(3)]
    patches = Patches(labels[None].astype(np.int16), np.arange(4))
    return replace(explanation, matched=matched, node_scores=scores, superpixels=patches, attended=np.array([0, 1, 2]))


def test_the_whole_disc_is_all_that_the_classifier_sees(
    explainer: Explainer, more: PhotoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "LEAST_FALL", 0.1)
    photos = more.photos("test")[::5]
    good = [with_concepts(explainer, p, more, lambda k: 2.0 - k) for p in photos]
    bad = [with_concepts(explainer, p, more, lambda k: float(k)) for p in photos]
    found = deletion.completeness(explainer, good)
    assert found["completeness/photos"] == len(photos)
    assert found["completeness/deletion"] == pytest.approx(1, abs=0.1)
    assert found["completeness/area"] == np.mean([e.mask(e.predicted, k).mean() for e in good for k in range(3)]) * 3
    # what is attended is the concepts: the random pixels are the same
    assert found["completeness/deletion_random"] == pytest.approx(found["completeness/deletion"])
    assert found["completeness/c_deletion"] < 1 < deletion.completeness(explainer, bad)["completeness/c_deletion"]
    wide = [replace(e, attended=np.arange(4)) for e in good]
    assert deletion.completeness(explainer, wide)["completeness/deletion_random"] < 0.6


def test_ratios_are_of_sums_and_photos_without_a_fall_are_left_out(explainer: Explainer, more: PhotoFolder) -> None:
    photos = more.photos("test")
    explanations = [explainer.explain_input(explainer.read(more.read(p)), relations=False) for p in photos[::3]]
    flat = explainer.explain_input(torch.zeros(3, SIDE, SIDE), relations=False)
    found = deletion.completeness(explainer, [*explanations, flat])
    lost = whole = counted = 0.0
    for e in explanations:
        own, union = e.predicted, np.zeros((SIDE, SIDE), bool)
        for k in np.flatnonzero(e.detected[own]).tolist():
            union |= e.mask(own, k)
        fall = e.margin(own) - by_hand(explainer, e.x, np.ones_like(union), own)
        if fall >= 0.5:
            lost += e.margin(own) - by_hand(explainer, e.x, union, own)
            whole, counted = whole + fall, counted + 1
    assert 2 < found["completeness/photos"] == counted < len(explanations)
    assert found["completeness/deletion"] == pytest.approx(lost / whole, abs=1e-4)
    nothing = deletion.completeness(explainer, [flat])
    assert nothing.pop("completeness/photos") == 0 and np.isnan(list(nothing.values())).all()


def test_c_deletion_is_the_area_under_the_probabilities_of_photos_edited_one_by_one(
    explainer: Explainer, more: PhotoFolder
) -> None:
    class Backwards:
        """In place of a random generator: every order is the reverse."""

        def permutation(self, values: Any) -> Any:
            return np.arange(values)[::-1] if np.isscalar(values) else values[::-1]

    explanation = with_concepts(explainer, more.photos("test")[0], more, lambda k: 2.0 - k)
    own = explanation.predicted

    def area(order: list[int]) -> float:
        mask, curve = np.zeros((SIDE, SIDE), bool), [explanation.probabilities[own]]
        for k in order:
            mask = mask | explanation.mask(own, k)
            edited = explainer.editor.delete(explanation.x[None], torch.from_numpy(mask[None]))
            curve.append(torch.from_numpy(explainer.logits(edited)).softmax(1)[0, own].item())
        return sum((a + b) / 2 for a, b in pairwise(curve)) / 3

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "default_rng", lambda _: Backwards())
        found = deletion.completeness(explainer, [explanation])
    assert found["completeness/c_deletion"] == pytest.approx(area([0, 1, 2]) / area([2, 1, 0]), rel=1e-3)


def test_area_under_straight_lines_and_steps() -> None:
    assert area_under([1, 0]) == 0.5
    assert area_under([1, 1, 0]) == 0.75
    assert area_under([0.5, 0.5, 0.5, 0.5]) == 0.5


def test_two_concepts_have_no_order_and_every_order_ends_before_the_last() -> None:
    rng = np.random.default_rng(0)
    detected = np.ones((3, 4), bool)
    masks = np.zeros((3, 4, 32, 32), bool)
    for k in range(4):
        masks[:, k, 8 * k : 8 * k + 8] = True
    scores = np.zeros((3, 3, 4))
    scores[:] = [1, 4, -1, 2]
    explanation = make_explanation(size=32, detected=detected, masks=masks, node_scores=scores)
    first, *others = deletion_steps(explanation, rng)
    own = explanation.predicted
    np.testing.assert_array_equal(first[0], explanation.mask(own, 1))
    np.testing.assert_array_equal(first[1], explanation.mask(own, 1) | explanation.mask(own, 3))
    assert len(first) == 3 and len(others) == 3 and all(len(order) == 3 for order in others)
    matched = explanation.matched.copy()
    matched[own, 2:] = UNMATCHED
    assert deletion_steps(replace(explanation, matched=matched), rng) == []


@pytest.mark.parametrize("margin", [0.0, 0.05])
@pytest.mark.parametrize("side", [0, 1, 6, 22, 64])
def test_random_pixels_change_as_much_in_whole_blocks_of_what_is_allowed(side: int, margin: float) -> None:
    allowed, like = np.zeros((64, 48), bool), np.zeros((64, 48), bool)
    start = 10 if side < 30 else 0
    allowed[5:60, 3:40], like[start : start + side, start : start + side] = True, True
    chosen = random_blocks(allowed, like, margin, np.random.default_rng(0))
    assert not (chosen & ~allowed).any()
    blocks, full = (m.reshape(16, 4, 12, 4).sum((1, 3)) for m in (chosen, allowed))
    assert ((blocks > 0) & (blocks < full)).sum() <= 1, "one block in part at most"
    photo = torch.ones(1, 3, 64, 48)
    changed = [float((1 - Editor("grey", margin).delete(photo, torch.from_numpy(m[None]))).sum() / 3)
               for m in (chosen, like, allowed)]  # fmt: skip
    assert changed[0] == pytest.approx(min(changed[1:]), abs=50 if margin else 1), "one pixel more takes its edge along"
    assert (chosen.sum() < like.sum()) == (margin > 0 and side > 1) or side == 64
    other = random_blocks(allowed, like, margin, np.random.default_rng(1))
    assert (chosen == other).all() == (side in (0, 64))


def test_attended_pixels_are_those_of_all_attended_regions(explainer: Explainer, more: PhotoFolder) -> None:
    explanation = explainer.explain_input(explainer.read(more.read(more.photos("test")[0])), relations=False)
    expected = np.zeros((SIDE, SIDE), bool)
    for label in explanation.attended.tolist():
        expected |= explanation.label_mask(label)
    np.testing.assert_array_equal(attended(explanation), expected)


# --- stability


def scored(scores: list[float], found: list[bool], masks: np.ndarray | None = None) -> Explanation:
    """Four concepts; those of the predicted class have these contributions, where found."""
    detected = np.tile(found, (3, 1))
    if masks is None:
        masks = np.zeros((3, 4, 32, 32), bool)
        for k in range(4):
            masks[:, k, 8 * k : 8 * k + 8, 4:28] = True
    nodes = np.tile(np.where(found, scores, 0), (3, 3, 1))
    return make_explanation(size=32, detected=detected, masks=masks & detected[..., None, None], node_scores=nodes)


def test_agreement_by_hand() -> None:
    clean = scored([3, 2, 1, 0.5], [True, True, True, False])
    assert agreement(clean, clean) == (1, 1, 1, 1)
    lost = scored([9, 1, 2, 0.5], [False, True, True, True])
    top, rank, iou, found = agreement(clean, lost)
    assert (top, iou) == (0, 1) and found == pytest.approx(2 / 3)
    assert rank == pytest.approx(stats.spearmanr([3, 2, 1, 0], [0, 1, 2, 0.5]).statistic)
    nothing = scored([0, 0, 0, 0], [False] * 4)
    top, rank, iou, found = agreement(clean, nothing)
    assert (top, rank, found) == (0, 0, 0) and np.isnan(iou)
    two = scored([3, 2, 1, 0], [True, True, False, False])
    assert np.isnan(agreement(two, two)[1])
    masks = np.zeros((3, 4, 32, 32), bool)
    masks[:, 0, :8, 4:16] = masks[:, 1, 8:16, 4:28] = masks[:, 2, 16:24, 4:28] = True  # the first: one half of it
    assert agreement(clean, scored([3, 2, 1, 0], [True, True, True, False], masks))[2] == pytest.approx((0.5 + 2) / 3)


def test_the_shifted_photo_is_moved_back(explainer: Explainer, more: PhotoFolder) -> None:
    clean = explainer.explain_input(explainer.read(more.read(more.photos("test")[0])), relations=False)
    after = stability.perturbed(explainer, clean, "shifted")
    raw = explainer.explain_input(
        stability.PERTURBATIONS["shifted"](explainer.classifier, clean.x[None])[0], relations=False
    )
    np.testing.assert_array_equal(raw.matched, after.matched)
    own = clean.predicted
    for k in np.flatnonzero(after.detected[own]).tolist():
        np.testing.assert_array_equal(after.mask(own, k)[:-2, :-2], raw.mask(own, k)[2:, 2:])
        assert not after.mask(own, k)[-2:].any() and not after.mask(own, k)[:, -2:].any()


def test_stability_is_one_without_a_change_and_falls_when_the_disc_goes(
    explainer: Explainer, more: PhotoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = [explainer.read(more.read(p)) for p in more.photos("test")[::6]]
    explanations = [explainer.explain_input(x, relations=False) for x in read]
    explanations = [e for e in explanations if e.detected[e.predicted].any()]
    monkeypatch.setattr(stability, "PERTURBATIONS", {"same": lambda _, x: x})
    assert stability.stability(explainer, explanations) == {f"stability/{n}": 1 for n in stability.NAMES}
    gone = {"same": lambda _, x: x, "grey": lambda _, x: torch.zeros_like(x)}
    monkeypatch.setattr(stability, "PERTURBATIONS", gone)
    found = stability.stability(explainer, explanations)["stability/found"]
    halves = [agreement(e, stability.perturbed(explainer, e, "grey"))[3] for e in explanations]
    assert found == pytest.approx((1 + np.mean(halves)) / 2) and found < 0.9
    assert np.isnan(list(stability.stability(explainer, []).values())).all()


# --- all of it


def test_sampled_takes_of_every_class_in_turn() -> None:
    photos = [Photo(f"{c}/{i}", c, "test") for c, count in enumerate((5, 1, 4)) for i in range(count)]
    chosen = sampled(photos, 6, 0)
    assert [p.label for p in chosen] == [0, 1, 2, 0, 2, 0] and len(set(chosen)) == 6
    assert sampled(photos, 6, 0) == chosen != sampled(photos, 6, 1)
    assert set(sampled(photos, 99, 0)) == set(photos) and sampled(photos, 0, 0) == []


def test_concept_quality_measures_everything(explainer: Explainer, more: PlantedParts) -> None:
    found = concept_quality(explainer, more, 6)
    names = {
        *(f"concepts/{n}" for n in ("significant", "purity", "consistency", "background", "precision")),
        *(f"completeness/{n}" for n in ("deletion", "deletion_random", "area", "c_deletion", "photos")),
        *(f"stability/{n}" for n in ("top_concept", "rank", "iou", "found")),
    }
    assert names <= set(found.metrics)
    assert len(found.table) == explainer.bank.present.sum()
    row = found.table[0]
    assert (row["class_name"], row["number"]) == ("berry", 1) and row["photos"] > 2
    again = concept_quality(explainer, more, 6)
    np.testing.assert_equal(again.metrics, found.metrics)


def test_a_source_without_part_masks_has_no_part_metrics(explainer: Explainer, source: PhotoFolder) -> None:
    found = concept_quality(explainer, source, 3)
    assert "concepts/purity" not in found.metrics and all(np.isnan(row.purity) for row in found.concepts)


def test_purity_of_a_concept_by_hand(explainer: Explainer, more: PlantedParts) -> None:
    """The red disc is a part of its class alone: its share of the pixels of the first concept, counted by hand."""
    _, of_concepts = part_quality(explainer, more, 4)
    photos = [p for p in sampled(more.photos("test"), 12, 0) if p.label == 0]
    shares = []
    for photo in photos:
        explanation = explainer.explain_input(explainer.read(more.read(photo)), relations=False)
        parts, mask = more.parts(photo), explanation.mask(0, 0)
        on = {name: (mask & part).sum() for name, part in parts.items()}
        if sum(on.values()) > 0.01 * mask.sum():
            shares.append(on["disc"] / sum(on.values()))
    assert of_concepts[0, 0]["purity"] == pytest.approx(np.mean(shares))


def test_unreadable_test_photos_are_named(explainer: Explainer, more: PhotoFolder, tmp_path: Path) -> None:
    class Broken(PhotoFolder):
        def read(self, photo: Photo) -> Image.Image:
            raise VRXError("damaged")

    broken = Broken(more.root, list(planted.CLASSES), discovery=14, train=5, val=3, test=None)
    with pytest.raises(VRXError, match=r"report\.quality=0"):
        concept_quality(explainer, broken, 3)
