"""Every experiment and every option of every group composes, and what it names can be found."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException, MissingConfigException
from hydra.utils import get_class, get_method
from omegaconf import DictConfig, OmegaConf

CONF = Path(__file__).parents[1] / "conf"
TRAIN_GROUPS = (
    "data",
    "classifier",
    "concepts",
    "graph",
    "model",
    "contributions",
    "trainer",
    "callbacks",
    "logger",
    "paths",
)
EXPERIMENTS = sorted(p.stem for p in (CONF / "experiment").glob("*.yaml"))
OPTIONS = [f"{group}={p.stem}" for group in TRAIN_GROUPS for p in sorted((CONF / group).glob("*.yaml"))]
EXTRA = [f"{group}={p.stem}" for group in ("sweep", "debug") for p in sorted((CONF / group).glob("*.yaml"))]


def composed(*overrides: str, name: str = "train") -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, list(overrides))


def targets(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [str(node["_target_"])] if "_target_" in node else []
        return own + [t for value in node.values() for t in targets(value)]
    return [t for value in node for t in targets(value)] if isinstance(node, list) else []


def check(cfg: DictConfig) -> dict[str, Any]:
    """Every interpolation resolves and every ``_target_`` exists."""
    for missing in OmegaConf.missing_keys(cfg):
        assert missing in ("data.root", "data.part_names", "classifier.name", "classifier._target_"), missing
        OmegaConf.update(cfg, missing, "torch.nn.Identity")
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    for target in targets(plain):
        found = get_class(target) if target.rpartition(".")[2][0].isupper() else get_method(target)
        assert callable(found)
    return {str(k): v for k, v in plain.items()}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_composes(experiment: str) -> None:
    cfg = check(composed(f"experiment={experiment}"))
    assert cfg["name"] == experiment  # runs of two experiments never share a folder


@pytest.mark.parametrize("option", [*OPTIONS, *EXTRA])
def test_an_option_of_a_group_composes(option: str) -> None:
    check(composed(option))


def test_the_vehicles_are_the_papers_classes() -> None:
    for experiment in ("xception_vehicles", "googlenet_vehicles"):
        cfg = composed(f"experiment={experiment}", "data.root=somewhere")
        assert dict(cfg.data.known.values()) == {
            "fire engine": 555,
            "ambulance": 407,
            "school bus": 779,
            "recreational vehicle": 757,
            "beach wagon": 436,
            "jeep": 609,
        }
        assert (cfg.data.train, cfg.data.test) == (400, 900)


def test_the_papers_model_is_appendix_a() -> None:
    cfg = composed("model=paper")
    assert (cfg.model.batch_size, cfg.model.optimizer.lr) == (128, 0.01)
    assert (cfg.model.scheduler.milestones[0], cfg.model.scheduler.gamma) == (100, 0.5)
    assert dict(cfg.model.distillation.weights) == {"softmax_l1": 1.0}


def test_every_process_trainer_names_its_strategy() -> None:
    assert (composed("trainer=ddp").trainer.devices, composed("trainer=ddp").trainer.strategy) == (-1, "ddp")
    assert (composed("trainer=ddp_cpu").trainer.devices, composed("trainer=ddp_cpu").trainer.accelerator) == (2, "cpu")
    assert composed("trainer=gpu").trainer.accelerator == "gpu"
    assert composed("trainer=gpu").trainer.precision == "bf16-mixed"


def test_the_launcher_is_submitits_with_settings_that_it_knows() -> None:
    config = pytest.importorskip("hydra_plugins.hydra_submitit_launcher.config", reason="needs the extra slurm")
    ours = OmegaConf.load(CONF / "hydra" / "launcher" / "submitit_slurm.yaml")
    theirs = OmegaConf.structured(config.SlurmQueueConf)
    assert set(ours) <= set(theirs) and ours._target_ == theirs._target_


def test_hypotheses_reach_the_graphs_and_the_concepts() -> None:
    cfg = composed("graph.hypotheses=5")
    assert cfg.graph.builder.hypotheses == cfg.concepts.hypotheses == 5
    assert composed("graph.hypotheses=5", "concepts=paper").concepts.hypotheses == 5
    assert composed().graph.builder.hypotheses is None


def test_the_fast_run_is_smaller_everywhere() -> None:
    full, fast = composed(), composed("debug=fast")
    for path in (
        "trainer.max_epochs",
        "data.train",
        "data.discovery",
        "concepts.effects",
        "report.explanations",
        "report.quality",
    ):
        assert OmegaConf.select(fast, path) < OmegaConf.select(full, path), path


def test_a_key_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigCompositionException, match=r"trainer\.epochs"):
        composed("trainer.epochs=3")


@pytest.mark.parametrize(
    ("name", "override"), [("train", "debug=fats"), ("train", "sweep=grm"), ("diagnose", "study=diagnose")]
)
def test_an_option_that_there_is_not_is_refused_with_those_that_there_are(name: str, override: str) -> None:
    group, _, _ = override.partition("=")
    with pytest.raises(MissingConfigException) as error:
        composed(override, name=name)
    assert all(path.stem in str(error.value) for path in (CONF / group).glob("*.yaml"))


def test_explain_composes() -> None:
    cfg = composed("run=here", "images=there", name="explain")
    assert (cfg.out, cfg.method) == ("here/explanations", None)
