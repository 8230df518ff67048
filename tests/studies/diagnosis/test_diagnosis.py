"""Planted causes, the evidence that gives them away, the cause model, the advice, and the study as a whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from vrx.data.images import Photo
from vrx.data.toys.vehicles import ToyVehicles
from vrx.errors import VRXError
from vrx.structures import Explanation, Patches
from vrx.studies.diagnosis.cause_model import EVIDENCE, FITTED, NEW, CauseModel, rule
from vrx.studies.diagnosis.causes import (
    CAM,
    GRAPH,
    Looked,
    Usual,
    apartness,
    cam_evidence,
    evidence,
    pair_distance,
    shared_evidence,
)
from vrx.studies.diagnosis.diagnoser import held_out
from vrx.studies.diagnosis.novelty import DEPTHS, Novelty
from vrx.studies.diagnosis.page import errors_figure, lead, quality_table, told_apart, trust
from vrx.studies.diagnosis.planting import (
    CAUSES,
    Attempt,
    RenderedPlanter,
    in_one_piece,
    is_clear,
    point_at,
    roomiest,
    unseen_azimuths,
)
from vrx.studies.diagnosis.recommendation import advise, missing_poses, wanted_photos
from vrx.studies.diagnosis.study import Diagnosis, scores

SIDE = 16


def make_view(
    places: dict[tuple[int, int], tuple[int, int]], scores: dict[tuple[int, int], float] | None = None
) -> Explanation:
    """A view of two classes with three concepts: (class, concept) -> row and column of a 4 x 4 cell of the photo."""
    cells = np.arange(SIDE) // 4
    labels = (cells[:, None] * 4 + cells[None]).astype(np.int16)[None]
    matched = np.full((2, 3), -1, np.int64)
    centroids = np.full((2, 3, 2), 0.5, np.float32)
    nodes = np.zeros((2, 2, 3))
    for (c, k), (row, column) in places.items():
        matched[c, k] = row * 4 + column
        centroids[c, k] = (column + 0.5) / 4, (row + 0.5) / 4
        nodes[c, c, k] = (scores or {}).get((c, k), 1.0)
    return Explanation(
        x=torch.zeros(3, SIDE, SIDE), superpixels=Patches(labels, np.arange(16)), attended=np.arange(16),
        matched=matched,
        logits=np.array([0.0, 2.0]), grn_logits=np.array([0.0, 2.0]), nodes=nodes, links=np.zeros((2, 2, 6)),
        centroids=centroids,
    )  # fmt: skip


def make_looked(view: Explanation, nearest: float = 0.5) -> Looked:
    return Looked(view, np.full((2, 3), nearest), view.centroids.reshape(-1, 2).astype(float), np.ones((2, 4, 4)))


def test_shared_evidence_is_the_share_of_the_other_class_support_in_own_patches() -> None:
    view = make_view({(0, 0): (0, 0), (1, 0): (0, 0), (1, 1): (3, 3)}, {(1, 0): 3.0, (1, 1): 1.0})
    assert shared_evidence(view, 0, 1) == pytest.approx(0.75)
    assert shared_evidence(make_view({(1, 0): (3, 3)}), 0, 1) == 0.0  # no concept of the true class at all
    assert np.isnan(shared_evidence(make_view({(0, 0): (0, 0)}), 0, 1))


def test_apartness_measures_from_the_strongest_concept_of_the_answer() -> None:
    view = make_view({(0, 0): (0, 0), (0, 1): (0, 1), (1, 0): (0, 0), (1, 1): (3, 0)}, {(1, 0): 0.1, (1, 1): 5.0})
    nearest, middle = apartness(view, 0, 1)
    assert nearest == pytest.approx(0.75)  # three cells below the first concept
    assert middle == pytest.approx(np.hypot(0.125, 0.75))
    assert np.isnan(apartness(make_view({(0, 0): (0, 0)}), 0, 1)).all()


def test_pair_distance_ignores_shifts_and_sees_moved_or_missing_concepts() -> None:
    usual = make_view({(0, 0): (0, 0), (0, 1): (0, 1), (0, 2): (1, 0)})
    shifted = make_view({(0, 0): (2, 2), (0, 1): (2, 3), (0, 2): (3, 2)})
    moved = make_view({(0, 0): (0, 0), (0, 1): (0, 1), (0, 2): (3, 0)})
    assert pair_distance(shifted, usual, 0) == pytest.approx(0, abs=1e-6)
    # the pairs with the moved concept differ by (0, 0.5), the third not at all
    assert pair_distance(moved, usual, 0) == pytest.approx(np.sqrt(2 * 0.25 / 3))
    missing = make_view({(0, 0): (0, 0), (0, 1): (0, 1)})
    assert pair_distance(missing, usual, 0) == pytest.approx(np.sqrt(2 * 0.25 / 3))
    assert np.isnan(pair_distance(make_view({(0, 0): (0, 0)}), usual, 0))


def test_standing_is_a_z_score_of_the_class_own_photos() -> None:
    views = [make_looked(make_view({(0, 0): (0, 0)}, {(0, 0): s})) for s in (1.0, 2.0, 3.0)]
    usual = Usual([(0, looked) for looked in views], 2)

    def total(looked: Looked) -> float:
        return float(looked.view.node_scores[0, 0].sum())

    assert usual.standing(3.0, 0, total) == pytest.approx(1 / np.std([1, 2, 3]))
    assert usual.standing(1e9, 0, total) == 8
    assert np.isnan(usual.standing(1.0, 1, total))  # no photo of class 1 is known


def test_evidence_copes_with_a_photo_without_concepts() -> None:
    usual = Usual([(0, make_looked(make_view({(0, 0): (0, 0), (0, 1): (1, 1)}))) for _ in range(3)], 2)
    empty = Looked(make_view({}), np.full((2, 3), np.nan), np.zeros((0, 2)), np.zeros((2, 4, 4)))
    found = evidence(empty, 0, 1, usual)
    assert tuple(found) == GRAPH
    assert rule(found) in CAUSES


def test_cam_evidence_of_equal_and_of_disjoint_maps() -> None:
    maps = np.zeros((2, 4, 4))
    maps[0, 0, 0] = maps[1, 3, 3] = 2.0
    apart = cam_evidence(maps, 0, 1)
    assert apart["overlap"] == 0 and apart["distance of peaks"] == pytest.approx(np.hypot(0.75, 0.75))
    same = cam_evidence(maps[[0, 0]], 0, 1)
    assert same["overlap"] == 1 and same["correlation"] == pytest.approx(1) and same["distance of centres"] == 0
    assert all(np.isfinite(list(cam_evidence(np.zeros((2, 4, 4)), 0, 1).values())))


def planted_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Evidence with a known cause: each cause moves one number by four standard deviations."""
    rng = np.random.default_rng(seed)
    telling = dict(zip(CAUSES, ("shared patches", "holds: gap", NEW[0]), strict=True))
    rows = []
    for number in range(count):
        for cause in CAUSES:
            found = {name: float(rng.normal()) for name in EVIDENCE}
            found[telling[cause]] += 4
            cam = {name: float(rng.normal()) for name in CAM}
            rows.append({"evidence": found, "cam": cam, "cause": cause, "photo": f"{seed}/{number}"})
    return rows


