"""Sweeps: a failed trial is kept and the others go on, by grid and by Optuna; W&B's sweep file calls train.py."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir

from tests.pipeline import Finished, finished_run, run_train
from vrx.explain.explainer import SPEC
from vrx.sweep import FILE, PAGE, trials_of

CONF = Path(__file__).parents[1] / "conf"
SETS = "model.distillation.variants_per_step"  # the default loss terms need all variants of a photo: 3 is refused


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finished_run(tmp_path_factory.getbasetemp() / "finished")


def sweep(finished: Finished, name: str, capsys: pytest.CaptureFixture[str], *overrides: str) -> tuple[Path, str]:
    """A sweep of which a trial fails: its folder, and the one line with which it ends."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        run_train("-m", *finished.overrides, f"name={name}", *overrides)
    assert exit_.value.code == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    (folder,) = (finished.home / "runs" / name).glob("sweep_*")
    return folder, line


@pytest.mark.slow
def test_a_grid_goes_on_after_a_failed_trial(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    folder, line = sweep(finished, "grid", capsys, f"{SETS}=3,0", "model.optimizer.lr=0.004,0.01")
    assert line.startswith(f"error: 2 of 4 trials failed (trial 0: {SETS}=3: ")
    bad, worse, good, better = trials_of(folder)
    assert "Use 0" in bad.error and "Use 0" in worse.error and math.isnan(bad.objective)
    metrics = json.loads((folder / "2" / "metrics.json").read_text())
    assert good.objective == metrics["objective"] == metrics["val/objective"]
    assert good.before_training == metrics["time/before_training_s"] < 5 and better.before_training < 5
    assert [(folder / str(k) / SPEC).exists() for k in range(4)] == [False, False, True, True]
    assert all((folder / str(k) / "config.yaml").exists() for k in range(4))  # what failed can be looked at
    assert better.settings["model.optimizer.lr"] == "0.01" and better.settings[SETS] == "0"
    page = (folder / PAGE).read_text()
    assert "4 trials" in page and "2 failed" in page and "model.optimizer.lr" in page


@pytest.mark.slow
def test_optuna_goes_on_after_a_failed_trial(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="pip install 'vrx[sweep]'")
    sampled = ["sweep=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.sampler.seed=3"]
    folder, line = sweep(finished, "optuna", capsys, *sampled, f"{SETS}=choice(0,3)")
    trials = trials_of(folder)
    failed = [trial for trial in trials if trial.error]
    assert len(trials) == 3 and 0 < len(failed) < 3
    assert line.startswith(f"error: {len(failed)} of 3 trials failed")
    assert {trial.settings[SETS] for trial in failed} == {"3"}
    rates = [float(trial.settings["model.optimizer.lr"]) for trial in trials]
    assert len(set(rates)) == 3 and all(0.0005 <= rate <= 0.02 for rate in rates)
    best = yaml.safe_load((folder / "optimization_results.yaml").read_text())
    assert best["best_value"] == max(trial.objective for trial in trials if not trial.error)
    _, line = sweep(finished, "none", capsys, *sampled, f"{SETS}=choice(3,5)")
    assert line.startswith("error: 3 of 3 trials failed")


@pytest.mark.slow
def test_an_objective_that_was_not_measured_is_a_failed_trial(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, line = sweep(finished, "unmeasured", capsys, "objective=nothing", "seed=0")
    assert "objective=nothing was not measured" in line
    assert (folder / "0" / FILE).exists()


def test_wandbs_sweep_calls_train_with_settings_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    file = yaml.safe_load((CONF / "wandb_sweep.yaml").read_text())
    chosen: dict[str, Any] = {
        name: {"value": how["values"][-1] if "values" in how else how["max"]}
        for name, how in file["parameters"].items()
    }
    words = utils.create_sweep_command_args({"args": chosen})  # as W&B's agent makes them
    entry, rest = utils.make_launch_sweep_entrypoint(words, file["command"])
    assert [word for word in entry if not word.startswith("${")] == ["logger=wandb"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*rest, "logger=wandb"])
    assert cfg.model.optimizer.lr == file["parameters"]["model.optimizer.lr"]["max"]
    assert cfg.model.grn.width == 96
    assert file["metric"] == {"name": "objective", "goal": "maximize"}
