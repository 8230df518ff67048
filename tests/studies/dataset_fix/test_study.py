"""The arithmetic of the dataset fix against scipy, its pools of poses, and its logic on planted cases."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from tests import planted
from vrx.data.ilab20m import ILab20M
from vrx.data.images import Photo
from vrx.errors import VRXError
from vrx.explain.explainer import Explainer
from vrx.graphs.scg import SCGBuilder
from vrx.models.grn import GRN
from vrx.studies.core.context import StudyContext
from vrx.studies.core.records import Records
from vrx.studies.dataset_fix.page import gain_figure, lead
from vrx.studies.dataset_fix.poses import PosePool, ilab_pool, pose_name, toy_pool
from vrx.studies.dataset_fix.study import DatasetFix
from vrx.studies.diagnosis.diagnoser import Diagnoser
from vrx.studies.diagnosis.gains import accuracy, advice_scores, diagnosis_scores, gains, said
from vrx.studies.diagnosis.planting import CAUSES
from vrx.studies.diagnosis.recommendation import advise, wanted_photos

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


def test_unseen_errors_ask_for_their_poses_where_another_cause_is_more_frequent() -> None:
    def error(predicted: int, cause: str, pose: str) -> dict[str, Any]:
        return {"true": 0, "predicted": predicted, "cause": cause, "pose": pose}

    rows = [error(1, "shared", "2"), error(1, "shared", "3"), error(1, "unseen", "3"), *[error(2, "unseen", "2")] * 2]
    unseen, shared = advise(rows[3:] + rows[:3], ["a", "b", "c"], lambda row: row["pose"], {0: ["0"] * 9})[::-1]
    assert (shared.cause, dict(shared.missing), dict(unseen.missing)) == ("shared", {"3": 1}, {"2": 2})
    assert shared.text.startswith("a -> b: 2 of 3 errors from concepts that both classes share: add photos in which")
    assert shared.text.endswith("Another 1 from structure or viewpoint not seen in training, pose 3 missing in "
                                "training: add photos of a in that pose.")  # fmt: skip
    assert wanted_photos([shared, unseen], 90) == {(0, "3"): 30, (0, "2"): 60}


def test_gains_without_spread() -> None:
    same = {name: [0.5, 0.5] for name in ("base", "setting1", "setting2")}
    assert gains(same)["gain/p_value"] == 1 and gains(same)["gain/setting1"] == 0
    line = gain_figure({name: np.array(values) for name, values in same.items()})
    assert len(line.axes[0].lines) == 3  # two seeds and the mean


def test_said() -> None:
    names = ["bus", "military", "tank"]
    assert said([[2, "2", 5], [0, "0", 3]], names) == "5 tank in pose 2, 3 bus in pose 0"
    assert said([], names) == "none"


def test_accuracy_counts_right_answers_in_any_pose() -> None:
    answers = np.zeros((2, 3, 2), int)
    answers[0, :, 0], answers[1, 1, 1], answers[1, 2, 0] = 2, 1, 3  # 6 right; 1 right and 3 wrong
    assert accuracy(answers) == pytest.approx(7 / 10)


def test_advice_is_compared_with_what_is_missing() -> None:
    own, poses = ["0", "1", "2"], ["0", "1", "2"]  # six pairs are missing
    assert advice_scores({(0, "1"), (2, "0"), (2, "2")}, own, poses) == pytest.approx((2 / 3, 2 / 6))
    precision, recall = advice_scores(set(), own, poses)
    assert np.isnan(precision) and recall == 0
    errors = [
        {"true": 0, "pose": "1", "cause": "unseen"},
        {"true": 0, "pose": "2", "cause": "shared"},
        {"true": 1, "pose": "1", "cause": "shared"},
    ]
    assert diagnosis_scores(errors, own) == {"unseen/missing_poses": 0.5, "unseen/old_poses": 0.0}
    assert diagnosis_scores(errors[:2], own) == {"unseen/missing_poses": 0.5}


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


def test_calibration_plants_every_cause_into_every_class_alike(tmp_path: Path) -> None:
    pool = toy_pool(tmp_path, 32, 0, 2, 1, 2, 1, {"city bus": 2, "tank": 0})
    probe = pool.even("probe", 2, np.random.default_rng(0))

    class Counting:
        def __init__(self) -> None:
            self.fitted: list[dict[str, Any]] = []

        def right(self, photos: list[Photo], records: Any) -> list[Photo]:
            assert len(photos) == 4 and all(pose_name(pool.source, p) == pool.own[p.label] for p in photos)
            return photos

        def planted(self, _planter: Any, photos: list[Photo], cause: str, wanted: int, *_: Any) -> list[dict[str, Any]]:
            return [{"cause": cause, "true": photos[0].label}] * wanted

        def calibrate(self, rows: list[dict[str, Any]]) -> None:
            self.fitted = rows

    diagnoser: Any = Counting()
    study = DatasetFix({}, {}, {}, planted=4)
    counts = study._calibrate(diagnoser, pool, probe, Records(tmp_path / "records.jsonl", "key"), 0)
    assert counts == dict.fromkeys(CAUSES, 4)
    made = Counter((row["cause"], row["true"]) for row in diagnoser.fitted)
    assert made == {(cause, label): 2 for cause in CAUSES for label in (0, 1)}


class Planned(DatasetFix):
    """Fitting and explaining replaced: F is the set of (class, pose) that its training showed."""

    def __init__(self, wanted: list[tuple[int, str, int]], **changed: Any) -> None:
        options = {"train": 2, "added": 2, "probe": 1, "test": 1, "explained": 1, "seeds": 2, "poses": POSES}
        super().__init__({}, {}, {}, **{**options, **changed})
        self.wanted, self.fits, self.diagnosed = wanted, [], 0
        self.killed_at = ""

    def _fitted(self, pool: PosePool, cache: Path, name: str, photos: list[Photo], seed: int) -> Any:
        if f"{seed} {name}" == self.killed_at:
            raise KeyboardInterrupt
        self.fits.append((name, seed, [(p.label, pose_name(pool.source, p)) for p in photos]))
        return {(p.label, pose_name(pool.source, p)) for p in photos}

    def _diagnosed(self, *args: Any, **kwargs: Any) -> Any:
        self.diagnosed += 1
        error = {"photo": "", "true": 2, "predicted": 1, "pose": POSES["bus"], "cause": "unseen"}
        errors = [error] * len(self.wanted)
        return {"errors": errors, "advice": ["add"] * len(errors), "wanted": self.wanted, "calibration": {}}


def answers_by_seen(seen: set[tuple[int, str]], pool: PosePool, photos: list[Photo]) -> Any:
    """Right where training showed the class in that pose; the next class otherwise."""
    counts = np.zeros((3, 3, 3), int)
    for photo in photos:
        pose = str(pose_name(pool.source, photo))
        answer = photo.label if (photo.label, pose) in seen else (photo.label + 1) % 3
        counts[photo.label, pool.poses.index(pose), answer] += 1
    return counts


@pytest.fixture
def known_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vrx.studies.dataset_fix.study.answers_of", answers_by_seen)


def context_of(tree: Path, folder: Path, explainer: Any = None, **settings: Any) -> StudyContext:
    folder.mkdir(exist_ok=True)
    plain: Any = SimpleNamespace(
        classifier=SimpleNamespace(fingerprint="f"), bank=SimpleNamespace(digest="b"),
        grn=SimpleNamespace(state_dict=dict), method="knockout", editor=SimpleNamespace(settings=dict),
    )  # fmt: skip
    return StudyContext(explainer or plain, ilab(tree), {"model": MODEL}, folder, {"seeds": 2, **settings})


ASKED = [(2, "c03-r02", 1), (2, "c05-r00", 1)]


@pytest.mark.usefixtures("known_answers")
def test_setting_1_adds_what_is_recommended_and_setting_2_the_same_classes_in_the_old_pose(
    tree: Path, tmp_path: Path
) -> None:
    study = Planned(ASKED)
    metrics = study(context_of(tree, tmp_path / "out"))
    by_name = {name: photos for name, seed, photos in study.fits if seed == 0}
    base = sorted((c, pose) for c, pose in enumerate(POSES.values()) for _ in range(2))
    assert sorted(by_name["base"]) == base
    assert sorted(by_name["setting1"]) == sorted([*base, (2, "c03-r02"), (2, "c05-r00")])
    assert sorted(by_name["setting2"]) == sorted([*base, (2, "c07-r05"), (2, "c07-r05")])
    assert metrics["accuracy/base"] == pytest.approx(3 / 9)
    assert metrics["gain/setting1"] == pytest.approx(2 / 9) and metrics["gain/setting2"] == 0
    assert metrics["advice/precision"] == 1 and metrics["advice/recall"] == pytest.approx(2 / 6)
    assert metrics["unseen/missing_poses"] == 1 and metrics["errors/mean"] == 2
    page = (tmp_path / "out" / "index.html").read_text()
    assert "22.2 points" in page and page.count("<img") == 2
    assert (tmp_path / "out" / "results.csv").read_text().count("\n") == 3


@pytest.mark.usefixtures("known_answers")
def test_a_killed_study_goes_on_where_it_was_and_a_finished_one_can_be_widened(tree: Path, tmp_path: Path) -> None:
    whole = Planned(ASKED)(context_of(tree, tmp_path / "whole"))
    killed = Planned(ASKED)
    killed.killed_at = "1 setting1"
    with pytest.raises(KeyboardInterrupt):
        killed(context_of(tree, tmp_path / "out"))
    resumed = Planned(ASKED)
    assert resumed(context_of(tree, tmp_path / "out")) == whole
    assert [(name, seed) for name, seed, _ in resumed.fits] == [("setting1", 1), ("setting2", 1)]
    assert resumed.diagnosed == 0
    wider = Planned(ASKED, seeds=3)
    wider(context_of(tree, tmp_path / "out", seeds=3))
    assert {seed for _, seed, _ in wider.fits} == {2} and wider.diagnosed == 1


@pytest.mark.usefixtures("known_answers")
def test_no_errors_means_nothing_added_and_nothing_gained(tree: Path, tmp_path: Path) -> None:
    study = Planned([])
    metrics = study(context_of(tree, tmp_path / "out"))
    assert {name for name, _, _ in study.fits} == {"base"}
    assert metrics["gain/setting1"] == 0 and metrics["gain/p_value"] == 1
    assert metrics["advice/recall"] == 0 and "advice/precision" not in metrics


@pytest.mark.usefixtures("known_answers")
def test_photos_without_poses_and_bad_settings_are_refused(tree: Path, tmp_path: Path) -> None:
    context = context_of(tree, tmp_path / "out")
    with pytest.raises(VRXError, match="pose is known"):
        Planned([])(StudyContext(context.explainer, object(), {}, context.folder, {}))  # type: ignore[arg-type]
    with pytest.raises(VRXError, match=r"study\.seeds=1"):
        Planned([], seeds=1)


MODEL = {
    "batch_size": 8,
    "grn": {"_target_": "", "node_widths": [8, 8], "edge_widths": [4, 4]},
    "optimizer": {"_target_": "", "_partial_": True, "lr": 0.01, "weight_decay": 0.0},
    "distillation": {"weights": {"softmax_l1": 1.0}},
}


def view(label: int, pose: int, seed: int) -> Image.Image:
    """A big grey bar whose place is the pose, a disc in the colour of the class, on noise."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 130, (64, 64, 3)).astype(np.uint8)
    pixels[:, 8 + 20 * pose : 16 + 20 * pose] = 250
    y, x = np.mgrid[:64, :64]
    pixels[(y - rng.integers(16, 48)) ** 2 + (x - rng.integers(16, 48)) ** 2 < 81] = planted.COLOURS[label]
    return Image.fromarray(pixels)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You have overridden .transfer_batch_to_device.")
