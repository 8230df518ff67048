"""``diagnose.py`` on a finished run, and on what is no run, no study and no setting of one."""

import json
import shutil
from pathlib import Path

import pytest

import diagnose
from tests.pipeline import Finished, finished_run, refused, run_diagnose

STUDIES = "dataset_fix, diagnosis, logic_consistency, sensitivity"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finished_run(tmp_path_factory.getbasetemp() / "finished")


@pytest.mark.slow
@pytest.mark.parametrize("study", ["logic_consistency", "sensitivity"])
def test_a_study_of_a_run_leaves_its_table_and_page(study: str, finished: Finished, tmp_path: Path) -> None:
    run_diagnose(f"run={finished.folder}", f"study={study}", f"out={tmp_path}/out", "study.max_edits=2")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics and all(isinstance(value, float) for value in metrics.values())
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<h1>" in page and "http://" not in page.replace("http://www.w3.org", "")
    assert (tmp_path / "out" / "results.csv").exists()
    before = (tmp_path / "out" / "records.jsonl").read_text()
    run_diagnose(f"run={finished.folder}", f"study={study}", f"out={tmp_path}/out", "study.max_edits=2")
    assert (tmp_path / "out" / "records.jsonl").read_text() == before, "nothing is measured twice"


@pytest.mark.slow
def test_the_runs_own_data_may_lie_elsewhere_now(finished: Finished, tmp_path: Path) -> None:
    moved = shutil.copytree(finished.photos, tmp_path / "moved")
    words = ("study=logic_consistency", "study.max_edits=1", f"out={tmp_path}/out")
    run_diagnose(f"run={finished.folder}", *words, f"data.root={moved}", "+data.test=null")
    records = (tmp_path / "out" / "records.jsonl").read_text()
    assert str(moved) in records and f"{finished.photos}/" not in records


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["study=logic_consistency", "study.max_edits=0"], ["study.max_edits=0", "at least 1"]),
        (["study=sensitivity", "data.root=/moved/away"], ["/moved/away", "data.root"]),
        (["study=sensitivity", "method=shap"], ["method='shap'", "knockout and gradient"]),
        ([], ["study is not given", STUDIES]),
    ],
)
def test_bad_settings_are_one_line(
    overrides: list[str], said: list[str], finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, diagnose, f"run={finished.folder}", f"out={tmp_path}/out", *overrides)
    for words in said:
        assert words in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["study=sensitivity"], "run is not given"),
        (["study=sensitivity", "run=/no/run"], "run=/no/run has no config.yaml"),
    ],
)
def test_a_run_must_be_given(overrides: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refused(capsys, diagnose, *overrides)


@pytest.mark.slow
def test_photos_of_other_classes_are_refused(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, name in zip(sorted((finished.photos / "train").iterdir()), ("x", "y", "z"), strict=True):
        shutil.copytree(folder, tmp_path / "photos" / "train" / name)
        shutil.copytree(finished.photos / "val" / folder.name, tmp_path / "photos" / "val" / name)
    line = refused(
        capsys, diagnose, f"run={finished.folder}", "study=sensitivity", f"data.root={tmp_path}/photos",
        f"out={tmp_path}/out",
    )  # fmt: skip
    assert "x, y, z" in line and "the run's own data" in line