def test_cause_model_finds_planted_causes_in_other_photos_and_not_in_noise() -> None:
    learn, test = planted_rows(40, 0), planted_rows(40, 1)

    def accuracy(kind: str, names: tuple[str, ...]) -> float:
        causes, photos = [r["cause"] for r in learn], [r["photo"] for r in learn]
        model = CauseModel(names).fit([r[kind] for r in learn], causes, photos)
        return float(np.mean([model(r[kind]) == r["cause"] for r in test]))

    assert accuracy("evidence", FITTED) > 0.85
    assert accuracy("cam", CAM) < 0.5
    model = CauseModel().fit([r["evidence"] for r in learn], [r["cause"] for r in learn], [r["photo"] for r in learn])
    assert sum(model.probabilities(test[0]["evidence"]).values()) == pytest.approx(1)
    assert model(dict.fromkeys(EVIDENCE)) in CAUSES  # all of it missing


def test_rule_asks_first_whether_the_answers_concepts_hold_it_and_then_where() -> None:
    far, near = {"holds: distance of centres": 0.4}, {"holds: distance of centres": 0.1}
    held = "other's concepts alone gone: answer falls"
    assert rule({**far, held: 0.1}) == rule({**near, held: 0.1}) == "unseen"
    assert rule({**far, held: 1.0}) == "false alarm"
    assert rule({**near, held: 1.0}) == "shared"
    assert rule(dict.fromkeys(EVIDENCE)) == "unseen"  # no concept found: none holds the answer


def test_cause_model_refuses_too_few_errors() -> None:
    row = planted_rows(1, 0)[0]
    with pytest.raises(VRXError, match=r"study\.trials"):
        CauseModel().fit([row["evidence"]] * 4, ["shared"] * 4, ["a", "b", "c", "d"])
    with pytest.raises(VRXError, match="not fitted"):
        CauseModel()(row["evidence"])


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> ToyVehicles:
    return ToyVehicles(
        tmp_path_factory.mktemp("toys"), 48, 1, 1, 1, 2, ["tank", "city bus"], {"train": {"tank": [0, 1]}}, seed=3
    )


