"""How VRX keeps things on disk: whole files or nothing, one writer at a time, under keys that say all of the content.

A key is a hash of everything that decides the content: the settings, and the code that made it (:func:`code_version`).
Whatever changes, an edited function too, misses the cache; nothing stale is ever read.
"""

from __future__ import annotations

import ast
import errno
import functools
import hashlib
import importlib.util
import json
import math
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError

from vrx.errors import VRXError

KEY_LENGTH = 20  # characters of a key in the name of a folder


def digest(settings: Mapping[str, Any]) -> str:
    """Hash of plain settings; equal settings give equal hashes in any key order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def content_key(made_by: tuple[str, ...], settings: Mapping[str, Any]) -> str:
    """Hash of the settings and of the code that makes the content.

    Args:
        made_by: modules and packages, e.g. ``("vrx.concepts", "vrx.edits")``.
        settings: everything else that decides the content, plain.
    """
    return digest({"code": [code_version(name) for name in made_by], "settings": settings})


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
