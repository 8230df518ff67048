"""VRX: explain an image classifier by structural visual concepts."""

from typing import Any

__all__ = ["Explainer"]


def __getattr__(name: str) -> Any:
    """Load the explainer, and with it torch, only when it is asked for."""
    if name == "Explainer":
        from vrx.explain.explainer import Explainer

        return Explainer
    raise AttributeError(f"module 'vrx' has no attribute {name!r}")
