"""Every cache key holds the code that makes the content: that of VRX, and that of somebody's own classes."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from vrx import storage
from vrx.data.memory import MemoryPhotos
from vrx.data.scg_datamodule import MADE_BY as GRAPH_CODE
from vrx.data.sources import photos_key
from vrx.models.classification import MADE_BY as CLASSIFIER_CODE
from vrx.pipeline import ADDITION_CODE, BANK_CODE, GRN_CODE
from vrx.storage import content_key

ROOT = Path(__file__).parents[1]
DECIDES_NOTHING = {
    "vrx.errors",
    "vrx.specs",
    "vrx.storage",
    "vrx.data.sources",
    "vrx.data.scg_cache",
    "vrx.models.progress",
    "vrx.report.pages",  # drawn when an explanation shows itself
}
OWN_ENCODER = "class MyEncoder:\n    def __call__(self):\n        return {}\n"


def file_of(module: str) -> Path:
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imported(module: str) -> set[str]:
    """The modules of VRX that a module, or those of a package, import when they run."""
    file, found = file_of(module), set()
    for path in file.parent.rglob("*.py") if file.name == "__init__.py" else [file]:
        body = [node for node in ast.parse(path.read_text()).body if not isinstance(node, ast.If)]  # TYPE_CHECKING
        for node in (n for top in body for n in ast.walk(top) if isinstance(n, ast.ImportFrom)):
            if node.module and node.module.startswith("vrx"):
                found.add(node.module)
    return found


@pytest.mark.parametrize(
    ("key", "made_of"),
    [
        (CLASSIFIER_CODE, ()),
        (BANK_CODE, ()),
        (GRAPH_CODE, BANK_CODE),
        (GRN_CODE, GRAPH_CODE),
        (ADDITION_CODE, (*BANK_CODE, *GRAPH_CODE, *GRN_CODE)),
    ],
    ids=["classifier", "bank", "graphs", "grn", "additions"],
)
def test_a_key_holds_all_code_that_its_code_uses(key: tuple[str, ...], made_of: tuple[str, ...]) -> None:
    """``made_of``: code in the key of what the content is made of, which is in this key."""
    held = (*key, *made_of)
    left = {name for module in key for name in imported(module)} - DECIDES_NOTHING
    assert not {name for name in left if not any(name == h or name.startswith(f"{h}.") for h in held)}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Somebody's own module, on the path of this test alone."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(storage, "code_version", storage.code_version.__wrapped__)
    yield tmp_path / "my_encoders.py"
    sys.modules.pop("my_encoders", None)


def test_your_own_class_named_in_the_settings_counts(mine: Path) -> None:
    def key(code: str) -> str:
        mine.write_text(code)
        return content_key(("vrx.edits",), {"discovery": [{"encoder": {"_target_": "my_encoders.MyEncoder"}}]})

    first = key(OWN_ENCODER)
    assert key(OWN_ENCODER.replace("{}", "1")) != first
    assert key(OWN_ENCODER + "# a comment\n") == first
    content_key((), {"_target_": "nobody.can.import.this"})  # no code to be had: the name alone counts


def test_the_code_of_a_source_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = MemoryPhotos({name: [f"{name}{i}.png" for i in range(8)] for name in "ab"})
    first = photos_key(source, ["train"])
    assert photos_key(source, ["train"]) == first and photos_key(source, ["val"]) != first
    monkeypatch.setattr("vrx.data.sources.code_of", lambda kind: f"another {kind.__name__}")
    assert photos_key(source, ["train"]) != first


SCRIPT = """
from vrx.storage import code_of

class Net:
    def forward(self, x):
        return x + {}

print({!r}, code_of(Net))
"""


def test_a_class_of_a_script_counts_by_its_own_code(tmp_path: Path) -> None:
    def version(*filled: object) -> str:
        (tmp_path / "script.py").write_text(SCRIPT.format(*filled))
        command = [sys.executable, "script.py"]
        said = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
        return said.stdout.split()[1]

    assert version(1, "one") == version(1, "other") != version(2, "one")
