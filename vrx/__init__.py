"""VRX: explain an image classifier by structural visual concepts."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vrx.api import default_pipeline, fit
    from vrx.classifier.classifier import Classifier
    from vrx.errors import VRXError
    from vrx.explain.explainer import Explainer
    from vrx.explanation import Explanation
    from vrx.pipeline import Pipeline
    from vrx.structures import SCG, ConceptBank

__all__ = [
    "SCG",
    "Classifier",
    "ConceptBank",
    "Explainer",
    "Explanation",
    "Pipeline",
    "VRXError",
    "default_pipeline",
    "fit",
]

try:
    __version__ = version("vrx")
except PackageNotFoundError:  # a checkout that was not installed
    __version__ = "0+unknown"

_WHERE = {
    "Classifier": "vrx.classifier.classifier",
    "VRXError": "vrx.errors",
    "Explainer": "vrx.explain.explainer",
    "Pipeline": "vrx.pipeline",
    "default_pipeline": "vrx.api",
    "fit": "vrx.api",
    "SCG": "vrx.structures",
    "ConceptBank": "vrx.structures",
    "Explanation": "vrx.explanation",
}


def __getattr__(name: str) -> Any:
    """Load a public name, and with it torch, only when it is asked for."""
    if name not in _WHERE:
        raise AttributeError(f"module 'vrx' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_WHERE[name]), name)
