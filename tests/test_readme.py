"""The recipes of docs/your_own_model.md and docs/extending.md, run as they are written; so is docs/tutorial.ipynb."""

import csv
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from tests import planted
from tests.pipeline import run_diagnose, run_explain, run_train
from vrx.commands import diagnose
from vrx.errors import VRXError
from vrx.explain.explainer import Explainer
from vrx.explanation import Explanation

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
MODEL, EXTENDING = ((ROOT / page).read_text() for page in ("docs/your_own_model.md", "docs/extending.md"))
CLASSES = tuple(sorted(planted.CLASSES))
QUICK = ("trainer=cpu", "graph.workers=0", "report.explanations=1", "paths.runs_dir=runs", "paths.cache_dir=cache")
MY_PACKAGE = """
from tests.planted import ColourNet


def my_net():
    return ColourNet()
"""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with ``my_package.py``, ``photos/<class>/*`` and ``photo.jpg``, in which the recipes are run."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "my_package.py").write_text(MY_PACKAGE)
    tree = planted.write_tree(folder / "made", train=150)
    (tree / "train").rename(folder / "photos")
    planted.picture(0, (30, 30), (57, 57), seed=999).save(folder / "photo.jpg", quality=100, subsampling=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        yield folder
    for name in ("my_package", "my_parts"):
        sys.modules.pop(name, None)


def blocks(language: str, page: str = MODEL) -> list[str]:
    """The code blocks of a page."""
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def block(language: str, holding: str) -> str:
    """The code block of the page on your own model that holds a text."""
    (found,) = [b for b in blocks(language) if holding in b]
    return found


def commands(console: str) -> list[list[str]]:
    """Script and arguments of each command of a console block."""
    lines = console.replace("\\\n", " ").strip().splitlines()
    return [shlex.split(line.removeprefix("python ")) for line in lines]


def test_the_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "docs" / "tutorial.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    said = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", []))
    assert "right: 1.00" in said and "Predicted rose" in said and "the same: True" in said
    (share,) = re.findall(r"(\d+)% of its pixels are red", said)
    assert int(share) > 80
    by_hand, explained = map(float, re.findall(r"by hand (\S+), in the explanation (\S+)", said)[0])
    assert by_hand == pytest.approx(explained, abs=2e-3) and by_hand > 0.2
    assert (tmp_path / "tutorial" / "rose" / "explanation.html").exists()


@pytest.mark.filterwarnings("ignore")
def test_your_own_network_from_python(desk: Path) -> None:
    code = block("python", "my_net()")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    names: dict[str, object] = {}
    exec(compile(code, "your_own_model.md", "exec"), names)
    explanation = names["explanation"]
    assert isinstance(explanation, Explanation)
    assert (
        explanation.class_names == tuple(sorted(planted.CLASSES))
        and explanation.class_names[explanation.predicted] == "berry"
    )
    measured = explanation.measured[explanation.predicted]
    mask = explanation.mask(explanation.predicted, int(np.nanargmax(measured)))
    assert (mask & planted.disc((30, 30))).sum() > 0.5 * mask.sum(), "what counts for a berry is its red disc"
    with pytest.raises(VRXError, match="network="):
        Explainer.load("runs/my_net")
    loaded = Explainer.load("runs/my_net", network=planted.ColourNet())
    code = block("python", "node_scores[c, g, k]").replace('"runs/toy_vehicles/<time>"', '"runs/my_net"')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Explainer, "load", lambda run: loaded)
        exec(compile(code, "your_own_model.md", "exec"), {"c": 0, "g": 0, "k": 0})


def test_your_own_network_from_the_command_line(desk: Path) -> None:
    ((script, *words),) = commands(block("bash", "classifier=own"))
    assert script == "train.py"
    run = run_train(*words, *QUICK)
    assert Explainer.load(run).bank.class_names == tuple(sorted(planted.CLASSES)), (
        "it opens by the name of the function"
    )
    run_explain(f"run={run}", "images=photo.jpg", "formats=[json]", f"out={desk}/out")
    assert (desk / "out" / "photo" / "explanation.json").exists()


def test_your_own_parts_need_a_class_and_a_file_each(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks("python", EXTENDING)
    (desk / "my_parts.py").write_text(code)
    for text in blocks("yaml", EXTENDING):
        file = desk / text.splitlines()[0].removeprefix("# ")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    splits = (*["discovery"] * 20, *["train"] * 12, *["val"] * 4, *["test"] * 4)
    with open(desk / "photos.csv", "w") as lines:
        table = csv.writer(lines)
        table.writerow(["path", "class", "split"])
        for name in CLASSES:
            paths = sorted((desk / "photos" / name).iterdir())
            table.writerows([path, name, split] for path, split in zip(paths, splits, strict=False))
    (_, *train), (script, *study) = commands(blocks("bash", EXTENDING)[0])
    run = run_train(*train, *QUICK, "concepts.min_patches=5", "concepts.clusters=8", "concepts.num_concepts=3")
    explainer = Explainer.load(run)
    assert type(explainer.builder.extractor.encoder).__name__ == "MeanColour" and explainer.method == "node"
    assert explainer.bank.class_names == CLASSES
    photo = planted.picture(0, (30, 30), (57, 57), seed=3)
    assert np.abs(explainer.explain(photo).node_scores).max() > 0
    assert script == "diagnose.py"
    lines: list[str] = []
    monkeypatch.setattr(diagnose.log, "info", lambda text, *values: lines.append(text % values))
    run_diagnose(*(f"run={run}" if word.startswith("run=") else word for word in study))
    assert lines[-1] == f"What the study left is in {run.resolve()}/studies/found", "it writes no page"
    metrics = json.loads((run / "studies" / "found" / "metrics.json").read_text())
    assert metrics["found/photos"] == 10 and 0 < metrics["found/mean"] <= 3
