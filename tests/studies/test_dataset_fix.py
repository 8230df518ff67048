"""The arithmetic of the dataset fix against scipy, its pools of poses, and its logic on planted cases."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from vrx.data.ilab20m import ILab20M
from vrx.data.images import Photo
from vrx.structures import VRXError
from vrx.studies import StudyContext
from vrx.studies.dataset_fix import DatasetFix, gain_figure, gains, lead, said
from vrx.studies.poses import PosePool, ilab_pool, pose_name, toy_pool
from vrx.studies.recommendation import Advice

POSES = {"bus": "c03-r02", "military": "c05-r00", "tank": "c07-r05"}


def test_gains_agree_with_scipy() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(0.4, 0.6, 5)
    accuracy = {"base": base, "setting1": base + rng.uniform(0.1, 0.4, 5), "setting2": base + rng.normal(0, 0.02, 5)}
    found = gains(accuracy)
    gain = accuracy["setting1"] - base
    low, high = stats.t.interval(0.95, 4, loc=gain.mean(), scale=stats.sem(gain))
    assert found["gain/setting1"] == pytest.approx(gain.mean())
    assert (found["gain/setting1_low"], found["gain/setting1_high"]) == pytest.approx((low, high))
    assert found["gain/p_value"] == pytest.approx(stats.ttest_rel(accuracy["setting1"], accuracy["setting2"]).pvalue)
    assert "5 seeds" in lead(found, 135, 5)


def test_gains_without_spread() -> None:
    same = {name: [0.5, 0.5] for name in ("base", "setting1", "setting2")}
    assert gains(same)["gain/p_value"] == 1 and gains(same)["gain/setting1"] == 0
    line = gain_figure({name: np.array(values) for name, values in same.items()})
    assert len(line.axes[0].lines) == 3  # two seeds and the mean


def test_said() -> None:
    assert said([["tank", "2", 5], ["bus", "0", 3]]) == "5 tank in pose 2, 3 bus in pose 0"
    assert said([]) == "none"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """File names of iLab-20M: three classes, eight toys each, three poses of the study and one other."""
    for name in ("bus", "mil", "tank"):
        for toy in range(8):
            for pose in (*POSES.values(), "c00-r01"):
                for light in range(2):
                    file = f"{name}-i{toy:04d}-b0001-{pose}-l{light}-f1.jpg"
                    Image.new("RGB", (20, 20), (toy * 10, light * 90, 50)).save(tmp_path / file)
    return tmp_path


def ilab(tree: Path) -> ILab20M:
    return ILab20M(tree, discovery=1, train=4, val=1, test=4)


def test_ilab_pool_has_the_poses_asked_for_and_no_toy_in_two_roles(tree: Path) -> None:
    pool = ilab_pool(ilab(tree), POSES)
    rng = np.random.default_rng(0)
    toys = {}
    for role in ("train", "probe", "test"):
        photos = pool.even(role, 1, rng)
        assert sorted(pose_name(pool.source, p) for p in photos) == sorted([*POSES.values()] * 3)
        every = [p for label in range(3) for pose in pool.poses for p in pool._photos[role, label, pose]]
        toys[role] = {tuple(Path(p.path).name.split("-")[:2]) for p in every}
    assert not toys["train"] & (toys["probe"] | toys["test"]) and not toys["probe"] & toys["test"]
    with pytest.raises(VRXError, match=r"999 wanted"):
        pool.draw("train", 0, "c03-r02", 999, rng)
    with pytest.raises(VRXError, match=r"study\.poses"):
        ilab_pool(ilab(tree), {"bus": "c03-r02"})


def test_toy_pool_draws_the_pose_and_class_asked_for(tmp_path: Path) -> None:
    pool = toy_pool(tmp_path, 32, 0, 2, 1, 1, 1, {"city bus": 2, "tank": 0})
    rng = np.random.default_rng(0)
    (photo,) = pool.draw("train", 1, "2", 1, rng)  # a tank in the bus' pose
    assert pool.source.truth(photo)["class"] == "tank" and pose_name(pool.source, photo) == "2"
    assert len(pool.draw("train", 1, "0", 3, rng)) == 3  # its own pose: train + added
    assert len(pool.even("test", 1, rng)) == 4


class Planned(DatasetFix):
    """Fitting and explaining replaced: a training set is as accurate as it shows poses; one tank pose is wrong."""

    def __init__(self, advice: list[Advice], **changed: Any) -> None:
        options = {"train": 2, "added": 2, "probe": 1, "test": 1, "explained": 1, "seeds": 2, "poses": POSES}
        super().__init__({}, {}, {}, **{**options, **changed})
        self.advice, self.fits = advice, []

    def _fitted(self, pool: PosePool, cache: Path, name: str, photos: list[Photo], seed: int) -> Any:
        self.fits.append((name, seed, [(p.label, pose_name(pool.source, p)) for p in photos]))
        return len({(p.label, pose_name(pool.source, p)) for p in photos}) / 9

    def _diagnosed(self, *args: Any, **kwargs: Any) -> Any:
        return self.advice, [{"cause": "unseen"}] * len(self.advice)


def context_of(tree: Path, folder: Path) -> StudyContext:
    folder.mkdir(exist_ok=True)
    grn = SimpleNamespace(state_dict=dict)
    explainer: Any = SimpleNamespace(
        classifier=SimpleNamespace(fingerprint="f"), bank=SimpleNamespace(digest="b"), grn=grn, method="knockout",
        editor=SimpleNamespace(settings=dict),
    )  # fmt: skip
    return StudyContext(explainer, ilab(tree), {"model": {}}, folder, {"seeds": 2})


def test_setting_1_adds_what_is_recommended_and_setting_2_the_same_classes_in_the_old_pose(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vrx.studies.dataset_fix.accuracy_of", lambda share, pool, photos: share)
    advice = [Advice(2, 1, {}, "unseen", {"c03-r02": 1, "c05-r00": 1}, "add tanks")]
    study = Planned(advice)
    metrics = study(context_of(tree, tmp_path / "out"))
    by_name = {name: photos for name, seed, photos in study.fits if seed == 0}
    base = sorted((c, pose) for c, pose in enumerate(POSES.values()) for _ in range(2))
    assert sorted(by_name["base"]) == base
    assert sorted(by_name["setting1"]) == sorted([*base, (2, "c03-r02"), (2, "c05-r00")])
    assert sorted(by_name["setting2"]) == sorted([*base, (2, "c07-r05"), (2, "c07-r05")])
    assert metrics["accuracy/base"] == pytest.approx(3 / 9)
    assert metrics["gain/setting1"] == pytest.approx(2 / 9) and metrics["gain/setting2"] == 0
    assert (tmp_path / "out" / "index.html").exists() and (tmp_path / "out" / "results.csv").exists()
    resumed = Planned(advice)
    assert resumed(context_of(tree, tmp_path / "out")) == metrics and not resumed.fits


def test_no_errors_means_nothing_added_and_nothing_gained(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vrx.studies.dataset_fix.accuracy_of", lambda share, pool, photos: share)
    study = Planned([])
    metrics = study(context_of(tree, tmp_path / "out"))
    assert [name for name, _, _ in study.fits] == ["base", "base"]
    assert metrics["gain/setting1"] == 0 and metrics["gain/p_value"] == 1


def test_photos_without_poses_and_bad_settings_are_refused(tree: Path, tmp_path: Path) -> None:
    context = context_of(tree, tmp_path / "out")
    with pytest.raises(VRXError, match="pose is known"):
        Planned([])(StudyContext(context.explainer, object(), {}, context.folder, {}))  # type: ignore[arg-type]
    with pytest.raises(VRXError, match=r"study\.seeds=1"):
        Planned([], seeds=1)
