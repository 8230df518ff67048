"""How VRX keeps things on disk: whole files or nothing, one writer at a time, under keys that say all of the content.

A key is a hash of everything that decides the content: the settings, the code that made it (:func:`code_version`), and
the code of whatever the settings name by ``_target_``, somebody's own classes too. Whatever changes, an edited function
too, misses the cache; nothing stale is ever read.
"""

from __future__ import annotations

import ast
import errno
import functools
import hashlib
import importlib.util
import inspect
import json
import math
import os
import textwrap
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError

from vrx.errors import VRXError
from vrx.specs import TARGET, find

KEY_LENGTH = 20  # characters of a key in the name of a folder


def digest(settings: Mapping[str, Any]) -> str:
    """Hash of plain settings; equal settings give equal hashes in any key order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def content_key(made_by: tuple[str, ...], settings: Mapping[str, Any]) -> str:
    """Hash of the settings, all that decides the content, and of the code of the modules and packages that make it."""
    named = {name: _code_of_target(name) for name in sorted(_targets(settings))}
    return digest({"code": [code_version(name) for name in made_by], "named": named, "settings": settings})


def _targets(settings: Any) -> set[str]:
    """Every ``_target_`` in plain settings."""
    if isinstance(settings, Mapping):
        own = {str(settings[TARGET])} if settings.get(TARGET) else set()
        return own.union(*map(_targets, settings.values()))
    return set().union(*map(_targets, settings)) if isinstance(settings, (list, tuple)) else set()


def _code_of_target(name: str) -> str:
    try:
        return code_of(find(name))
    except VRXError:  # a class inside a function: nobody can import it
        return ""


def code_of(thing: Any) -> str:
    """Version of the code of a class or function: its module's, or its own alone where that is a script or a notebook.

    Empty where there is no source.
    """
    try:
        if thing.__module__ != "__main__":
            return code_version(thing.__module__)
        return hashlib.sha256(_without_docs(textwrap.dedent(inspect.getsource(thing))).encode()).hexdigest()
    except (AttributeError, ImportError, OSError, TypeError, ValueError):
        return ""


@functools.cache
def code_version(name: str) -> str:
    """Hash of what the code of a module, or of all modules of a package, does: comments and docstrings do not count.

    Raises:
        ModuleNotFoundError: no such module.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(name)
    files = sorted(Path(spec.origin).parent.rglob("*.py")) if spec.submodule_search_locations else [Path(spec.origin)]
    state = hashlib.sha256()
    for file in files:
        state.update(f"{file.name}\n{_without_docs(file.read_text())}\n".encode())
    return state.hexdigest()


def _without_docs(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def json_safe(value: Any) -> Any:
    """The same with None for every number that is not finite, and NumPy's numbers and arrays as plain ones."""
    if isinstance(value, Mapping):
        return {str(k): json_safe(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(v) for v in value]
    if hasattr(value, "tolist"):
        return json_safe(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Call ``write(temporary path)``, then rename; on any failure nothing is left behind.

    Raises:
        VRXError: no space is left on the device.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        if full or (isinstance(error, SafetensorError) and "No space left" in str(error)):
            raise VRXError(
                f"No space left while writing {path}: free some, or set paths.cache_dir to another disk. "
                "What was finished before is kept; the same command goes on from there."
            ) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write a whole text file or nothing."""
    write_atomically(path, lambda part: part.write_text(text))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Only one process at a time gets past this for a given path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(path) + ".lock"):
        yield
