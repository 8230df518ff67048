"""Advice where the right one is known."""

from __future__ import annotations

from typing import Any

from vrx.data.images import Photo
from vrx.studies.diagnosis.recommendation import advise, missing_poses, wanted_photos


class ByName:
    """The pose of a photo is the name of its file."""

    def pose_name(self, photo: Photo) -> str:
        return photo.path


def errors(*kinds: tuple[int, int, str, str]) -> list[dict[str, Any]]:
    return [{"true": t, "predicted": p, "cause": c, "photo": pose, "split": "test"} for t, p, c, pose in kinds]


def training(poses: dict[int, list[str]]) -> list[Photo]:
    return [Photo(pose, label, "train") for label, some in poses.items() for pose in some]


def test_advice_names_cause_count_and_missing_poses() -> None:
    rows = errors(*[(0, 1, "unseen", "2")] * 3, (0, 1, "unseen", "3"), (0, 1, "unseen", "0"), (0, 1, "shared", "0"),
                  (1, 0, "false alarm", "0"))  # fmt: skip
    first, second = advise(rows, ["tank", "military"], ByName(), training({0: ["0"] * 30, 1: ["1"] * 30}))
    assert first.text == (
        "tank -> military: 5 of 6 errors from structure or viewpoint not seen in training, poses 2 and 3 missing in "
        "training: add photos of tank in those poses."
    )
    assert dict(first.missing) == {"2": 3, "3": 1}
    assert second.profile["false alarm"] == 1 and not second.missing and "background" in second.text
    assert advise([], ["tank", "military"]) == []


def test_missing_poses_and_budget() -> None:
    assert missing_poses(["a", "b", "b", "c"], ["a"] * 9 + ["c"] * 6) == {"b": 2}
    rows = errors(*[(0, 1, "unseen", "2")] * 2, (1, 0, "unseen", "3"))
    advice = advise(rows, ["x", "y"], ByName(), training({0: ["0"], 1: ["0"]}))
    assert wanted_photos(advice, 100) == {(0, "2"): 67, (1, "3"): 33}
    assert wanted_photos([], 100) == {}
