"""The documentation names what exists: links, files, modules, settings, metrics."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import vrx
from tests import planted
from vrx.bank import ConceptBank
from vrx.concepts.purity import METRICS
from vrx.data.images import PhotoFolder
from vrx.edits import Editor
from vrx.explain.contributions import GradientTimesEmbedding, Knockout
from vrx.explain.faithfulness import evaluation
from vrx.explain.grn_metrics import grn_metrics
from vrx.models.grn import GRN
from vrx.report.good_values import GOOD

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "benchmarks" / "README.md", *sorted(ROOT.glob("docs/*.md"))]
CODE = [ROOT / f"vrx/{path}" for path in ("commands/train.py", "pipeline.py", "runtime.py", "models/classification.py")]


def heading_anchors(page: Path) -> set[str]:
    """As GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_every_public_name_is_there() -> None:
    assert {name: getattr(vrx, name).__name__ for name in vrx.__all__} == {name: name for name in vrx.__all__}


def test_the_page_of_the_api_has_every_public_name() -> None:
    assert sorted(re.findall(r"^::: vrx\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)) == sorted(
        vrx.__all__
    )


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert built.returncode == 0, built.stderr
    pages = {page.stem: page.read_text() for page in tmp_path.glob("*.html")}
    assert {"index", "terms", "metrics", "tutorial", "api", "changelog"} <= set(pages)
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= set(pages)
    for name, text in pages.items():
        assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"']?(?:https?:)?//[^>]*>", text), name
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"url\([\"']?https?:|@import", style.read_text()), style.name
    assert "Raises" in pages["api"] and "Spearman" in pages["metrics"]


def test_the_page_of_metrics_has_the_bounds_that_train_prints() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z_/0-9]+)` \| ([≥≤→] \S+) \|", text, re.MULTILINE))
    bounds = {n: f"{sign} `{b}`" if isinstance(b, str) else f"{sign} {b:g}" for n, (sign, b, _) in GOOD.items()}
    assert rows == bounds


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in heading_anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_module_named_exists(page: Path) -> None:
    text = re.sub(r"^## 0\.1\.0.*", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for name in re.findall(r"`((?:vrx|conf|tests|docs|scripts|benchmarks)/[\w./-]*)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`(vrx(?:\.\w+)+)", text):
        module, attributes = name, []
        while not (ROOT / f"{module.replace('.', '/')}.py").exists() and not (ROOT / module.replace(".", "/")).is_dir():
            module, _, attribute = module.rpartition(".")
            attributes.insert(0, attribute)
        found: Any = importlib.import_module(module)
        for attribute in attributes:
            found = getattr(found, attribute)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_of_a_group_named_exists(page: Path) -> None:
    groups = [p.relative_to(ROOT / "conf").as_posix() for p in (ROOT / "conf").rglob("*") if p.is_dir()]
    own = re.findall(r"^# my_conf/(.*)/(.*)\.yaml$", page.read_text(), re.MULTILINE)  # of an example on the page
    for group, option in re.findall(r"(?<![\w./])([a-z]+(?:/[a-z]+)*)=(\w+)(?![\w(])", page.read_text()):
        if group in groups and (group, option) not in own:
            assert (ROOT / "conf" / group / f"{option}.yaml").exists(), f"{group}={option}"


def settings(node: Any, prefix: str = "") -> set[str]:
    """The full name of every setting of a config."""
    if not isinstance(node, dict):
        return set()
    return {prefix + k for k in node}.union(*(settings(v, f"{prefix}{k}.") for k, v in node.items()))


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Every setting of the defaults, the data sets, the classifiers and the studies."""
    options = {group: [p.stem for p in (ROOT / "conf" / group).glob("*.yaml")] for group in ("data", "classifier")}
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        made = [compose("train", [f"{group}={name}"]) for group, names in options.items() for name in names]
        made += [compose("train", ["concepts=paper"])]
        made += [compose("diagnose", [f"study={p.stem}"]) for p in (ROOT / "conf" / "study").glob("*.yaml")]
    return set().union(*(settings(OmegaConf.to_container(cfg)) for cfg in made))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_named_exists(page: Path, known: set[str]) -> None:
    text = page.read_text().partition("Renamed settings")[0].replace("study.key=value", "")
    groups = "data|classifier|concepts|graph|model|trainer|report|paths|study"
    named = set(re.findall(rf"(?<![\w./'$])((?:{groups})(?:\.(?!md\b)[a-z_]+)+)(?![\w(/])", text))
    assert not named - known - {"data.tables"}  # that is an attribute in Python


def test_the_deviations_give_the_defaults() -> None:
    text = " ".join((ROOT / "docs" / "deviations.md").read_text().split())
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        toys = compose("train", ["experiment=toy_arrangements"])
        plain, paper = compose("train"), compose("train", ["concepts=paper"])
    optimizer = plain.model.optimizer
    assert f"AdamW {optimizer.lr} with weight decay {optimizer.weight_decay}, one cycle" in text
    assert f"{plain.trainer.max_epochs} epochs (toy arrangements: {toys.trainer.max_epochs})" in text
    assert f"dropout {plain.model.grn.dropout} in the hidden layers" in text
    assert f"up to N = {plain.concepts.num_concepts}" in text
    assert f"{100 * paper.concepts.radius_quantile:.0f} % quantile" in text


def test_the_page_of_metrics_covers_those_of_a_run(
    source: PhotoFolder, bank: ConceptBank, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cells = re.findall(r"^\| (`[a-z]+/.*?) \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    patterns = [re.sub(r"<\w+>", r"[\\w/]+", name) for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    data = planted.make_data(source, bank, tmp_path_factory.mktemp("cache"), second_editor=Editor("grey"), variants=0)
    data.setup()
    val, test = data.tables["val"], data.tables["test"]
    torch.manual_seed(0)
    grn = GRN(*test["nodes"].shape[1:])
    methods = {"gradient": GradientTimesEmbedding(), "knockout": Knockout()}
    _, metrics = evaluation(grn, val, test, methods)
    metrics |= grn_metrics(grn, test, methods["gradient"])
    written = {
        n
        for path in CODE
        for n in re.findall(r'"((?:concepts|skipped|throughput|time|fit)/[\w{}]+)"', path.read_text())
    }
    metrics |= dict.fromkeys([f"concepts/{name}" for name in ("significant", *METRICS)])
    names = set(metrics) | {re.sub(r"{\w+}", "x", name) for name in written - {"concepts/{name}"}}  # that is a picture
    assert len(names) > 30
    missing = [name for name in sorted(names) if not any(re.fullmatch(pattern, name) for pattern in patterns)]
    assert not missing
    unused = [
        p
        for p in patterns
        if p.startswith(("fidelity", "faithfulness", "grn", "concepts", "skipped", "time"))
        and not any(re.fullmatch(p, name) for name in names)
    ]
    assert not unused, "the page names metrics that no run has"
