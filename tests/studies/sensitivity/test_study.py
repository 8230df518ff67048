"""Which concept was touched, where the right answer is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.studies.planted import DISCOVERY, QUARTERS, PlantedSource, PlantedViewer, context
from vrx.edits import far_offset
from vrx.errors import VRXError
from vrx.explain.explainer import relocated
from vrx.structures import Explanation, edges
from vrx.studies.sensitivity import study as sensitivity
from vrx.studies.sensitivity.method import touched_by
from vrx.studies.sensitivity.study import Sensitivity, chance, falls, is_found, summary

WORSE = [([0.5, 0.4, 0.3, 0.4], [0.3, 0.2, 0.2, 0.2], 0), ([0.2, 0.3, 0.2, 0.2], [0.5, 0.4, 0.5, 0.4], 1)]
RIGHT = [
    ([0.9, 0.8, 0.8, 0.9], [0.1, 0.0, 0.1, 0.1], 0),
    ([0.1, 0.0, 0.0, 0.1], [0.9, 0.8, 0.7, 0.9], 1),
    ([0.7, 0.8, 0.9, 0.8], [0.1, 0.0, 0.1, 0.1], 0),
]
WRONG = ([0.1, 0.1, 0.1, 0.1], [0.9, 0.9, 0.9, 0.9], 0)


class FollowingViewer(PlantedViewer):
    """Edges of a moved concept fall by 1 each; ``lies``: those of the others fall."""

    def follow(self, view: Explanation, x: Any, moved: dict[int, Any] | None = None, links: bool = True) -> Explanation:
        after = self(x)
        j, i = edges(4).numpy()
        touching = np.isin(j, list(moved or {})) | np.isin(i, list(moved or {}))
        if self.lies and moved:
            touching = ~touching
        after.edge_scores[:] = 2.0 - (touching if moved else 0)
        return after


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, explainer: PlantedViewer, **settings: Any) -> dict[str, float]:
    monkeypatch.setattr(sensitivity, "Explainer", lambda explainer: explainer)
    monkeypatch.setattr("vrx.studies.sensitivity.method.LARGEST", 0.3)  # the planted patches are quarters
    source = PlantedSource(discovery=DISCOVERY + WORSE, test=[*RIGHT, WRONG])
    settings = {"least_fall": -9.0, **settings}  # the planted F hardly minds where a quarter lies
    return Sensitivity(**settings)(context(folder, source, **settings))


def test_an_explanation_that_knows_finds_every_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = run(tmp_path, monkeypatch, FollowingViewer())
    assert metrics["edits/appearance"] == metrics["edits/structure"] == len(RIGHT)  # the wrong photo is not used
    assert metrics["found/appearance"] == metrics["found/structure"] == 1
    assert metrics["chance/structure"] == 0.25
    assert metrics["p_value/structure"] == pytest.approx(0.25**3)
    assert metrics["spearman/appearance"] == pytest.approx(1)
    assert "data:image" in (tmp_path / "index.html").read_text()
    assert json.loads((tmp_path / "metrics.json").read_text())["found/structure"] == 1


def test_an_explanation_that_lies_finds_no_moved_concept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Liar(FollowingViewer):
        def __call__(self, x: Any, superpixels: Any = None, links: bool = False) -> Explanation:
            self.lies = False
            view = super().__call__(x)
            self.lies = True
            return view

    metrics = run(tmp_path, monkeypatch, Liar())
    assert metrics["found/structure"] == 0 and metrics["found/appearance"] == 1


def test_photos_without_concepts_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = run(tmp_path, monkeypatch, FollowingViewer(blind=True))
    assert metrics == {"edits/appearance": 0, "edits/structure": 0}
    assert "No photo" in (tmp_path / "index.html").read_text()


def test_what_f_does_not_notice_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = run(tmp_path, monkeypatch, FollowingViewer(), least_fall=9.0)
    assert metrics["edits/appearance"] == 0 and metrics["noticed/appearance"] == 0
    metrics = run(tmp_path, monkeypatch, FollowingViewer(), least_fall=0.15)
    rows = [json.loads(line)["value"] for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    fell = [r["f_margin"][0] - r["f_margin"][1] for r in rows if r.get("touched")]
    assert len(fell) == len(RIGHT) and min(fell) >= 0.15  # first tries of .10 were passed over
    assert metrics["noticed/appearance"] < 1


def test_the_same_command_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(tmp_path, monkeypatch, FollowingViewer())
    path = tmp_path / "records.jsonl"
    path.write_text(path.read_text()[:-40])
    assert run(tmp_path, monkeypatch, FollowingViewer()) == first


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VRXError, match="toy_vehicles"):
        run(tmp_path, monkeypatch, FollowingViewer(), rendered=True)
    with pytest.raises(VRXError, match="num_concepts=9"):
        run(tmp_path, monkeypatch, FollowingViewer(), min_detected=9)
    with pytest.raises(VRXError, match="max_edits"):
        Sensitivity(max_edits=0)


def record(**change: Any) -> dict[str, Any]:
    values = {
        "touched": [1],
        "detected": [0, 1, 3],
        "nodes": [[1.0, 2.0, 9.0, 3.0], [1.0, 0.5, 0.0, 2.0]],
        "edges": [[1.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 1.0]],
        "f_margin": [3.0, 1.0],
        "grn_margin": [2.0, 1.0],
    }
    return {**values, **change}


def test_found_by_hand() -> None:
    assert falls(record(), "nodes").tolist() == [0, 1.5, 9, 1]
    assert is_found(record(), "nodes")  # the concept that fell by 9 was not detected
    assert not is_found(record(touched=[3]), "nodes")
    assert not is_found(record(), "edges")  # nothing fell: nothing was found
    assert chance(record()) == pytest.approx(1 / 3)


def test_summary_by_hand() -> None:
    metrics = summary({"appearance": [record(), record(touched=[3])], "structure": []})
    assert metrics["found/appearance"] == 0.5 and metrics["edits/structure"] == 0
    assert metrics["fall_nodes_touched/appearance"] == pytest.approx((1.5 + 1) / 2)
    assert metrics["fall_nodes_others/appearance"] == pytest.approx((0 + 1 + 0 + 1.5) / 4)
    assert "found/structure" not in metrics


def view() -> Explanation:
    explainer = PlantedViewer()
    return explainer(explainer.read(PlantedSource(test=RIGHT).read(PlantedSource(test=RIGHT).photos("test")[0])))


def test_touched_concepts_are_those_whose_patch_changed() -> None:
    changed = np.zeros((32, 32), bool)
    assert touched_by(view(), 0, changed) == ()
    changed[:16, :4] = True  # a quarter of the first quarter
    assert touched_by(view(), 0, changed) == (0,)  # all of the change lies in it
    changed[:, :16] = True
    assert touched_by(view(), 0, changed) == (0, 2)
    changed[:] = False
    changed[:20, :7] = True  # 112 of 140 changed pixels lie in quarter 0: less than half of it, most of the change
    assert touched_by(view(), 0, changed) == (0,)
    changed[:] = False
    changed[15:17] = True  # a stripe across all quarters is no concept's
    assert touched_by(view(), 0, changed) == ()


def test_a_moved_patch_lies_where_it_was_put_and_nowhere_else() -> None:
    place = np.zeros((32, 32), bool)
    place[8:24, 8:24] = True
    masks = relocated(view(), {2: place}).masks
    assert (masks[2] == place).all()
    assert (masks[[0, 1, 3]] == QUARTERS.masks[[0, 1, 3]]).all()


def test_far_offsets_are_far_and_inside() -> None:
    mask = np.zeros((40, 60), bool)
    mask[10:20, 5:15] = True
    for seed in range(20):
        offset = far_offset(mask, np.zeros_like(mask), np.random.default_rng(seed))
        assert offset is not None
        dx, dy = offset
        assert np.hypot(dx, dy) >= 15
        assert 5 + dx >= 0 and 15 + dx <= 60 and 10 + dy >= 0 and 20 + dy <= 40
    assert far_offset(np.ones((8, 8), bool), np.zeros((8, 8), bool), np.random.default_rng(0)) is None
