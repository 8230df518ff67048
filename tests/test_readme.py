"""The recipes of the README, run as they are written: your own network, from Python and from the command line."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests import planted
from tests.pipeline import run_explain, run_train
from vrx.errors import VRXError
from vrx.explain.explainer import Explainer
from vrx.structures import Explanation

pytestmark = pytest.mark.slow
README = (Path(__file__).parents[1] / "README.md").read_text()
CLASSES = tuple(sorted(planted.CLASSES))
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
    sys.modules.pop("my_package", None)


def block(language: str, holding: str) -> str:
    """The code block of the README that holds a text."""
    (found,) = [b for b in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if holding in b]
    return str(found)


@pytest.mark.filterwarnings("ignore")
def test_your_own_network_from_python(desk: Path) -> None:
    code = block("python", "my_net()")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
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


def test_your_own_network_from_the_command_line(desk: Path) -> None:
    console = block("console", "classifier=own").replace("\\\n", " ").strip()
    words = shlex.split(console.removeprefix("$ "))
    assert words[:2] == ["python", "train.py"]
    quick = ["trainer=cpu", "graph.workers=0", "report.explanations=1", "paths.runs_dir=runs", "paths.cache_dir=cache"]
    run = run_train(*words[2:], *quick)
    assert Explainer.load(run).bank.class_names == tuple(sorted(planted.CLASSES)), (
        "it opens by the name of the function"
    )
    run_explain(f"run={run}", "images=photo.jpg", "formats=[json]", f"out={desk}/out")
    assert (desk / "out" / "photo" / "explanation.json").exists()
