"""The wheel: what ``pip install`` would put on a machine without this checkout."""

from __future__ import annotations

import ast
import configparser
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    """Built from a copy, as a release is."""
    source = tmp_path_factory.mktemp("source")
    for name in ("vrx", "conf"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (built,) = (source / "dist").glob("*.whl")
    return ZipFile(built)


def relative(folder: Path, *patterns: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for pattern in patterns for path in folder.rglob(pattern)}


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OF_EXTRAS = {"vrx/dashboard.py": "wandb"}  # module -> the extra that it needs


def imported(path: Path) -> set[str]:
    """The packages that a file imports, other than Python's own and this one."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"vrx"}


def declared(lines: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in lines}


def test_what_is_imported_is_declared() -> None:
    packages, core, found = packages_distributions(), declared(PROJECT["dependencies"]), set()
    for path in (ROOT / "vrx").rglob("*.py"):
        extra = OF_EXTRAS.get(path.relative_to(ROOT).as_posix())
        allowed = core | declared(PROJECT["optional-dependencies"][extra] if extra else [])
        for module in imported(path):
            found.add(module)
            assert allowed & {canonicalize_name(name) for name in packages[module]}, f"{path} imports {module}"
    assert len(found) > 20


def test_the_extras() -> None:
    extras = PROJECT["optional-dependencies"]
    assert {"dev", "docs", "slurm", "sweep", "wandb"} <= set(extras)
    (whole,) = (line for line in extras["dev"] if line.startswith("vrx["))
    assert Requirement(whole).extras == set(extras) - {"dev"}, "the suite needs all of them"
    core = declared(PROJECT["dependencies"])
    for name, lines in extras.items():
        assert not declared(lines) & core, f"[{name}] repeats what the core has"
    asked_for = {
        "pytorch-lightning", "hydra-core", "torch", "torch-geometric", "timm", "torchmetrics", "wandb", "scikit-image",
        "faiss-gpu",
    }  # fmt: skip
    assert asked_for <= core


@pytest.mark.slow
def test_the_core_needs_no_extra() -> None:
    """Every module is imported while the packages of the extras cannot be."""
    extras = PROJECT["optional-dependencies"]
    names = set().union(*(declared(lines) for lines in extras.values())) - {"setuptools", "vrx"}
    packages = packages_distributions()
    closed = sorted(m for m, made in packages.items() if {canonicalize_name(name) for name in made} <= names)
    modules = sorted(
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        for path in (ROOT / "vrx").rglob("*.py")
        if path.relative_to(ROOT).as_posix() not in OF_EXTRAS
    )
    code = f"import sys, importlib\nsys.modules.update(dict.fromkeys({closed}))\n"
    code += f"for name in {modules}: importlib.import_module(name)"
    assert {"captum", "mkdocs", "wandb_workspaces"} <= set(closed) and len(modules) > 90
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_wheel_holds_every_module_template_and_setting(wheel: ZipFile) -> None:
    held = set(wheel.namelist())
    code = {f"vrx/{name}" for name in relative(ROOT / "vrx", "*.py", "*.j2", "*.js", "py.typed")}
    settings = {f"vrx/conf/{name}" for name in relative(ROOT / "conf", "*.yaml")}
    assert len(settings) > 30 and any(name.endswith(".j2") for name in code)
    inside = {name for name in held if ".dist-info/" not in name}
    assert inside == code | settings, "nothing is missing, and no tests, runs or data slip in"
    for name in settings:
        assert wheel.read(name) == (ROOT / name.removeprefix("vrx/")).read_bytes()


def test_the_wheel_installs_three_commands(wheel: ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    parser = configparser.ConfigParser()
    parser.read_string(wheel.read(name).decode())
    commands = dict(parser["console_scripts"])
    assert set(commands) == {"vrx-train", "vrx-explain", "vrx-diagnose"}
    for target in commands.values():
        module, _, function = target.partition(":")
        assert f"def {function}(" in wheel.read(module.replace(".", "/") + ".py").decode()


def test_the_settings_of_a_checkout_are_one_folder() -> None:
    """``vrx/conf`` is a link, so that an editable install and the scripts read the same files."""
    assert (ROOT / "vrx" / "conf").resolve() == (ROOT / "conf").resolve()
