"""The one error that a user can fix, and the checks of arrays that a programmer can."""

from typing import Any


class VRXError(Exception):
    """An error that a user can fix: the message names the bad value and the remedy."""


def require(condition: bool, message: str) -> None:
    """Raise ValueError unless a condition holds."""
    if not condition:
        raise ValueError(message)


def check_shapes(owner: Any, **expected: tuple[int, ...]) -> None:
    """Raise ValueError for an array of ``owner`` whose shape does not begin as expected."""
    for name, shape in expected.items():
        got = tuple(getattr(owner, name).shape)
        require(got[: len(shape)] == shape, f"{type(owner).__name__}.{name} must start with {shape}, got {got}")
