"""Sweeps (``python train.py -m ...``): a trial that fails is kept and the sweep goes on; a page says what matters."""

from __future__ import annotations

import json
import logging
import math
import sys
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from vrx.errors import VRXError
from vrx.report.sweep import Trial, knobs, ranking, write_sweep
from vrx.runtime import in_multirun
from vrx.storage import json_safe, write_text

log = logging.getLogger("vrx")

FILE, PAGE = "trial.json", "sweep.html"


class Trials(Callback):
    """Hydra's callback (``hydra.callbacks``): writes ``trial.json`` for every trial and the page of all of them."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Keep what a trial reached, or why it failed, so that the next one starts; bring the page up to date."""
        if not in_multirun():
            return
        folder, number = Path(config.hydra.runtime.output_dir), int(config.hydra.job.num)
        value = job_return._return_value
        if job_return.status is JobStatus.COMPLETED and not math.isfinite(value):
            value = VRXError(f"objective={config.objective} was not measured")
        error = " ".join(str(value).split()) or type(value).__name__ if isinstance(value, Exception) else ""
        if error:
            trace = None if isinstance(value, VRXError) else value
            log.error("Trial %d failed, the sweep goes on: %s", number, error, exc_info=trace)
            job_return.status, job_return.return_value = JobStatus.FAILED, value
        given = dict(setting.lstrip("+").partition("=")[::2] for setting in config.hydra.overrides.task)
        result = {"number": number, "settings": given, "objective": math.nan if error else value, "error": error}
        write_text(folder / FILE, json.dumps(json_safe(result), indent=1))
        sweep = Path(config.hydra.sweep.dir)
        trials = trials_of(sweep)
        write_sweep(sweep / PAGE, trials, config.objective)
        if error and "optuna" not in config.hydra.sweeper._target_:  # Optuna's own sweeper knows failed trials
            job_return.status, job_return.return_value = JobStatus.COMPLETED, math.nan
        elif error and sum(bool(trial.error) for trial in trials) == config.hydra.sweeper.n_trials:
            self.on_multirun_end(config)  # but ends with a traceback where none has a result

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """A line a trial, the best first; a sweep in which one failed ends with an error."""
        sweep = Path(config.hydra.sweep.dir)
        trials = trials_of(sweep)
        varied, failed = knobs(trials), [trial for trial in trials if trial.error]
        for trial in ranking(trials):
            settings = ", ".join(f"{knob}={trial.short(knob)}" for knob in varied)
            log.info("trial %-3d %-10s %s", trial.number, trial.result, settings)
        log.info("Open %s", (sweep / PAGE).resolve())
        if failed:
            said = f"{len(failed)} of {len(trials)} trials failed (trial {failed[0].number}: {failed[0].error})"
            print(f"\nerror: {said}", file=sys.stderr, flush=True)
            sys.exit(1)


def trials_of(sweep: Path) -> list[Trial]:
    """The trials that a sweep has made so far, in their order."""
    trials = []
    for file in sweep.rglob(FILE):
        result = json.loads(file.read_text())
        metrics = file.with_name("metrics.json")
        found = json.loads(metrics.read_text()) if metrics.exists() else {}
        objective = math.nan if result["objective"] is None else result["objective"]
        seconds = found.get("time/before_training_s", math.nan)
        trials.append(Trial(result["number"], result["settings"], objective, result["error"], seconds))
    return sorted(trials, key=lambda trial: trial.number)
