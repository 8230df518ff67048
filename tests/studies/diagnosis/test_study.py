"""The whole study on a small world: with errors, without any, with photos of one class, and with nothing to see."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vrx.data.images import Photo, PhotoFolder
from vrx.errors import VRXError
from vrx.explain.explainer import Explainer
from vrx.graphs.scg import SCGBuilder
from vrx.models.grn import GRN
from vrx.studies.core.context import StudyContext
from vrx.studies.core.records import Records
from vrx.studies.diagnosis.cause_model import classes
from vrx.studies.diagnosis.causes import ERROR_CAUSES
from vrx.studies.diagnosis.diagnoser import Diagnoser
from vrx.studies.diagnosis.evidence import EVIDENCE
from vrx.studies.diagnosis.planting import Change, Planter
from vrx.studies.diagnosis.study import Diagnosis


class Relabelled:
    """The photos of the small world; those of ``val`` as the test wants them."""

    def __init__(self, source: PhotoFolder, val: list[Photo]) -> None:
        self._source, self._val = source, val
        self.class_names = source.class_names

    def photos(self, split: str) -> list[Photo]:
        return self._val if split == "val" else self._source.photos(split)

    def read(self, photo: Photo) -> Image.Image:
        return self._source.read(photo)

    def settings(self) -> dict[str, Any]:
        return {}


@pytest.fixture(scope="module")
def explainer(builder: SCGBuilder) -> Explainer:
    torch.manual_seed(0)
    return Explainer(builder.classifier, builder, GRN(3, builder.num_nodes, builder.node_features), builder.editor)


def study(explainer: Explainer, source: Any, folder: Path) -> dict[str, float]:
    return Diagnosis(split="val", plant=False, examples=2)(StudyContext(explainer, source, folder, {"seed": 0}))


def test_errors_get_a_cause_a_page_and_evidence_and_are_not_explained_twice(
    explainer: Explainer, source: PhotoFolder, tmp_path: Path
) -> None:
    photos = source.photos("val")
    wrong = [Photo(p.path, (p.label + 1) % 3, "val") for p in photos[:2]]
    Image.fromarray(np.full((64, 64, 3), 128, np.uint8)).save(tmp_path / "grey.png")  # predicted as class 0: its bias
    wrong.append(Photo(str(tmp_path / "grey.png"), 2, "val"))
    metrics = study(explainer, Relabelled(source, wrong + photos[2:]), tmp_path)
    assert metrics["errors/total"] == 3
    assert sum(metrics[f"errors/{c.replace(' ', '_')}"] for c in ERROR_CAUSES) == 3
    rows = json.loads((tmp_path / "results.json").read_text())
    assert all(set(EVIDENCE) <= set(row) and row["cause"] in ERROR_CAUSES for row in rows)
    (nothing,) = [row for row in rows if row["photo"].endswith("grey.png")]
    assert nothing["patches"] <= 1 and 0 < nothing["entropy of the classes"] <= np.log(3)
    page = (tmp_path / "index.html").read_text()
    assert "were not verified" in page and page.count("<img") == 3  # the confusion matrix and two examples
    before = (tmp_path / "records.jsonl").read_text()
    assert study(explainer, Relabelled(source, wrong + photos[2:]), tmp_path) == metrics
    assert (tmp_path / "records.jsonl").read_text() == before


@pytest.mark.parametrize("label", [None, 1])
def test_no_error_at_all_and_photos_of_one_class(
    explainer: Explainer, source: PhotoFolder, tmp_path: Path, label: int | None
) -> None:
    photos = [p for p in source.photos("val") if label in (None, p.label)]
    metrics = study(explainer, Relabelled(source, photos), tmp_path)
    assert metrics["errors/total"] == 0 and "cause/accuracy" not in metrics
    assert "The classifier makes no error" in (tmp_path / "index.html").read_text()
    assert json.loads((tmp_path / "results.json").read_text()) == []


def test_a_run_of_one_class_is_refused(explainer: Explainer, tmp_path: Path) -> None:
    alone = SimpleNamespace(class_names=["berry"])
    with pytest.raises(VRXError, match="two or more"):
        study(explainer, alone, tmp_path)


def planted(explainer: Explainer, source: PhotoFolder, folder: Path, **settings: Any) -> dict[str, float]:
    some = {"errors_per_cause": 3, "calibration_errors": 4, "trials": 3, "examples": 0, **settings}
    return Diagnosis(split="val", **some)(StudyContext(explainer, source, folder, {"seed": 0}))


@pytest.mark.parametrize("distractors", [5, 0])
def test_no_class_gives_the_cause_away(explainer: Explainer, distractors: int) -> None:
    """Distractors fool the classifier beside class 1 alone, or nowhere; parts of another class in two photos of it."""

    class Three(Planter):
        kind, method = "three", ""

        def plant(self, *_: Any) -> None:
            return None

        def errors(self, photos: Any, cause: str, wanted: int, trials: int, *_: Any, **__: Any) -> list[dict[str, Any]]:
            most = {"false alarm": distractors, "shared": 2, "unseen": 99}[cause]
            labels = [p.label for p in photos if cause != "false alarm" or p.label == 1]
            return [
                {"true": label, "photo": str(k), "cause": cause} for k, label in enumerate(labels[: min(wanted, most)])
            ]

    photos = [Photo(str(number), number % 3, "val") for number in range(30)]
    rows = Diagnoser(explainer, None).planted(Three(explainer, None), Records.__new__(Records), photos, 4, 1)
    counts = Counter((row["cause"], row["true"]) for row in rows)
    if distractors:
        assert counts == {(cause, 1): 2 for cause in ERROR_CAUSES}
    else:  # none of them anywhere: the others alone, of every class
        assert counts == {(cause, label): 2 for cause in ("shared", "unseen") for label in range(3)}


def test_causes_are_planted_into_photos_and_the_diagnosis_is_measured_on_them(
    explainer: Explainer, source: PhotoFolder, tmp_path: Path
) -> None:
    metrics = planted(explainer, source, tmp_path, plant=True)
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    made = [r["name"].split() for r in records if r["name"].startswith("planted pasted") and r["value"]]
    assert {" ".join(words[3:-1]) for words in made} <= set(ERROR_CAUSES) and len(made) >= 6
    page = (tmp_path / "index.html").read_text()
    assert "Such causes are artificial" in page and "Between shared and false alarm alone" in page
    before = (tmp_path / "records.jsonl").read_text()
    assert planted(explainer, source, tmp_path, plant=True) == metrics
    assert (tmp_path / "records.jsonl").read_text() == before


@pytest.mark.parametrize(("permuted", "low", "high"), [(False, 0.85, 1.0), (True, 0.1, 0.6)])
def test_accuracy_is_that_on_errors_whose_cause_shows_in_the_evidence(
    explainer: Explainer,
    source: PhotoFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    permuted: bool,
    low: float,
    high: float,
) -> None:
    rng = np.random.default_rng(0)

    def plant(
        self: Planter, photos: list[Photo], cause: str, wanted: int, trials: int, **_: Any
    ) -> list[dict[str, Any]]:
        """Each cause moves one number by four standard deviations; permuted, the number of any cause."""
        rows = []
        for number in range(wanted):
            shown = str(rng.choice(ERROR_CAUSES)) if permuted else cause
            evidence = {name: float(rng.normal()) for name in EVIDENCE}
            evidence[EVIDENCE[ERROR_CAUSES.index(shown)]] += 4
            own = {photo.label for photo in photos}
            label = own.pop() if len(own) == 1 else number % 3
            named = {"true": label, "classes": classes(label, (label + 1) % 3, 3)}
            rows.append({"evidence": evidence, **named, "photo": str(number), "cause": cause})
        return rows

    monkeypatch.setattr(Planter, "errors", plant)
    metrics = planted(explainer, source, tmp_path, plant=True, errors_per_cause=30, calibration_errors=40)
    assert low <= metrics["cause/accuracy"] <= high
    assert metrics["cause/accuracy_gradcam"] < 0.55  # noise
    assert metrics["cause/accuracy_classes"] == pytest.approx(1 / 3), "as many errors of each class from every cause"
    assert metrics["cause/accuracy_classes_low"] == pytest.approx(0.2445, abs=1e-4)  # Wilson, 30 of 90


def test_the_rule_decides_where_too_little_can_be_planted(
    explainer: Explainer, source: PhotoFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Change, "succeeded", lambda self, label, predicted: False)
    metrics = planted(explainer, source, tmp_path, trials=1)
    assert "cause/accuracy" not in metrics and "were not verified" in (tmp_path / "index.html").read_text()
    with pytest.raises(VRXError, match="Too few planted errors"):
        planted(explainer, source, tmp_path, trials=1, plant=True)
