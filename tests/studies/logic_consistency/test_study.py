"""The arms and the table where the right answer is known."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.studies.planted import DISCOVERY, PlantedExplainer, PlantedSource, context, donors_of, loudness
from vrx.edits import Editor, placed
from vrx.errors import VRXError
from vrx.explanation import Counterfactual, Explanation
from vrx.structures import UNMATCHED
from vrx.studies.logic_consistency.method import ARMS, Arm, Arms, Edit, applied, noise_floor, resized
from vrx.studies.logic_consistency.study import LogicConsistency, at_fault, corrected

# a red photo whose third quarter shouts green: replacing that quarter corrects the prediction, no other does
FLAWED = ([0.9, 0.8, 0.1, 0.6], [0.1, 0.1, 1.0, 0.1], 0)
RIGHT = ([0.8, 0.8, 0.8, 0.8], [0.1, 0.1, 0.1, 0.1], 0)
HOPELESS = ([0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], 0)


def run(
    folder: Path,
    test: list[Any],
    explainer: PlantedExplainer | None = None,
    **settings: Any,
) -> tuple[dict[str, float], PlantedExplainer]:
    explainer = explainer or PlantedExplainer()
    source = PlantedSource(discovery=DISCOVERY, test=test)
    folder.mkdir(exist_ok=True)
    settings = {"examples": 1, **settings}
    return LogicConsistency(**settings)(context(folder, source, explainer, **settings)), explainer


def records(folder: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    return {line["name"]: line["value"] for line in lines if "arms" in line["value"]}


def test_the_planted_flaw_is_found_and_corrected(tmp_path: Path) -> None:
    metrics, _ = run(tmp_path, [FLAWED, RIGHT] * 6, max_edits=1)
    assert metrics["errors/total"] == 6
    assert metrics["left/vrx_guided"] == 0
    assert metrics["left/good_for_good"] == 1  # the good quarters are good already
    assert metrics["left/pasted_onto_itself"] == 1  # an edit by itself moves nothing here
    assert metrics["p_value/good_for_good"] == pytest.approx(2 / 2**6)
    for record in records(tmp_path).values():
        (edit,) = record["arms"]["vrx_guided"]["edits"]
        assert (edit["edit"], edit["concept"], edit["area"]) == ("substitute", 3, 0.25)


def test_an_explanation_that_lies_corrects_nothing(tmp_path: Path) -> None:
    metrics, _ = run(tmp_path, [FLAWED] * 4, PlantedExplainer(lies=True), max_edits=1)
    assert metrics["left/vrx_guided"] == 1


class MissesAQuarter(PlantedExplainer):
    """Says that the third quarter of a red photo is missing where it is green, and what it would give there."""

    def explain_input(self, x: torch.Tensor, superpixels: Any = None, **_: Any) -> Explanation:
        found = super().explain_input(x)
        margin = float(np.diff(loudness(x)[:, 2])[0])
        missing = Counterfactual(0, 2, UNMATCHED, (0.25, 0.75), np.array([margin, -margin]), *[np.full(2, np.nan)] * 2)
        return replace(found, counterfactuals=(missing,))


def test_a_concept_is_put_where_the_explanation_says_that_it_belongs(tmp_path: Path) -> None:
    metrics, _ = run(tmp_path, [FLAWED] * 6, MissesAQuarter(), max_edits=1)
    assert metrics["errors/with_structure"] == metrics["corrected/structure"] == metrics["corrected/content"] == 6
    assert metrics["left/structure"] == metrics["corrected/structure_alone"] == 0
    assert metrics["left/structure_random"] > 0.5 and metrics["p_value/structure"] == 1
    for record in records(tmp_path).values():
        (edit,) = record["arms"]["structure"]["edits"]
        assert edit == {"edit": "add", "class": "red", "concept": 3, "area": 0.25}


def test_a_concept_that_lies_elsewhere_is_moved(tmp_path: Path) -> None:
    explainer, source = PlantedExplainer(), PlantedSource(discovery=DISCOVERY, test=[FLAWED])
    x = explainer.read(source.read(source.photos("test")[0]))
    explanation = explainer.explain_input(x)
    arms = Arms(explainer, donors_of(tmp_path, source)[0], explanation, 0, 1, 0.0, np.random.default_rng(0))  # type: ignore[arg-type]
    gain = np.ones(2)
    edit = arms._put(explanation, Counterfactual(0, 2, 1, (0.75, 0.25), gain, gain, gain), (0.75, 0.25))
    assert edit is not None and edit.record(("red", "green"))["edit"] == "move" and edit.mask.mean() == 0.5
    after = loudness(applied(explainer, x, edit))  # type: ignore[arg-type]
    np.testing.assert_allclose(after[:, 1], loudness(x)[:, 2], atol=1e-6)  # the green quarter covers the second
    assert after[1, 2] < 1, "and is filled where it was"


def test_every_arm_has_the_same_budget(tmp_path: Path) -> None:
    run(tmp_path, [HOPELESS, FLAWED], max_edits=3)
    for record in records(tmp_path).values():
        guided = [edit["area"] for edit in record["arms"]["vrx_guided"]["edits"]]
        for arm in set(ARMS) - {"structure", "structure_random"}:
            areas = [edit["area"] for edit in record["arms"][arm]["edits"]]
            assert len(areas) <= 3
            assert areas == [guided[i % len(guided)] for i in range(len(areas))]
            if record["arms"][arm]["corrected_after"] is None and arm != "vrx_guided":
                assert len(areas) == 3  # an arm that failed has used up its budget


def test_the_table_counts_by_cause_and_the_curve_falls(tmp_path: Path) -> None:
    metrics, _ = run(tmp_path, [FLAWED, HOPELESS, RIGHT], max_edits=4)
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert int(rows[0]["errors not corrected"]) == 2
    for row in rows:
        assert int(row["errors not corrected"]) == sum(int(row[c]) for c in ("concept", "structure", "both"))
    assert json.loads((tmp_path / "metrics.json").read_text())["errors/total"] == 2
    for arm in ARMS:
        curve = [metrics[f"left/{arm}_{b}"] for b in range(1, 5)]
        assert curve == sorted(curve, reverse=True) and curve[-1] == metrics[f"left/{arm}"]
    assert "data:image" in (tmp_path / "index.html").read_text()


def test_no_errors_at_all(tmp_path: Path) -> None:
    metrics, explainer = run(tmp_path, [RIGHT, RIGHT])
    assert metrics["errors/total"] == 0 and "left/vrx_guided" not in metrics
    assert explainer.asked == 2  # no edit was made
    assert "no error" in (tmp_path / "index.html").read_text()


def test_a_photo_without_concepts_stays_an_error(tmp_path: Path) -> None:
    metrics, _ = run(tmp_path, [FLAWED], PlantedExplainer(blind=True))
    assert metrics["errors/without_concept"] == 1
    assert all(metrics[f"left/{arm}"] == 1 for arm in ARMS)


def test_the_same_command_goes_on(tmp_path: Path) -> None:
    photos = [FLAWED, HOPELESS, RIGHT, FLAWED]
    whole, _ = run(tmp_path / "whole", photos, max_edits=2)
    run(tmp_path / "broken", photos, max_edits=2)
    path = tmp_path / "broken" / "records.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-2]) + lines[-2][:30])  # killed in the middle of a line
    again, explainer = run(tmp_path / "broken", photos, max_edits=2)
    assert again == whole
    third, explainer = run(tmp_path / "broken", photos, max_edits=2)
    assert third == whole and explainer.asked == 0  # nothing is computed twice


def test_other_settings_do_not_read_old_records(tmp_path: Path) -> None:
    one, _ = run(tmp_path, [HOPELESS], max_edits=1)
    four, _ = run(tmp_path, [HOPELESS], max_edits=4)
    assert one["edits/mean"] == 1 and four["edits/mean"] > 1


@pytest.mark.parametrize(
    ("found", "expected"),
    [((0.5, 6.0), "concept"), ((6.0, 0.5), "structure"), ((0.5, 0.5), "both"), ((6.0, 4.0), "structure")],
)
def test_cause_rule(found: tuple[float, float], expected: str) -> None:
    right = np.arange(1.0, 9.0)
    assert at_fault(found, np.stack([right, right], 1), 0.25) == expected
    assert at_fault(found, np.zeros((0, 2)), 0.25) == "both"  # nothing to compare with


@pytest.mark.parametrize("pixels", [1, 37, 100, 400])
def test_resized_masks_have_the_area_and_keep_their_place(pixels: int) -> None:
    mask = np.zeros((20, 20), bool)
    mask[3:13, 5:15] = True
    other = resized(mask, pixels)
    assert other.sum() == pixels
    assert (mask <= other).all() or (other <= mask).all()


def test_corrected_within_a_budget_and_by_each_rule() -> None:
    guided = {"corrected_after": 3, "right_after": 2, "edits": [{}, {}, {}]}
    early = {"corrected_after": 2, "right_after": 1, "edits": [{}, {}]}
    late = {"corrected_after": None, "right_after": 5, "edits": [{}] * 6}
    record = {"arms": {"vrx_guided": guided, "early": early, "late": late}}
    assert [corrected(record, "early", b) for b in (1, 2, 3)] == [False, True, True]
    assert [corrected(record, "late", 9, rule) for rule in ("noise", "answer", "all_tries")] == [False, False, True]
    early["right_after"] = 3  # one edit more than the guided arm needed for a right answer
    assert not corrected(record, "early", 9, "answer") and corrected(record, "early", 9, "all_tries")
    assert not corrected(record, "late", 4, "all_tries")


def test_the_noise_floor_is_the_quantile_of_what_pasting_onto_itself_moves(tmp_path: Path) -> None:
    explainer = PlantedExplainer()
    donors, records = donors_of(tmp_path, PlantedSource(discovery=DISCOVERY), explainer)
    assert len(donors.best_of_photos()) == len(DISCOVERY)  # all of them are right
    floor = noise_floor(explainer, donors, records, 0.5)  # type: ignore[arg-type]
    changes = [abs(records[f"noise discovery/{i}.png"]["change"]) for i in range(len(DISCOVERY))]
    assert floor == pytest.approx(np.median(changes)) and floor > 0
    asked = explainer.asked
    assert noise_floor(explainer, donors, records, 0.5) == floor and explainer.asked == asked  # type: ignore[arg-type]


def test_a_right_prediction_within_the_noise_is_no_correction() -> None:
    arm = Arm(
        torch.zeros(3, 2, 2), 0, [-1.0, 1.0], enough=1.5, edits=[Edit(np.ones((2, 2), bool), None)], predicted=[0]
    )
    assert not arm.corrected and arm.record(("a", "b"))["right_after"] == 1
    arm.margins[-1] = 2.0
    assert arm.corrected and arm.record(("a", "b"))["corrected_after"] == 1


def test_a_right_prediction_needs_no_majority() -> None:
    """With three classes the likeliest can have negative log-odds."""
    arm = Arm(torch.zeros(3, 2, 2), 2, [-3.0, -0.2], edits=[Edit(np.ones((2, 2), bool), None)], predicted=[2])
    record = arm.record(("a", "b", "c"))
    assert (record["right_after"], record["corrected_after"], record["predicted"]) == (1, None, ["c"])


@pytest.mark.parametrize("settings", [{"max_edits": 0}, {"quantile": 1.0}, {"max_photos": 0}])
def test_bad_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(VRXError, match="study"):
        LogicConsistency(**settings)


def test_a_donor_comes_at_its_own_size_with_its_middle_on_the_hole() -> None:
    donor = torch.rand(3, 30, 40, generator=torch.Generator().manual_seed(0))
    patch, hole = torch.zeros(30, 40, dtype=torch.bool), torch.zeros(24, 24, dtype=torch.bool)
    patch[20:26, 30:36], hole[4:8, 6:14] = True, True  # middles (23, 33) and (6, 10): 17 up, 23 left
    layer, changed = placed(donor, patch, hole)
    assert torch.equal(layer[:, 3:9, 7:13], donor[:, 20:26, 30:36])
    expected = hole.clone()
    expected[3:9, 7:13] = True
    assert torch.equal(changed, expected)


def test_a_donor_stays_inside_and_a_larger_one_is_averaged_down() -> None:
    donor = torch.zeros(3, 60, 90)
    patch, hole = torch.zeros(60, 90, dtype=torch.bool), torch.zeros(24, 24, dtype=torch.bool)
    patch[5:55, 20:80], hole[0:2, 0:2] = True, True
    donor[0, 5:55, 20:80] = 1
    layer, changed = placed(donor, patch, hole)
    assert changed.any(0).sum() == 24 and 18 <= changed.any(1).sum() <= 22  # 60 x 50 becomes 24 x 20
    assert layer[0][changed & ~hole].min() > 0.4 and layer[0][changed].mean() > 0.9


def test_a_patch_pasted_onto_itself_changes_nothing() -> None:
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[:, 8:20, 10:30] = True
    layer, changed = placed(x[0], mask[0], mask[0])
    assert torch.equal(changed, mask[0])
    assert torch.allclose(Editor("blur", 0.05).paste(x, changed[None], layer[None]), x, atol=1e-6)


def test_move_takes_the_patch_along_and_stays_inside() -> None:
    x = torch.zeros(1, 3, 20, 20)
    mask = torch.zeros(1, 20, 20, dtype=torch.bool)
    mask[:, 2:6, 3:8] = True
    x[:, 1][mask] = 1
    out, place = Editor("grey", 0.0).move(x, mask, torch.tensor([[100, 5]]))
    assert place[0].nonzero().min(0).values.tolist() == [7, 15] and place.sum() == mask.sum()
    assert out[0, 1][place[0]].min() == 1 and out[0, 1][~place[0]].abs().max() == 0


def test_an_edit_in_words() -> None:
    mask = np.zeros((4, 4), bool)
    mask[0] = True
    record = Edit(mask, None, 1, 2).record(("red", "green"))
    assert record == {"edit": "delete", "class": "green", "concept": 3, "area": 0.25}
