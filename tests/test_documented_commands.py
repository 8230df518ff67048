"""Every block of commands or code on a page: it composes, is run by a test that the page names, or says why not.

A block is marked by a comment above it: ``<!-- run: tests/test_x.py -->`` or ``<!-- not run: the reason -->``.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from tests.pipeline import run_diagnose, run_explain, run_train
from tests.test_docs import PAGES, ROOT

BLOCK = re.compile(r"(?:<!-- (run|not run): (.*?) -->\n)?```(\w*)\n(.*?)```", re.DOTALL)
INLINE = re.compile(r"`((?:python (?:train|explain|diagnose)\.py|vrx-(?:train|explain|diagnose))(?: [^`]*)?)`")
FLAGS = {"--help", "--hydra-help", "--cfg", "job", "-m", "--multirun", "names"}
STARTS = r"(make|python|vrx-\w+|pip|torchrun|wandb|scripts/\S+|time|mkdocs) "


def words_of(command: str) -> list[str]:
    """A command in words; ``<anything>`` stands for a value."""
    words = shlex.split(re.sub(r"<[^<>]*>", "x", command), comments=True)
    return words[1:] if words[:1] == ["time"] else words


def check(command: str, complete: bool = True) -> None:
    """Fail unless the command could be given: its settings compose, its target, module or extra exists."""
    match words_of(command):
        case []:
            pass
        case ["make", *targets]:
            for target in targets:
                assert f"\n{target}:" in (ROOT / "Makefile").read_text(), command
        case ["python", "-m", module, *options]:
            code = (ROOT / f"{module.replace('.', '/')}.py").read_text()
            assert all(f'"{o}"' in code for o in options if o.startswith("--")), command
        case ["pip", "install", spec]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert set(re.findall(r"[\w-]+", spec.partition("[")[2])) <= set(extras), command
        case ["python", "train.py" | "explain.py" | "diagnose.py" as script, *words]:
            check_settings(script.removesuffix(".py"), words, complete)
        case ["vrx-train" | "vrx-explain" | "vrx-diagnose" as script, *words]:
            check_settings(script.removeprefix("vrx-"), words, complete)
        case [script, *_] if script.startswith("scripts/"):
            assert (ROOT / script).is_file(), command
        case _:
            pytest.fail(f"say above the block why it is not run (<!-- not run: ... -->): {command}")


def check_settings(script: str, words: list[str], complete: bool) -> None:
    """Compose what a command gives; of a sweep, its first job."""
    given = [word for word in words if word not in FLAGS]
    if {"-m", "--multirun"} & set(words):
        given = [re.sub(r"^([^=]+=[^\[{(,]+),.*", r"\1", word) for word in given]
    if script == "explain":  # its commas are no sweep
        given = [re.sub(r"^compare=(.*)$", r"compare='\1'", word) for word in given]
    if script == "diagnose":
        given = [f"++{word}" if word.startswith("data.") else word for word in given]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose(script, given)
    if complete and script == "train":
        assert not OmegaConf.missing_keys(cfg), words


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_checked_or_says_why_not(page: Path) -> None:
    for mark, text, language, body in BLOCK.findall(page.read_text()):
        if mark == "run":
            assert page.name in (ROOT / text).read_text(), f"{text} does not run {page.name}"
        elif language == "python":
            assert mark == "not run" and len(text.split()) > 2, f"run it in a test, or say why not: {body}"
        elif language == "bash":
            for command in body.replace("\\\n", " ").splitlines() if mark != "not run" else ():
                check(command)
        else:
            assert language in ("", "yaml") and not re.match(STARTS, body), f"a block of commands is bash: {body}"
        if language == "python":
            compile(body, page.name, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_in_a_line_composes(page: Path) -> None:
    older = re.sub(r"^## 0\.[1-4]\.0.*", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for command in INLINE.findall(BLOCK.sub("", older)):
        if "..." not in command:
            check(" ".join(command.split()), complete=False)


@pytest.mark.parametrize(
    "wrong",
    [
        "python train.py data=imagefolder",  # its folder is not given
        "python train.py experiment=no_such",
        "python train.py trainer.no_such=1",
        "python diagnose.py run=<run> study=no_such",
        "python explain.py imges=photo.jpg",
        "make no_such",
        "pip install .[no_such]",
        "curl example.org",
    ],
)
def test_what_does_not_work_would_be_noticed(wrong: str) -> None:
    with pytest.raises((Exception, pytest.fail.Exception)):
        check(wrong)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "said"),
    [
        (run_train, ["experiment=...", "data=...", "classifier=...", "trainer=...", "logger=...", "toy_arrangements"]),
        (run_explain, ["images=...", "formats=...", "explanations.csv", " names"]),
        (run_diagnose, ["study=...", "logic_consistency", "sensitivity", "diagnosis", "dataset_fix"]),
    ],
)
def test_the_help_explains(run: Callable[[str], object], said: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        run("--help")
    text = capsys.readouterr().out
    assert exit_.value.code == 0
    assert all(words in text for words in [*said, "Settings that matter", "Examples", "130 interrupted"])
    assert max(map(len, text.partition("Groups and their")[0].splitlines())) <= 120


def test_the_examples_of_the_help_work() -> None:
    for script in ("train", "explain", "diagnose"):
        template = OmegaConf.load(ROOT / "conf" / f"{script}.yaml").hydra.help.template
        examples = template.partition("Examples\n")[2].partition("\n\n")[0].splitlines()
        assert len(examples) == 3
        for example in examples:
            check(example.partition("; ")[0].partition("   ")[0] or example)
