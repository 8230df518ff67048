"""Causes planted into toy vehicles by rendering are what they claim."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.studies.planted import PlantedExplainer
from vrx.data.toys.vehicles import ToyVehicles
from vrx.studies.diagnosis.causes import ERROR_CAUSES
from vrx.studies.diagnosis.planting import Change
from vrx.studies.diagnosis.planting_rendered import (
    RenderedPlanter,
    in_one_piece,
    is_clear,
    point_at,
    roomiest,
)


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> ToyVehicles:
    return ToyVehicles(
        tmp_path_factory.mktemp("toys"), 48, 1, 1, 1, 2, ["tank", "city bus"], {"train": {"tank": [0, 1]}}, seed=3
    )


def test_planted_changes_are_what_they_claim(toys: ToyVehicles) -> None:
    photos = toys.photos("test")
    explainer = PlantedExplainer()
    planter = RenderedPlanter(explainer, toys)  # type: ignore[arg-type]
    for cause in ERROR_CAUSES:
        for _, photo, rng in planter.attempts(photos, cause, 2):
            attempt = planter.plant(photo, cause, rng)
            if attempt is None:
                continue
            original = np.asarray(toys.read(photo))
            vehicle = np.any(list(toys.parts(photo).values()), axis=0)
            changed = np.abs(original.astype(int) - explainer.pixels(attempt.x).astype(int)).max(2) > 8
            if cause == "false alarm":
                assert (changed & vehicle).sum() <= 0.02 * vehicle.sum() and (changed & ~vehicle).mean() >= 0.02
            if cause == "unseen":
                assert changed.mean() > 0.1 and attempt.donor is None
            else:
                assert attempt.donor == 1 - photo.label
    made = [[planter.plant(p, "shared", rng) for _, p, rng in planter.attempts(photos, "shared", 1)] for _ in range(2)]
    pairs = [(a.x, b.x) for a, b in zip(*made, strict=True) if a is not None and b is not None]
    assert pairs and all(torch.equal(a, b) for a, b in pairs)
    assert toys.unseen_azimuths(0) == [2, 3, 4, 5, 6, 7] and toys.unseen_azimuths(1) == []


def test_an_attempt_succeeds_only_with_the_error_it_was_to_cause() -> None:
    shared, unseen = Change(torch.zeros(3, 2, 2), 2), Change(torch.zeros(3, 2, 2), None)
    assert [shared.succeeded(0, c) for c in range(3)] == [False, False, True]
    assert [unseen.succeeded(0, c) for c in range(3)] == [False, True, True]


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