def test_the_whole_study_on_files_named_as_in_ilab20m(
    tmp_path: Path, builder: SCGBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "ilab"
    root.mkdir()
    for label, name in enumerate(("bus", "mil", "tank")):
        for toy in range(8):
            for place, pose in enumerate(POSES.values()):
                for light in range(5):
                    file = f"{name}-i{toy:04d}-b0001-{pose}-l{light}-f1.png"
                    view(label, place, 1000 * label + 100 * toy + 10 * place + light).save(root / file)
    monkeypatch.setattr(Diagnoser, "cause", lambda self, row: "unseen")  # the advice is then known
    settings = {
        "classifier": {"name": "timm/test_resnet", "pretrained": False, "input_size": 64, "resize": "none"},
        "fit": {"epochs": 2, "batch_size": 8, "lr": 0.003, "weight_decay": 0.01, "label_smoothing": 0.0, "workers": 0},
        "concepts": {"num_concepts": 3, "clusters": 4, "min_patches": 1},
        "seeds": 2, "train": 6, "added": 4, "probe": 3, "test": 3, "explained": 6, "epochs": 2, "poses": POSES,
    }  # fmt: skip
    explainer = Explainer(
        builder.classifier, builder, GRN(3, builder.num_nodes, builder.node_features), builder.editor, "knockout", {}
    )
    context = context_of(root, tmp_path / "out", explainer, **settings)
    metrics = DatasetFix(**settings)(context)  # type: ignore[arg-type]
    records = [json.loads(line) for line in (context.folder / "records.jsonl").read_text().splitlines()]
    by_name = {record["name"]: record["value"] for record in records}
    assert len(by_name) == len(records) == 8  # base, diagnosis, setting 1 and 2, of two seeds
    for seed in range(2):
        diagnosis, base = by_name[f"seed {seed} diagnosis"], np.array(by_name[f"seed {seed} base"]["answers"])
        assert base.sum() == 27 and base.sum(2).min() == base.sum(2).max() == 3
        missing = [e for e in diagnosis["errors"] if e["pose"] != list(POSES.values())[e["true"]]]
        assert missing, "F never saw these poses"
        assert {(e["true"], e["pose"]) for e in missing} == {(c, pose) for c, pose, _ in diagnosis["wanted"]}
        assert sum(count for _, _, count in diagnosis["wanted"]) == 4
    right = [np.trace(np.array(by_name[f"seed {seed} setting1"]["answers"]).sum(1)) / 27 for seed in range(2)]
    assert metrics["accuracy/setting1"] == pytest.approx(np.mean(right))
    assert (context.folder / "index.html").read_text().count("<img") == 2
    (context.folder / "records.jsonl").unlink()  # what is made of photos is kept apart from what is counted
    for made in ("pipeline._distil", "pipeline.ConceptDiscovery.__call__"):
        monkeypatch.setattr(f"vrx.studies.{made}", lambda *args: pytest.fail("made twice"))
    monkeypatch.setattr("vrx.models.classification.Trainer.fit", lambda *args: pytest.fail("fitted twice"))
    assert DatasetFix(**settings)(context) == metrics  # type: ignore[arg-type]