def test_planted_changes_are_what_they_claim(toys: ToyVehicles) -> None:
    photos = toys.photos("test")
    planter = RenderedPlanter(toys)
    for cause in CAUSES:
        for attempt in planter.attempts(photos, cause, 2):
            original = np.asarray(toys.read(attempt.photo))
            vehicle = np.any(list(toys.parts(attempt.photo).values()), axis=0)
            changed = np.abs(original.astype(int) - attempt.pixels.astype(int)).max(2) > 8
            if cause == "false alarm":
                assert (changed & vehicle).sum() <= 0.02 * vehicle.sum() and (changed & ~vehicle).mean() >= 0.02
            if cause == "unseen":
                assert changed.mean() > 0.1 and attempt.donor is None
            else:
                assert attempt.donor == 1 - attempt.photo.label
    first = [a.pixels for a in planter.attempts(photos, "shared", 1)]
    again = [a.pixels for a in RenderedPlanter(toys).attempts(photos, "shared", 1)]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert unseen_azimuths(toys, 0) == [2, 3, 4, 5, 6, 7] and unseen_azimuths(toys, 1) == []
    toys.close()


def test_an_attempt_succeeds_only_with_the_error_it_was_to_cause() -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    shared = Attempt("a", Photo("p", 0, "test"), "shared", 2, pixels, "")
    unseen = Attempt("b", Photo("p", 0, "test"), "unseen", None, pixels, "")
    assert [shared.succeeded(c) for c in range(3)] == [False, False, True]
    assert [unseen.succeeded(c) for c in range(3)] == [False, True, True]


def test_is_clear_wants_the_distractor_seen_and_apart_from_the_vehicle() -> None:
    clean = np.zeros((40, 40, 3), np.uint8)
    vehicle = np.zeros((40, 40), bool)
    vehicle[10:30, 20:] = True

    def with_distractor(rows: slice, columns: slice) -> bool:
        shown = np.zeros_like(vehicle)
        shown[rows, columns] = True
        changed = np.where(shown[..., None], np.uint8(200), clean)
        return is_clear(clean, changed, vehicle, shown & ~vehicle)

    assert with_distractor(slice(12, 24), slice(2, 14))
    assert not with_distractor(slice(12, 24), slice(9, 20))  # it touches the vehicle
    assert not with_distractor(slice(0, 40), slice(0, 26))  # it hides a part of it
    assert not with_distractor(slice(12, 14), slice(2, 4))  # too small to be seen
    assert not with_distractor(slice(0, 0), slice(0, 0))


def test_in_one_piece_sees_a_part_that_hangs_beside_the_vehicle() -> None:
    vehicle = np.zeros((40, 40), bool)
    vehicle[10:30, 5:20] = True
    assert in_one_piece(vehicle)
    beside = vehicle.copy()
    beside[10:20, 26:34] = True
    assert not in_one_piece(beside)
    beside[14, 20:26] = True  # an arm that holds it
    assert in_one_piece(beside)
    assert not in_one_piece(np.zeros_like(vehicle))


def test_a_distractor_is_put_where_there_is_room() -> None:
    vehicle = np.zeros((64, 64), bool)
    vehicle[:, 24:] = True
    (right, up), room = roomiest(vehicle, np.random.default_rng(0))
    assert right < -0.5 and abs(up) < 1
    assert 0.3 < room < 0.6  # 16 columns from column 8 to the vehicle, of 32
    camera = np.array([[10.0, 3.0, 4.0], [0.1, 0.0, 0.9]])
    point = point_at(camera, (right, up), 8.0)
    ahead = (camera[1] - camera[0]) / np.linalg.norm(camera[1] - camera[0])
    assert (point - camera[0]) @ ahead == pytest.approx(8)
    side = np.cross(ahead, [0, 0, 1]) / np.linalg.norm(np.cross(ahead, [0, 0, 1]))
    assert (point - camera[0]) @ side == pytest.approx(right * 8 * np.tan(np.radians(13)))
    assert point_at(camera, (0, 0.5), 8.0)[2] > point_at(camera, (0, 0), 8.0)[2]  # up is up


def test_planting_needs_rendered_photos() -> None:
    with pytest.raises(VRXError, match="toy_vehicles"):
        RenderedPlanter(object())


def errors(*kinds: tuple[int, int, str, str]) -> list[dict[str, Any]]:
    return [{"true": t, "predicted": p, "cause": c, "pose": pose} for t, p, c, pose in kinds]


