"""Weights & Biases: curves on axes of their own, the table of photos, relations, and runs opened from artifacts."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import wandb

from tests import wandb_reader
from tests.report.synthetic import make_explanation
from vrx.errors import VRXError
from vrx.tracking import PHOTOS, artifact_name, local_run, logged_in, photo_row, wandb_logger

KEY = "0123456789" * 4


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is logged in, and what W&B sets in the environment is undone."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))


def test_a_key_is_looked_for_where_login_puts_it(nobody: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not logged_in()
    (tmp_path / "none").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    (tmp_path / "none").chmod(0o600)
    assert logged_in()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not logged_in()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert logged_in()


@pytest.mark.filterwarnings("ignore")
def test_offline_every_stage_has_its_own_axis_and_says_so_in_one_line(
    nobody: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "vrx"):
        logger = wandb_logger(str(tmp_path / "logs"), project="vrx")
    (record,) = [r for r in caplog.records if r.name == "vrx"]
    assert "offline" in record.getMessage() and "wandb sync" in record.getMessage()
    for epoch, (accuracy, loss) in enumerate([(0.5, 2.0), (0.9, 1.0), (0.7, 1.5)]):
        logger.log_metrics({"fit/val_accuracy": accuracy, "fit/val_loss": loss, "epoch": epoch}, step=7 * epoch)
    for epoch, objective in enumerate([1.5, 1.75, 1.25]):
        logger.log_metrics({"val/objective": objective, "val/l1": 2 - objective, "epoch": epoch}, step=3 * epoch)
    logger.log_metrics({"val/objective": 1.75, "fidelity/l1": 0.25})  # the best, and what is measured once
    logger.experiment.finish()
    found = wandb_reader.records(tmp_path / "logs")
    axis = {m["name"]: m.get("step_metric") for m in wandb_reader.of(found, "metric") if "name" in m}
    assert axis["fit/val_accuracy"] == axis["fit/val_loss"] == "fit/epoch"
    assert axis["val/objective"] == axis["val/l1"] == "distillation/epoch"
    rows = wandb_reader.rows(found)
    curve = [(row["distillation/epoch"], row["val/objective"]) for row in rows if "val/objective" in row]
    assert curve == [(0, 1.5), (1, 1.75), (2, 1.25)]  # the best value of the run is no fourth point
    assert [row["fit/epoch"] for row in rows if "fit/val_loss" in row] == [0, 1, 2]
    kept = wandb_reader.summary(found)
    assert (kept["val/objective"], kept["fidelity/l1"]) == (1.75, 0.25)
    assert (kept["fit/val_accuracy"]["max"], kept["fit/val_loss"]["min"], kept["val/l1"]["min"]) == (0.9, 1.0, 0.25)


def test_a_folder_that_cannot_be_written_is_one_line(nobody: None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(VRXError, match=r"file/logs cannot be written .*paths\.runs_dir.*logger=csv"):
        wandb_logger(str(tmp_path / "file" / "logs"), project="vrx")


def test_a_photo_is_a_row_to_sort_and_filter() -> None:
    one = make_explanation()
    row = dict(zip(PHOTOS, photo_row(one), strict=True))
    names = one.class_names
    assert row["classifier"] == names[one.predicted] and row["probability"] == one.probabilities.max()
    assert row["why"].startswith(f"Why {names[one.predicted]}?")
    wanted = one.shown()[1] if one.true_class in (None, one.predicted) else one.true_class
    assert row["why not"].startswith(f"Why not {names[wanted]}")
    assert row["trust"] in ("high", "limited", "low")
    assert row["faithfulness"] is None if np.isnan(one.trust) else row["faithfulness"] == one.trust


# --- explain.py run=<artifact>


class Server:
    """A W&B server that has the artifacts of one run, as files on this machine."""

    def __init__(self, artifacts: list[dict[str, Any]]) -> None:
        self.artifacts, self.asked = artifacts, list[str]()

    def __call__(self, **_: Any) -> Any:
        def artifact(name: str) -> Any:
            self.asked.append(name)
            known = {f"me/vrx/{a['name']}:latest" for a in self.artifacts}
            if name not in known:
                raise wandb.errors.CommError(f"artifact '{name}' not found")
            return SimpleNamespace(logged_by=lambda: run)

        run = SimpleNamespace(
            entity="me", project="vrx", id="abc", logged_artifacts=lambda: [self._made(a) for a in self.artifacts]
        )
        return SimpleNamespace(artifact=artifact)

    @staticmethod
    def _made(artifact: dict[str, Any]) -> Any:
        def download(root: str) -> None:
            for entry in artifact["manifest"]["contents"]:
                target = Path(root) / entry["path"]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(Path(entry["local_path"]).read_bytes())

        return SimpleNamespace(type=artifact["type"], download=download)


def artifact_of(kind: str, file: Path, inside: str) -> dict[str, Any]:
    file.write_text(kind)
    contents = [{"path": inside, "local_path": str(file)}]
    return {"name": artifact_name(kind, "toys"), "type": kind, "manifest": {"contents": contents}}


def test_all_that_a_run_keeps_is_downloaded_from_any_of_its_artifacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    parts = {"classifier": "checkpoints/classifier.safetensors", "concept-bank": "concepts/bank.json",
             "grn": "explainer.json"}  # fmt: skip
    served = [artifact_of(kind, tmp_path / kind, inside) for kind, inside in parts.items()]
    served.append(artifact_of("run_table", tmp_path / "table", "table.json"))
    monkeypatch.setattr(wandb, "Api", Server(served))
    folder = local_run("me/vrx/concept-bank-toys:latest", tmp_path / "cache")
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == set(parts.values())
    with pytest.raises(VRXError, match=r"grn-other:v7 could not be read from W&B \(artifact .* not found\)"):
        local_run("me/vrx/grn-other:v7", tmp_path / "cache")
    monkeypatch.setattr(wandb, "Api", Server(served[:2]))
    with pytest.raises(VRXError, match="has no grn"):
        local_run("me/vrx/classifier-toys:latest", tmp_path / "cache")


def test_a_folder_is_never_asked_for_and_nobody_logged_in_is_one_line(
    nobody: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb, "Api", lambda **_: pytest.fail("asked W&B"))
    monkeypatch.chdir(tmp_path)
    Path("runs/a:b").mkdir(parents=True)
    assert local_run("runs/a:b", tmp_path) == Path("runs/a:b")
    assert local_run("runs/not-there", tmp_path) == Path("runs/not-there")
    with pytest.raises(VRXError, match="wandb login"):
        local_run("me/vrx/grn-toys:latest", tmp_path)
