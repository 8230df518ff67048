"""What the scripts share: how a command ends, what is logged where, and what a failed run leaves."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from vrx.errors import VRXError
from vrx.machine import device_of
from vrx.runtime import Run, build, check_config, running, script


def config(**changes: object) -> DictConfig:
    plain = {
        "name": "test",
        "objective": "val/objective",
        "trainer": {"accelerator": "cpu"},
        "logger": {"_target_": "vrx.runtime.no_logger"},
    }
    return OmegaConf.create({**plain, **changes})


def ended(error: BaseException) -> object:
    @script
    def main(cfg: DictConfig) -> None:
        raise error

    with pytest.raises(SystemExit) as exit_:
        main(config())
    return exit_.value.code


def test_an_error_that_can_be_mended_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(VRXError("depth=7: use 3")) == 1
    assert capsys.readouterr().err.strip() == "error: depth=7: use 3"


def test_a_setting_that_must_be_given_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    @script
    def main(cfg: DictConfig) -> None:
        Path(cfg.run)

    with pytest.raises(SystemExit) as exit_:
        main(OmegaConf.create({"run": "???"}))
    assert exit_.value.code == 1
    assert capsys.readouterr().err.strip().startswith("error: run is not given: add run=<value>")


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err.strip().count("\n") == 0


def test_lightnings_answer_to_ctrl_c_counts_as_ctrl_c() -> None:
    exit_ = SystemExit(1)
    exit_.__context__ = KeyboardInterrupt()
    assert ended(exit_) == 130
    assert ended(SystemExit(3)) == 3


def test_a_bug_keeps_its_traceback() -> None:
    @script
    def main(cfg: DictConfig) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main(config())


def test_an_object_of_the_config_says_what_is_wrong_itself() -> None:
    with pytest.raises(VRXError, match=r"^Unknown fill 'paint'"):
        build({"_target_": "vrx.edits.Editor", "fill": "paint"})
    with pytest.raises(InstantiationException):
        build({"_target_": "operator.truediv", "_args_": [1, 0]})


def test_what_would_fail_late_is_refused_early() -> None:
    check_config(config())
    with pytest.raises(VRXError, match=r"data\.root, data\.seed must be given: add data\.root=\.\.\."):
        check_config(config(data={"root": "???", "seed": "???"}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_f_computes_where_the_trainer_does() -> None:
    assert device_of("auto") == device_of("cpu") == torch.device("cpu")
    with pytest.raises(VRXError, match="trainer=cpu"):
        device_of("gpu")


def test_metrics_are_numbers_or_null(tmp_path: Path) -> None:
    with running(config(objective="val/objectiv"), tmp_path / "run") as run:
        run.log({"fidelity/l1": 0.25, "faithfulness/spearman": float("nan")})
        with run.stage("nothing"):
            pass
        run.write_metrics()
        assert run.objective != run.objective  # not a number: it was not measured
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (found["fidelity/l1"], found["faithfulness/spearman"]) == (0.25, None)
    assert 0 <= found["time/nothing_s"] < 60


def test_a_wrong_objective_is_named_with_the_nearest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(config(objective="val/objectiv"), tmp_path)
    run.log({"val/objective": 1.0})
    with caplog.at_level(logging.WARNING, "vrx"):
        assert run.objective != 1.0
    assert "val/objectiv is not in metrics.json; nearest: val/objective" in caplog.text


def test_a_run_refused_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.log").touch()  # Hydra's
    with pytest.raises(VRXError), running(config(), tmp_path / "run") as run:
        assert (run.folder / "config.yaml").exists()
        raise VRXError("no")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_held_something_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(VRXError), running(config(), tmp_path):
        raise VRXError("no")
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_an_interrupted_run_keeps_its_log(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), running(config(), tmp_path / "run"):
        raise KeyboardInterrupt
    assert (tmp_path / "run" / "config.yaml").exists()


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    csv = {"_target_": "pytorch_lightning.loggers.CSVLogger", "name": "", "version": ""}
    with running(config(logger=csv), tmp_path / "run") as run:
        run.log({"a": 1.0})
        run.write_metrics()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_commands_start_without_a_warning() -> None:
    code = "import vrx.commands.diagnose, vrx.commands.explain, vrx.commands.train, vrx.dashboard"
    started = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert started.stderr == ""
