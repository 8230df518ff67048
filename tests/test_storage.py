"""Keys, whole files or nothing, one writer at a time."""

import errno
import multiprocessing
import sys
from pathlib import Path

import pytest

from vrx import storage
from vrx.errors import VRXError
from vrx.storage import code_version, content_key, locked, write_atomically, write_text


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of a package, on the path of this test alone."""
    (tmp_path / "made_up").mkdir()
    (tmp_path / "made_up" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(storage, "code_version", storage.code_version.__wrapped__)
    yield tmp_path / "made_up" / "inner.py"
    sys.modules.pop("made_up", None)


def key(text: str, module: Path) -> str:
    module.write_text(text)
    return content_key(("made_up",), {"a": 1})


def test_another_function_is_another_key(module: Path) -> None:
    first = key("def f(x):\n    return x + 1\n", module)
    assert key("def f(x):\n    return x + 2\n", module) != first
    assert key("def f(x):\n    return x + 1\n", module) == first


def test_comments_and_docstrings_keep_the_key(module: Path) -> None:
    first = key("def f(x):\n    return x + 1\n", module)
    assert key('"""A module."""\n\n\ndef f(x):\n    """Add one."""\n    return x + 1  # one\n', module) == first


def test_other_settings_are_another_key() -> None:
    one = content_key(("vrx.edits",), {"a": [1, 2], "b": 3})
    assert one == content_key(("vrx.edits",), {"b": 3, "a": [1, 2]})
    assert one != content_key(("vrx.edits",), {"a": [2, 1], "b": 3})
    assert one != content_key(("vrx.scores",), {"a": [1, 2], "b": 3})


def test_every_module_of_a_package_counts() -> None:
    assert code_version("vrx.concepts") != code_version("vrx.concepts.patches")
    with pytest.raises(ModuleNotFoundError):
        code_version("vrx.nothing")


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "before")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomically(tmp_path / "a.txt", fail)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_text() == "before"


def test_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(VRXError, match="No space left while writing"):
        write_atomically(tmp_path / "deep" / "a.txt", full)
    assert not list((tmp_path / "deep").iterdir())


def count_up(folder: Path) -> None:
    for _ in range(20):
        with locked(folder / "counter"):
            file = folder / "counter.txt"
            file.write_text(str(int(file.read_text()) + 1))


def test_the_lock_holds_between_processes(tmp_path: Path) -> None:
    (tmp_path / "counter.txt").write_text("0")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=count_up, args=(tmp_path,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (tmp_path / "counter.txt").read_text() == "40"
