"""The arithmetic of the dataset fix against scipy, its pools of poses, and the study on planted classifiers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from tests import planted
from vrx.api import default_pipeline
from vrx.concepts.discovery import ConceptDiscovery
from vrx.data.ilab20m import ILab20M
from vrx.data.sources import PhotoSource
from vrx.errors import VRXError
from vrx.pipeline import Pipeline
from vrx.studies.core.context import StudyContext
from vrx.studies.core.records import Records
from vrx.studies.dataset_fix.gains import accuracy, advice_scores, diagnosis_scores, gains
from vrx.studies.dataset_fix.page import gain_figure, lead
from vrx.studies.dataset_fix.poses import Sizes, listed_pool, rendered_pool
from vrx.studies.dataset_fix.study import DatasetFix, Repetition
from vrx.studies.diagnosis.causes import ERROR_CAUSES

POSES = {"bus": "c03-r02", "military": "c05-r00", "tank": "c07-r05"}
CODES = {name: number for number, name in enumerate((*POSES.values(), "c00-r01"))}


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
    """Files named as in iLab-20M, four poses of eight toys a class; red and green tell the class and the pose."""
    folder = tmp_path / "views"
    folder.mkdir()
    for label, name in enumerate(("bus", "mil", "tank")):
        for toy in range(8):
            for pose, code in CODES.items():
                for light in range(2):
                    file = f"{name}-i{toy:04d}-b0001-{pose}-l{light}-f1.png"
                    Image.new("RGB", (20, 20), (label * 60, code * 60, 10 * toy + light)).save(folder / file)
    return folder


def ilab(tree: Path) -> ILab20M:
    return ILab20M(tree, discovery=1, train=4, val=1, test=4)


def test_listed_photos_have_the_poses_asked_for_and_no_toy_in_two_roles(tree: Path) -> None:
    pool = listed_pool(ilab(tree).whole(), POSES)
    rng = np.random.default_rng(0)
    toys = {}
    for role in ("train", "probe", "test"):
        photos = pool.even(role, 1, rng)
        assert sorted(pool.source.pose_name(p) for p in photos) == sorted([*POSES.values()] * 3)
        every = [p for label in range(3) for pose in pool.poses for p in pool.of(role, label, pose)]
        toys[role] = {tuple(Path(p.path).name.split("-")[:2]) for p in every}
    assert not toys["train"] & (toys["probe"] | toys["test"]) and not toys["probe"] & toys["test"]
    with pytest.raises(VRXError, match=r"999 wanted"):
        pool.draw("train", 0, "c03-r02", 999, rng)
    with pytest.raises(VRXError, match=r"study\.poses"):
        listed_pool(ilab(tree), {"bus": "c03-r02"})


def test_rendered_photos_have_the_pose_and_class_asked_for(tmp_path: Path) -> None:
    pool = rendered_pool(tmp_path, Sizes(2, 1, 1, 1, 32), 0, {"city bus": 2, "tank": 0})
    rng = np.random.default_rng(0)
    (photo,) = pool.draw("train", 1, "2", 1, rng)  # a tank in the bus' pose
    assert pool.source.truth(photo)["class"] == "tank" and pool.source.pose_name(photo) == "2"  # type: ignore[attr-defined]
    assert len(pool.draw("train", 1, "0", 3, rng)) == 3  # its own pose: train + added
    assert len(pool.even("test", 1, rng)) == 4


class SeenClassifier:
    """Right on a class in the poses in which training showed it; elsewhere it predicts the next class."""

    version = "planted"
    device = torch.device("cpu")

    def __init__(self, source: PhotoSource) -> None:
        self.seen = Counter(tuple(self.transform(source.read(p)).tolist()) for p in source.photos("train"))

    @staticmethod
    def transform(image: Image.Image) -> torch.Tensor:
        return torch.tensor([channel // 60 for channel in image.getpixel((0, 0))[:2]])  # type: ignore[index]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        labels = [label if (label, code) in self.seen else (label + 1) % 3 for label, code in x.tolist()]
        return torch.nn.functional.one_hot(torch.tensor(labels), 3).float()


class SeenPipeline:
    """Fits classifiers by what they are shown; ``killed_at`` fits end in Ctrl-C."""

    def __init__(self, killed_at: int = 99) -> None:
        self.fits: list[tuple[int, Counter[Any]]] = []
        self.killed_at = killed_at

    def __call__(self, changes: Mapping[str, Any]) -> Any:
        return SimpleNamespace(classifier=lambda settings, source: self.fit(int(changes["seed"]), source))

    def fit(self, seed: int, source: PhotoSource) -> SeenClassifier:
        if len(self.fits) == self.killed_at:
            raise KeyboardInterrupt
        made = SeenClassifier(source)
        self.fits.append((seed, made.seen))
        return made


def context_of(tree: Path, folder: Path, pipeline: Any, **settings: Any) -> StudyContext:
    folder.mkdir(exist_ok=True)
    explainer: Any = SimpleNamespace(
        classifier=SimpleNamespace(version="f"), bank=SimpleNamespace(digest="b"),
        grn=SimpleNamespace(state_dict=dict), method="knockout", editor=SimpleNamespace(settings=dict),
    )  # fmt: skip
    return StudyContext(explainer, ilab(tree), folder, {"seeds": 2, **settings}, pipeline)


ASKED = [[2, "c03-r02", 1], [2, "c05-r00", 1]]
SIZES = {"train": 2, "added": 2, "probe": 1, "test": 1, "explained": 1, "poses": POSES}


@pytest.fixture
def diagnosed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds that were diagnosed; the diagnosis asks for the tank in the poses of the others."""
    seeds: list[int] = []

    def planned(self: Repetition) -> dict[str, Any]:
        self.fitted("base", self.train)
        seeds.append(self.seed)
        error = {"photo": "", "true": 2, "predicted": 0, "pose": POSES["bus"], "cause": "unseen"}
        return {"errors": [error] * 2, "advice": ["add"], "wanted": ASKED}

    monkeypatch.setattr(Repetition, "diagnosed", planned)
    return seeds


