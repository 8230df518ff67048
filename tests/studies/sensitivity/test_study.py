"""Which concept was edited, in a world whose classifier really uses where parts lie, and whose explanation is exact."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tests.studies.planted import PlantedExplainer, PlantedSource, context, explanation_of
from vrx.data.images import Photo
from vrx.edits import far_offset
from vrx.errors import VRXError
from vrx.explain.explainer import relocated
from vrx.explanation import Explanation, Relations
from vrx.structures import UNMATCHED, Patches
from vrx.studies.sensitivity.method import edited_concepts
from vrx.studies.sensitivity.study import Sensitivity, chance, falls, is_found, summary

SIDE, PART, STEP = 32, 8, 16
CORNERS = ((4, 4), (4, 20), (20, 4), (20, 20))  # top, left of the four parts: STEP apart, across and down
LABELS = np.full((SIDE, SIDE), 4, np.int16)  # 4: background
for k, (top, left) in enumerate(CORNERS):
    LABELS[top : top + PART, left : left + PART] = k
PARTS = Patches(LABELS[None], np.arange(4, dtype=np.int64))


def at_step(plane: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """The plane moved by STEP to the left, and up: what lies beside, and below, each pixel."""
    return [
        np.pad(plane, ((0, 0), (0, STEP)))[:, STEP:],
        np.pad(plane, ((0, STEP), (0, 0)))[STEP:],
    ]


class PairExplainer(PlantedExplainer):
    """Per class a colour; its logit: the mean brightness of a part, plus what bright things STEP apart give together.

    The contributions are exact: a node's is the brightness of its pixels, a pair's what its two patches give together,
    which is also what the place of either counts for. ``shuffled``: each concept gets those of the next one.
    """

    def __init__(self, shuffled: bool = False, blind: bool = False) -> None:
        super().__init__(blind=blind)
        self.shuffled = shuffled

    def superpixels(self, x: Tensor) -> Patches:
        return PARTS

    def logits(self, x: Tensor) -> NDArray[np.float64]:
        self.asked += len(x)
        planes = x[:, :2].double().numpy()
        return np.array([[p.sum() + 2 * sum((p * q).sum() for q in at_step(p)) for p in one] for one in planes]) / 64

    def explain_input(self, x: Tensor, superpixels: Patches | None = None, **_: Any) -> Explanation:
        return self._exact(x, PARTS)

    def follow(self, before: Explanation, x: Tensor, moved: Mapping[int, Any] | None = None) -> Explanation:
        return self._exact(x, relocated(before, moved or {}))

    def _exact(self, x: Tensor, patches: Patches) -> Explanation:
        masks = [np.zeros((SIDE, SIDE), bool) if self.blind else (patches.labels == k).any(0) for k in range(4)]
        nodes, pairs = np.zeros((2, 2, 4)), np.zeros((4, 4, 2))
        order = np.roll(range(4), 1) if self.shuffled else range(4)
        for c, plane in enumerate(x[:2].double().numpy()):
            own = np.array([plane[mask].sum() for mask in masks]) / 64
            pair = np.array([[sum((plane * m * s).sum() for s in at_step(plane * n)) for n in masks] for m in masks])
            nodes[c, c] = own[order]
            pairs[..., c] = 2 * ((pair + pair.T) / 64)[np.ix_(order, order)] * (1 - np.eye(4))
        matched = np.tile(np.full(4, UNMATCHED) if self.blind else np.arange(4), (2, 1))
        logits = self.logits(x[None])[0]
        found = explanation_of(self.pixels(x), x, logits, nodes, matched, patches)
        return replace(found, relations=None if self.blind else exact(pairs, nodes))


def exact(pairs: NDArray[np.float64], nodes: NDArray[np.float64]) -> Relations:
    """Relations, predicted as they are and not measured, from raw logits of two classes."""
    pairs = pairs - pairs.mean(2, keepdims=True)
    main, unknown = np.stack([nodes[c, c] for c in range(2)], 1), np.full_like(pairs, np.nan)
    none = unknown[0]
    return Relations(
        np.arange(4), main, none, pairs, unknown, pairs, unknown, none, unknown, unknown, none, np.zeros(2)
    )


class PairSource(PlantedSource):
    """Photos of four parts in the colour of their class on black, each with its brightness."""

    def read(self, shown: Photo) -> Image.Image:
        bright = self.splits[shown.split][int(Path(shown.path).stem)][0]
        pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
        pixels[..., shown.label % 2] = np.append(np.array(bright) * 255, 0)[LABELS]
        return Image.fromarray(pixels)


GOOD = [([0.9, 0.8, 0.9, 0.8], 0), ([0.8, 0.9, 0.9, 0.9], 1), ([0.9, 0.9, 0.8, 0.7], 0), ([0.9] * 4, 1)]
POOR = [([0.2, 0.3, 0.1, 0.2], 0), ([0.3, 0.2, 0.2, 0.1], 1)] * 5  # as many as count as bad exemplars


def run(folder: Path, explainer: PairExplainer, **settings: Any) -> dict[str, float]:
    folder.mkdir(exist_ok=True)
    settings = {"examples": 1, **settings}
    source = PairSource(discovery=GOOD[:2] + POOR, test=[*GOOD, ([0.0] * 4, 1)])  # the last is a tie: predicted as 0
    return Sensitivity(**settings)(context(folder, source, explainer, **settings))


def values(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    return [line["value"] for line in lines if "concepts" in line["value"]]


def test_the_planted_explanation_adds_up_to_the_classifier() -> None:
    explainer, source = PairExplainer(), PairSource(test=GOOD)
    for photo in source.photos("test"):
        found = explainer.explain_input(explainer.read(source.read(photo)))
        assert found.relations is not None
        raw = found.relations.pairs.sum((0, 1)) / 2  # centred: half of what one class gets beyond the other
        total = found.node_scores.sum((1, 2))
        np.testing.assert_allclose(total - total.mean() + raw, found.logits - found.logits.mean())


def test_an_exact_explanation_finds_every_edit(tmp_path: Path) -> None:
    metrics = run(tmp_path, PairExplainer())
    assert metrics["edits/appearance"] == metrics["edits/structure"] == len(GOOD)  # not the photo that is wrong
    assert metrics["found/appearance"] == metrics["found/structure"] == 1
    assert metrics["chance/structure"] == 0.25
    assert metrics["p_value/structure"] == pytest.approx(0.25 ** len(GOOD))
    assert metrics["spearman_grn/structure"] == pytest.approx(1)  # the GRN is the classifier here
    assert metrics["fall_together_touched/structure"] > metrics["fall_together_others/structure"] > 0
    assert metrics["partner/structure"] > metrics["partner_chance/structure"] == pytest.approx(1 / 3)
    assert abs(metrics["fall_nodes_touched/structure"]) < 1e-6, "a moved part is as bright as before"
    assert "data:image" in (tmp_path / "index.html").read_text()
    assert json.loads((tmp_path / "metrics.json").read_text())["found/structure"] == 1
    for record in values(tmp_path):
        assert record["margin"][0] - record["margin"][1] >= 0.5


def test_an_explanation_of_the_wrong_concepts_finds_none(tmp_path: Path) -> None:
    metrics = run(tmp_path, PairExplainer(shuffled=True))
    assert metrics["edits/appearance"] == metrics["edits/structure"] == len(GOOD)
    assert metrics["found/appearance"] == metrics["found/structure"] == 0


def test_photos_without_concepts_are_left_out(tmp_path: Path) -> None:
    metrics = run(tmp_path, PairExplainer(blind=True))
    assert metrics == {"edits/appearance": 0, "edits/structure": 0}
    assert "No photo" in (tmp_path / "index.html").read_text()


def test_edits_that_the_classifier_does_not_notice_do_not_count(tmp_path: Path) -> None:
    def first_edits(least: float) -> list[float]:
        folder = tmp_path / str(least)
        metrics = run(folder, PairExplainer(), least_fall=least, tries=1)
        found = [r["margin"][0] - r["margin"][1] for r in values(folder)]
        assert len(found) == metrics["edits/appearance"] + metrics["edits/structure"]
        assert metrics["noticed/structure"] == metrics["edits/structure"] / len(GOOD)
        return found

    every = first_edits(-99.0)
    between = float(np.median(every))
    assert first_edits(between) == [fall for fall in every if fall >= between] != every
    assert first_edits(99.0) == []


def test_the_same_command_goes_on(tmp_path: Path) -> None:
    first = run(tmp_path, PairExplainer())
    path = tmp_path / "records.jsonl"
    path.write_text(path.read_text()[:-40])
    assert run(tmp_path, PairExplainer()) == first
    explainer = PairExplainer()
    assert run(tmp_path, explainer) == first and explainer.asked == 0


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(VRXError, match="rendered=true"):
        run(tmp_path, PairExplainer(), rendered=True)
    with pytest.raises(VRXError, match="num_concepts=9"):
        run(tmp_path, PairExplainer(), min_detected=9)
    with pytest.raises(VRXError, match="max_edits"):
        Sensitivity(max_edits=0)


def record(**change: Any) -> dict[str, Any]:
    values = {
        "concepts": [1],
        "detected": [0, 1, 3],
        "nodes": [[1.0, 2.0, 9.0, 3.0], [1.0, 0.5, 0.0, 2.0]],
        **dict.fromkeys(("together", "placement", "elsewhere", "all"), [[1.0, 1.0, 0.0, 1.0]] * 2),
        "margin": [3.0, 1.0],
        "grn_margin": [2.0, 1.0],
    }
    return {**values, **change}


def test_found_by_hand() -> None:
    assert falls(record(), "nodes").tolist() == [0, 1.5, 9, 1]
    assert is_found(record(), "nodes")  # the concept that fell by 9 was not detected
    assert not is_found(record(concepts=[3]), "nodes")
    assert not is_found(record(), "placement")  # nothing fell: nothing was found
    assert chance(record()) == pytest.approx(1 / 3)


def test_summary_by_hand() -> None:
    metrics = summary({"appearance": [record(), record(concepts=[3])], "structure": []})
    assert metrics["found/appearance"] == 0.5 and metrics["edits/structure"] == 0
    assert metrics["fall_nodes_touched/appearance"] == pytest.approx((1.5 + 1) / 2)
    assert metrics["fall_nodes_others/appearance"] == pytest.approx((0 + 1 + 0 + 1.5) / 4)
    assert "found/structure" not in metrics


def test_edited_concepts_are_those_whose_patch_changed() -> None:
    quarters = PlantedExplainer().explain_input(torch.zeros(3, 32, 32))
    changed = np.zeros((32, 32), bool)
    assert edited_concepts(quarters, 0, changed) == ()
    changed[:16, :4] = True  # a quarter of the first quarter
    assert edited_concepts(quarters, 0, changed) == (0,)  # all of the change lies in it
    changed[:, :16] = True
    assert edited_concepts(quarters, 0, changed) == (0, 2)
    changed[:] = False
    changed[:20, :7] = True  # 112 of 140 changed pixels lie in quarter 0: less than half of it, most of the change
    assert edited_concepts(quarters, 0, changed) == (0,)
    changed[:] = False
    changed[15:17] = True  # a stripe across all quarters is no concept's
    assert edited_concepts(quarters, 0, changed) == ()


def test_far_offsets_are_far_and_inside() -> None:
    mask = np.zeros((40, 60), bool)
    mask[10:20, 5:15] = True
    for seed in range(20):
        offset = far_offset(mask, np.zeros_like(mask), np.random.default_rng(seed))
        assert offset is not None
        dx, dy = offset
        assert np.hypot(dx, dy) >= 15
        assert 5 + dx >= 0 and 15 + dx <= 60 and 10 + dy >= 0 and 20 + dy <= 40
    half = np.arange(64).reshape(8, 8) < 32
    for mask in (half, np.zeros((8, 8), bool)):
        assert far_offset(mask, np.zeros_like(mask), np.random.default_rng(0)) is None, "too large, or nothing"
