"""Put a finished run to the test: ``python diagnose.py run=<run folder> study=<name> [study.key=value]``.

The studies of the paper's sections 4.2 to 4.4. Each leaves a table, ``metrics.json`` and a page in
``<run>/studies/<name>/``; the same command goes on where it was interrupted.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from vrx.errors import VRXError
from vrx.explain.explainer import Explainer
from vrx.runtime import quiet_libraries, script
from vrx.studies.core.context import StudyContext

log = logging.getLogger("vrx")


def run_config(run: Path) -> DictConfig:
    """The config that a run was made with.

    Raises:
        VRXError: the folder is not a run's.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise VRXError(f"run={run} has no config.yaml: give a folder that train.py left.")
    config = OmegaConf.load(path)
    if not isinstance(config, DictConfig) or "data" not in config:
        raise VRXError(f"{path} is damaged (it names no data): rerun train.py.")
    return config


def study_context(cfg: DictConfig) -> StudyContext:
    """Open the run: its explainer, its photos, its config."""
    run = Path(str(cfg.run))
    config = run_config(run)
    merged = OmegaConf.merge(config, {"data": cfg.data})
    assert isinstance(merged, DictConfig)
    config = merged
    explainer = Explainer.load(run, cfg.device, cfg.contributions)
    source = instantiate(config.data)
    if tuple(source.class_names) != tuple(explainer.bank.class_names):
        raise VRXError(
            f"The photos are of {', '.join(source.class_names)}, the run explains "
            f"{', '.join(explainer.bank.class_names)}: give the run's own data."
        )
    folder = Path(str(cfg.out))
    folder.mkdir(parents=True, exist_ok=True)
    return StudyContext(explainer, source, plain(config), folder, plain(cfg.study))


def plain(cfg: Any) -> dict[str, Any]:
    """A config as plain dictionaries and lists."""
    return {str(k): v for k, v in OmegaConf.to_container(cfg, resolve=True).items()}  # type: ignore[union-attr]


@hydra.main(version_base="1.3", config_path="conf", config_name="diagnose")
@script
def main(cfg: DictConfig) -> None:
    """Run one study and say what it found."""
    quiet_libraries()
    context = study_context(cfg)
    metrics = instantiate(cfg.study)(context)
    for name, value in metrics.items():
        log.info("%-32s %.4g", name, value)
    log.info("Open %s", (context.folder / "index.html").resolve())


if __name__ == "__main__":
    main()