@pytest.mark.usefixtures("diagnosed")
def test_setting_1_adds_what_is_asked_for_and_setting_2_the_same_classes_in_the_old_pose(
    tree: Path, tmp_path: Path
) -> None:
    pipeline = SeenPipeline()
    metrics = DatasetFix({}, {}, {}, seeds=2, **SIZES)(context_of(tree, tmp_path / "out", pipeline))  # type: ignore[arg-type]
    base, explained, setting1, setting2 = (dict(seen) for seed, seen in pipeline.fits if seed == 0)
    assert base == explained == {(0, 0): 2, (1, 1): 2, (2, 2): 2}
    assert setting1 == {**base, (2, 0): 1, (2, 1): 1}, "the poses that the diagnosis asks for"
    assert setting2 == {**base, (2, 2): 4}, "as many of the same class, in its old pose"
    assert metrics["accuracy/base"] == pytest.approx(3 / 9), "each class is known in one pose of three"
    assert metrics["gain/setting1"] == pytest.approx(2 / 9) and metrics["gain/setting2"] == 0
    assert metrics["advice/precision"] == 1 and metrics["advice/recall"] == pytest.approx(2 / 6)
    page = (tmp_path / "out" / "index.html").read_text()
    assert "22.2 points" in page and page.count("<img") == 2
    assert (tmp_path / "out" / "results.csv").read_text().count("\n") == 3


def test_a_killed_study_goes_on_where_it_was_and_a_finished_one_can_be_widened(
    tree: Path, tmp_path: Path, diagnosed: list[int]
) -> None:
    def study(folder: str, pipeline: SeenPipeline, seeds: int = 2) -> dict[str, float]:
        made = DatasetFix({}, {}, {}, seeds=seeds, **SIZES)  # type: ignore[arg-type]
        return made(context_of(tree, tmp_path / folder, pipeline, seeds=seeds))

    whole = study("whole", SeenPipeline())
    with pytest.raises(KeyboardInterrupt):
        study("out", SeenPipeline(killed_at=5))
    diagnosed.clear()
    resumed = SeenPipeline()
    assert study("out", resumed) == whole
    assert {seed for seed, _ in resumed.fits} == {1} and diagnosed == [1], "the first seed was finished"
    wider = SeenPipeline()
    study("out", wider, seeds=3)
    assert {seed for seed, _ in wider.fits} == {2} and diagnosed == [1, 2]


def test_what_cannot_be_studied_is_refused(tree: Path, tmp_path: Path) -> None:
    context = context_of(tree, tmp_path / "out", None)
    with pytest.raises(VRXError, match=r"needs the pipeline of a run"):
        DatasetFix({}, {}, {}, seeds=2, **SIZES)(context)  # type: ignore[arg-type]
    with pytest.raises(VRXError, match="pose is known"):
        DatasetFix({}, {}, {})(StudyContext(context.explainer, object(), context.folder, {}))  # type: ignore[arg-type]
    with pytest.raises(VRXError, match=r"study\.seeds=1"):
        DatasetFix({}, {}, {}, seeds=1)


