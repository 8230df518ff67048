"""Weights from local files: safetensors, torch state dicts, Lightning checkpoints; all of a network's, or none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.models import load_state_dict
from torch import Tensor, nn

from vrx.errors import VRXError

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # heads for training alone


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load a local checkpoint: safetensors, a torch state dict, or a Lightning checkpoint of VRX's own fit.

    Raises:
        VRXError: no such file, not weights, or weights of another network; names the first keys that differ.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise VRXError(f"classifier.checkpoint={path}: no such file.")
    try:
        raw = load_state_dict(str(path), weights_only=True)  # never runs pickled code
    except Exception as error:  # safetensors, torch and pickle raise whatever they like about a damaged file
        reason = str(error).strip().split("\n")[0][:200]
        raise VRXError(
            f"classifier.checkpoint={path} cannot be read as weights ({reason}): "
            "give a .safetensors file or a torch file of nothing but tensors."
        ) from error
    state = {str(k): v for k, v in raw.items() if isinstance(v, Tensor)}
    if not state:
        raise VRXError(f"classifier.checkpoint={path} holds no state dict: save network.state_dict().")
    load_strictly(network, _without_prefix(state, set(network.state_dict())), f"classifier.checkpoint={path}")


def _without_prefix(state: dict[str, Tensor], own: set[str]) -> dict[str, Tensor]:
    """The part of a state dict that is the network's, where another module holds it."""
    for prefix in ("network.", "model."):
        inside = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if not own & set(state) and own & set(inside):
            return inside
    return state


def load_strictly(network: nn.Module, state: Mapping[str, Any], what: str) -> None:
    """Load all of the network's weights, and nothing else but heads for training.

    Raises:
        VRXError: keys that are missing, unknown or of another shape.
    """
    own = network.state_dict()
    state = {k: v for k, v in state.items() if k in own or not k.startswith(AUXILIARY)}
    wrong = [
        f"{k} {tuple(v.shape)} for {tuple(own[k].shape)}"
        for k, v in state.items()
        if k in own and v.shape != own[k].shape
    ]
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    foreign = [k for k in state if k not in own]
    problems = [
        f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for kind, keys in (("missing", missing), ("unknown", foreign), ("of another shape", wrong))
        if keys
    ]
    if problems:
        raise VRXError(
            f"{what} does not fit {type(network).__name__}: {'; '.join(problems)}. Check classifier.name, "
            "classifier.num_classes, classifier.input_size and classifier.model_kwargs."
        )
    network.load_state_dict(state, strict=False)
