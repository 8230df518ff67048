"""VRX: explain an image classifier by structural visual concepts."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vrx.api import default_pipeline, fit
    from vrx.bank import ConceptBank
    from vrx.classifier.classifier import Classifier
    from vrx.classifier.preprocessing import Preprocessing
    from vrx.data.images import PhotoFolder
    from vrx.edits import Editor
    from vrx.errors import VRXError
    from vrx.explain.explainer import Explainer
    from vrx.explanation import Counterfactual, Explanation, Relations
    from vrx.pipeline import Pipeline
    from vrx.structures import SCG, Patches

__all__ = [
    "SCG",
    "Classifier",
    "ConceptBank",
    "Counterfactual",
    "Editor",
    "Explainer",
    "Explanation",
    "Patches",
    "PhotoFolder",
    "Pipeline",
    "Preprocessing",
    "Relations",
    "VRXError",
    "default_pipeline",
    "fit",
]

try:
    __version__ = version("vrx")
except PackageNotFoundError:  # a checkout that was not installed
    __version__ = "0+unknown"

_MODULES = {
    "vrx.api": ("default_pipeline", "fit"),
    "vrx.bank": ("ConceptBank",),
    "vrx.classifier.classifier": ("Classifier",),
    "vrx.classifier.preprocessing": ("Preprocessing",),
    "vrx.data.images": ("PhotoFolder",),
    "vrx.edits": ("Editor",),
    "vrx.errors": ("VRXError",),
    "vrx.explain.explainer": ("Explainer",),
    "vrx.explanation": ("Counterfactual", "Explanation", "Relations"),
    "vrx.pipeline": ("Pipeline",),
    "vrx.structures": ("SCG", "Patches"),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a public name, and with it torch, only when it is asked for."""
    if name not in _WHERE:
        raise AttributeError(f"module 'vrx' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    """The public names, for completion in a notebook."""
    return [*__all__, "__version__"]