def test_calibration_plants_every_cause_into_every_class_alike(tmp_path: Path) -> None:
    study = DatasetFix({}, {}, {}, seeds=2, train=2, added=1, probe=2, test=1, planted=4, size=32)
    pool = rendered_pool(tmp_path, Sizes(2, 1, 2, 1, 32), 0, {"city bus": 2, "tank": 0})
    context: Any = SimpleNamespace(pipeline=lambda changes: None, folder=tmp_path)
    repetition = Repetition(study, context, pool, Records(tmp_path / "records.jsonl", "key"), 0)
    fitted: list[dict[str, Any]] = []

    def right(photos: Any, records: Any) -> Any:
        assert len(photos) == 4 and all(pool.source.pose_name(p) == pool.own[p.label] for p in photos)
        return photos

    def planting(planter: Any, records: Any) -> Any:
        return lambda photos, cause, wanted, trials: [{"cause": cause, "true": photos[0].label}] * wanted

    diagnoser: Any = SimpleNamespace(right=right, planting=planting, calibrate=fitted.extend, explainer=None)
    repetition.calibrate(diagnoser, Records(tmp_path / "records.jsonl", "key"))
    made = Counter((row["cause"], row["true"]) for row in fitted)
    assert made == {(cause, label): 2 for cause in ERROR_CAUSES for label in (0, 1)}


def view(label: int, pose: int, seed: int) -> Image.Image:
    """A big grey bar whose place is the pose, a disc in the colour of the class, on noise."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 130, (64, 64, 3)).astype(np.uint8)
    pixels[:, 8 + 20 * pose : 16 + 20 * pose] = 250
    y, x = np.mgrid[:64, :64]
    pixels[(y - rng.integers(16, 48)) ** 2 + (x - rng.integers(16, 48)) ** 2 < 81] = planted.COLOURS[label]
    return Image.fromarray(pixels)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_whole_study_on_files_named_as_in_ilab20m(tmp_path: Path) -> None:
    root = tmp_path / "ilab"
    root.mkdir()
    for label, name in enumerate(("bus", "mil", "tank")):
        for toy in range(8):
            for place, pose in enumerate(POSES.values()):
                for light in range(5):
                    file = f"{name}-i{toy:04d}-b0001-{pose}-l{light}-f1.png"
                    view(label, place, 1000 * label + 100 * toy + 10 * place + light).save(root / file)
    built: list[Path] = []

    def pipeline(changes: Mapping[str, Any]) -> Pipeline:
        cache = Path(str(changes["paths.cache_dir"]))
        built.append(cache)
        made = default_pipeline(cache, epochs=2, num_concepts=3, device="cpu", seed=int(changes["seed"]))
        extractor = planted.make_extractor()
        parts = (extractor.segmenter, extractor.attention, extractor.encoder, made.discovery.editor)
        found = ConceptDiscovery(*parts, num_concepts=3, clusters=4, min_patches=1)
        return Pipeline(**{**vars(made), "discovery": found})

    classifier = {"_target_": "vrx.classifier.networks.named_network", "name": "timm/test_resnet", "pretrained": False}
    fit = {"epochs": 2, "batch_size": 8, "lr": 0.003, "workers": 0}
    study = DatasetFix(
        {**classifier, "input_size": 64}, fit, {}, seeds=2, train=6, added=4, probe=3, test=3, explained=6, poses=POSES
    )
    context = context_of(root, tmp_path / "out", pipeline)
    metrics = study(context)
    records = [json.loads(line) for line in (context.folder / "records.jsonl").read_text().splitlines()]
    by_name = {record["name"]: record["value"] for record in records}
    own = list(POSES.values())
    for seed in range(2):
        diagnosis = by_name[f"seed {seed} diagnosis"]
        base = np.array(by_name[f"seed {seed} base"]["predictions"])
        assert base.sum() == 27 and base.sum(2).min() == base.sum(2).max() == 3
        unseen = {(e["true"], e["pose"]) for e in diagnosis["errors"] if e["cause"] == "unseen"}
        missing = {(c, pose) for c, pose in unseen if pose != own[c]}
        assert {(c, pose) for c, pose, _ in diagnosis["wanted"]} == missing, "what is asked for is what was not seen"
        assert sum(count for _, _, count in diagnosis["wanted"]) == (4 if missing else 0)
    assert 0.1 < metrics["accuracy/base"] < 1 and (context.folder / "index.html").exists()
    assert len(built) == 2 and all((cache / "classifiers").is_dir() and (cache / "grn").is_dir() for cache in built)
