"""Every conf/study/*.yaml builds its study, and names every argument of it and nothing else."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

CONF = Path(__file__).parents[1] / "conf"
STUDIES = sorted(path.stem for path in (CONF / "study").glob("*.yaml"))


def study(name: str, *overrides: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("diagnose", [f"study={name}", "run=here", *overrides]).study


@pytest.mark.parametrize("name", STUDIES)
def test_the_yaml_names_the_arguments_of_the_class(name: str) -> None:
    cfg = study(name)
    arguments = inspect.signature(get_class(cfg._target_)).parameters
    assert set(cfg) - {"_target_", "_recursive_"} == set(arguments)
    values = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(values, dict)
    for key, argument in arguments.items():  # who reads the class and who reads the yaml see the same defaults
        if argument.default is not inspect.Parameter.empty:
            assert values[key] == argument.default, f"study.{key}"


@pytest.mark.parametrize("name", STUDIES)
def test_the_study_builds_from_its_own_keys(name: str) -> None:
    cfg = study(name)
    built = instantiate(cfg)
    assert isinstance(built, get_class(cfg._target_)) and callable(built)


@pytest.mark.parametrize(
    ("name", "override", "attribute"),
    [
        ("logic_consistency", "study.max_edits=3", "max_edits"),
        ("sensitivity", "study.tries=3", "tries"),
        ("diagnosis", "study.trials=3", "trials"),
        ("dataset_fix", "study.planted=3", "planted"),
    ],
)
def test_a_setting_of_the_command_line_arrives(name: str, override: str, attribute: str) -> None:
    assert getattr(instantiate(study(name, override)), attribute) == 3
