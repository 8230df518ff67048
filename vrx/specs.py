"""Objects and plain descriptions of them: what cache keys hash, and what a saved run is opened from.

A description names a class, or a function, by ``_target_``, as the config files do; its other keys are the arguments.
An object describes itself by ``settings()``, the arguments of its class; a ``functools.partial`` by its own.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vrx.errors import VRXError

TARGET = "_target_"


def describe(value: Any) -> Any:
    """A value, an object with ``settings()`` or a partial as plain dictionaries, lists, numbers and strings.

    Raises:
        TypeError: an object that does not describe itself.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): describe(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)) or type(value).__name__ == "ListConfig":
        return [describe(v) for v in value]
    if isinstance(value, functools.partial):
        return {TARGET: name_of(value.func), **describe(value.keywords)}
    if hasattr(value, "settings"):
        return {TARGET: name_of(type(value)), **describe(value.settings())}
    if inspect.isclass(value) or inspect.isfunction(value):
        return name_of(value)
    raise TypeError(f"{type(value).__name__} has no settings(): it cannot be described.")


def name_of(target: Any) -> str:
    """Dotted name of a class or function."""
    return f"{target.__module__}.{target.__qualname__}"


def find(name: str) -> Any:
    """The class or function of a dotted name.

    Raises:
        VRXError: there is none.
    """
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise VRXError(
            f"_target_={name}: {error}. Give the dotted name of a class or function that Python can import from here."
        ) from error


def make(description: Any) -> Any:
    """The object of a description: the inverse of :func:`describe`, for objects with ``settings()``.

    Raises:
        VRXError: a ``_target_`` that cannot be found.
    """
    if isinstance(description, Mapping):
        made = {str(k): make(v) for k, v in description.items() if k != TARGET}
        return find(str(description[TARGET]))(**made) if TARGET in description else made
    return [make(v) for v in description] if isinstance(description, list) else description