def test_advice_names_cause_count_and_missing_poses() -> None:
    rows = errors(*[(0, 1, "unseen", "2")] * 3, (0, 1, "unseen", "3"), (0, 1, "unseen", "0"), (0, 1, "shared", "0"),
                  (1, 0, "false alarm", "0"))  # fmt: skip
    first, second = advise(rows, ["tank", "military"], lambda r: r["pose"], {0: ["0"] * 30, 1: ["1"] * 30})
    assert first.text == (
        "tank -> military: 5 of 6 errors from structure or viewpoint not seen in training, poses 2 and 3 missing in "
        "training: add photos of tank in those poses."
    )
    assert dict(first.missing) == {"2": 3, "3": 1}
    assert second.cause == "false alarm" and not second.missing and "background" in second.text
    assert advise([], ["tank", "military"]) == []


def test_missing_poses_and_budget() -> None:
    assert missing_poses(["a", "b", "b", "c"], ["a"] * 9 + ["c"] * 6) == {"b": 2}
    rows = errors(*[(0, 1, "unseen", "2")] * 2, (1, 0, "unseen", "3"))
    advice = advise(rows, ["x", "y"], lambda r: r["pose"], {0: ["0"], 1: ["0"]})
    assert wanted_photos(advice, 100) == {(0, "2"): 67, (1, "3"): 33}
    assert wanted_photos([], 100) == {}


def test_scores_table_and_figure() -> None:
    tested = [
        {"cause": c, "found": f, "rule": f, "gradcam": g, "majority": "shared", "of the pasted": "shared"}
        for c, f, g in (("shared", "shared", "unseen"), ("unseen", "unseen", "unseen"), ("unseen", "shared", "shared"))
    ]
    found = scores(tested)
    assert found["cause/accuracy"] == pytest.approx(2 / 3)
    assert found["cause/accuracy_majority"] == found["cause/accuracy_gradcam"] == pytest.approx(1 / 3)
    assert scores([]) == {}
    assert [row["errors"] for row in quality_table(tested)] == [3, 1, 0, 2]
    advice = advise(errors((0, 1, "unseen", "1"), (0, 1, "shared", "1")), ["a", "b"])
    figure = errors_figure(np.array([[3, 2], [0, 4]]), advice, ["a", "b"])
    marks = [t.get_text() for t in figure.axes[0].texts]
    assert {"3", "2", "0", "4"} <= set(marks) and {"S", "U"} <= set(marks)
    assert lead([], [], {}).startswith("F makes no error")


def test_told_apart_counts_the_pasted_alone_and_says_what_the_means_give_away() -> None:
    tested = [
        {"cause": c, "of the pasted": f}
        for c, f in (("shared", "shared"), ("shared", "false alarm"), ("false alarm", "false alarm"),
                     ("unseen", "shared"), ("unseen", "false alarm"))
    ]  # fmt: skip
    said = told_apart(tested)
    assert "right in 2 of 3 (" in said and "right in 4 of 5 (" in said  # all unseen and 2 of the other 3


def test_the_page_warns_where_shared_and_false_alarm_are_not_told_apart() -> None:
    def rows(right: int) -> list[dict[str, str]]:
        return [{"cause": "shared", "of the pasted": "shared" if i < right else "false alarm"} for i in range(40)]

    assert "no better than chance" in trust(rows(24)) and "no better" not in trust(rows(32))  # Wilson: 0.45 and 0.65
    assert "were not verified" in trust([])


def test_held_out_newness_is_that_against_the_other_half_of_the_class() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    features = [rng.normal(size=(40, 6)) + 5 * labels[:, None] for _ in range(DEPTHS)]
    features[-1][3] += 30  # one photo of class 0 is like no other
    found = held_out(features, labels, 3)
    assert [f.shape for f in found] == [(20, DEPTHS), (20, DEPTHS), (0, DEPTHS)]
    half = np.array([i % 2 == 0 for i in range(40)])  # every second photo of each class
    novelty = Novelty([f[half] for f in features], labels[half])
    expected = [novelty([f[i] for f in features], 0) for i in range(1, 20, 2)]
    np.testing.assert_allclose(found[0][:10], expected)
    assert found[0][:, -1].argmax() == 1 and found[0][1, -1] > 1.5  # the odd one out, the second of its half


def test_the_model_can_be_asked_about_some_causes_alone() -> None:
    learn = planted_rows(20, 0)
    model = CauseModel().fit([r["evidence"] for r in learn], [r["cause"] for r in learn], [r["photo"] for r in learn])
    unseen = [r["evidence"] for r in planted_rows(5, 1) if r["cause"] == "unseen"]
    assert {model(row, among=("shared", "false alarm")) for row in unseen} <= {"shared", "false alarm"}
    for row in unseen:
        found = model.probabilities(row)
        assert found[model(row, among=("shared", "false alarm"))] == max(found["shared"], found["false alarm"])


def test_bad_settings_are_refused() -> None:
    with pytest.raises(VRXError, match="errors_per_cause"):
        Diagnosis(errors_per_cause=1)
