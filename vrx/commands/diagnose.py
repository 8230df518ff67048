"""``diagnose.py``: a finished run and a study of the paper's sections 4.2 to 4.4.

Each leaves a table, ``metrics.json`` and a page in ``<run>/studies/<name>/``; the same command goes on where it was
interrupted.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vrx.errors import VRXError
from vrx.explain.explainer import Explainer
from vrx.pipeline import Pipeline
from vrx.runtime import CONFIG, build, build_pipeline, plain, require, script, use_local_run
from vrx.studies.core.context import StudyContext

log = logging.getLogger("vrx")


def run_config(run: Path) -> DictConfig:
    """The config that a run was made with."""
    path = run / "config.yaml"
    if not path.is_file():
        raise VRXError(f"run={run} has no config.yaml: give a folder that train.py left.")
    config = OmegaConf.load(path)
    if not isinstance(config, DictConfig) or "data" not in config:
        raise VRXError(f"{path} is damaged (it names no data): rerun train.py.")
    return config


def study_context(cfg: DictConfig) -> StudyContext:
    """Open the run: its explainer, its photos, its pipeline."""
    run = Path(str(cfg.run))
    config = OmegaConf.merge(run_config(run), {"data": cfg.data})
    assert isinstance(config, DictConfig)
    explainer = Explainer.load(run, cfg.device, cfg.method)
    if (few := explainer.builder.hypotheses) is not None:
        raise VRXError(f"run={run} has graph.hypotheses={few}: studies need a run with graphs of all classes (null).")
    source = build(config.data)
    if tuple(source.class_names) != tuple(explainer.bank.class_names):
        raise VRXError(
            f"The photos are of {', '.join(source.class_names)}, the run explains "
            f"{', '.join(explainer.bank.class_names)}: give the run's own data."
        )

    def pipeline(changes: Mapping[str, Any]) -> Pipeline:
        changed = config.copy()
        for name, value in changes.items():
            try:
                OmegaConf.update(changed, name, value)
            except OmegaConfBaseException as error:
                raise VRXError(f"{name}={value} cannot be set on this run's config: {error}") from error
        return build_pipeline(changed)

    folder = Path(str(cfg.out))
    folder.mkdir(parents=True, exist_ok=True)
    return StudyContext(explainer, source, folder, plain(cfg.study), pipeline)


def main() -> None:
    """The command line; which settings ``data`` has, the run knows and Hydra does not: any may be given."""
    sys.argv[1:] = [f"++{word}" if word.startswith("data.") else word for word in sys.argv[1:]]
    run()


@hydra.main(version_base="1.3", config_path=CONFIG, config_name="diagnose")
@script
def run(cfg: DictConfig) -> None:
    """Run one study and log what it found."""
    studies = ", ".join(sorted(path.stem for path in (Path(CONFIG) / "study").glob("*.yaml")))
    require(cfg, "run", f"give a folder that train.py left: python diagnose.py run=<run folder> study=<{studies}>")
    require(cfg, "study", f"choose one of {studies}: python diagnose.py run=<run folder> study=<name>")
    use_local_run(cfg)
    study = build(cfg.study)
    context = study_context(cfg)
    for name, value in study(context).items():
        log.info("%-32s %.4g", name, value)
    page = context.folder / "index.html"
    if page.exists():
        log.info("Open %s", page.resolve())
    else:
        log.info("What the study left is in %s", context.folder.resolve())
