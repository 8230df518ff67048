"""A classifier from plain settings, as the config files hold them: any class or function that returns a network."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from vrx.classifier.classifier import Classifier
from vrx.classifier.preprocessing import SETTINGS, Preprocessing, preprocessing_of
from vrx.classifier.weights import load_weights
from vrx.errors import VRXError
from vrx.specs import TARGET, find

log = logging.getLogger("vrx")

OWN = frozenset([*SETTINGS, "checkpoint", "layers", "precision", "compile", "fit"])  # others are the target's


def load_classifier(
    settings: Mapping[str, Any],
    class_names: Sequence[str],
    class_indices: Sequence[int] | None = None,
    weights: str | Path | None = None,
) -> Classifier:
    """F from the settings of ``conf/classifier``.

    Args:
        settings: ``_target_``, the dotted name of a class or function that returns an ``nn.Module`` (photos
            ``[B, 3, H, W]`` -> logits ``[B, C]``); its arguments; and VRX's own settings, each of which is handed to a
            target that names it, too:
            ``checkpoint`` (local weights, go before ``pretrained``; not loaded where the target takes it);
            ``input_size``, ``mean``, ``std``, ``crop_pct``, ``interpolation``, ``resize``
            (see :func:`vrx.classifier.preprocessing.preprocessing_of`); ``layers`` (modules to read instead of those
            that a probe finds); ``precision`` (``fp32``, ``bf16`` or ``auto``); ``compile`` (by ``torch.compile``). A
            target that names ``num_classes`` gets n where neither it nor ``class_indices`` is given.
        class_indices: their outputs; None: the network has n outputs, and they are all of interest.
        weights: fitted or saved weights of this network; they go before ``checkpoint`` and ``pretrained``.

    Raises:
        VRXError: anything of this that does not exist, cannot be had or does not fit.
    """
    built_by = _built_by(settings, len(class_names) if class_indices is None else None)
    loads_itself = "checkpoint" in built_by
    checkpoint = weights or (None if loads_itself else settings.get("checkpoint"))
    downloads = "pretrained" in built_by and checkpoint is None and settings.get("pretrained") is not False
    network = build_network({**built_by, "pretrained": True} if downloads else built_by)
    if checkpoint is not None:
        load_weights(network, checkpoint)
    elif "pretrained" in built_by and not (downloads or loads_itself or settings.get("fit")):
        log.warning("%s has random weights: nobody has trained it yet.", settings.get("name") or built_by[TARGET])
    return Classifier(
        network,
        class_names,
        class_indices,
        preprocessing_of(network, settings),
        layers=settings.get("layers"),
        precision=settings.get("precision") or "fp32",
        compiled=bool(settings.get("compile")),
        built_by=built_by,
    )


def reopen_classifier(spec: Mapping[str, Any], weights: str | Path, network: nn.Module | None = None) -> Classifier:
    """F as it was saved: ``classifier.spec`` of then, and what ``classifier.save_weights`` wrote.

    ``network``: your own, where F was made of one; it gets the saved weights.

    Raises:
        VRXError: the network cannot be built anew, or the weights do not fit.
    """
    options = dict(spec)
    built_by, code = options.pop("built_by"), options.pop("code", {})
    if network is None and built_by is None:
        raise VRXError(
            "This run was made of a network that was given as an object: give one of the same class with network=..."
        )
    if network is None:
        network = build_network(built_by)
    load_weights(network, weights)
    options["preprocessing"] = Preprocessing.of(options["preprocessing"])
    classifier = Classifier(network, **options, built_by=built_by)
    changed = sorted(name for name, version in classifier.code.items() if code.get(name, version) != version)
    if changed:
        log.warning("%s: its code is not that of the run, which explained what it did then.", ", ".join(changed))
    return classifier


def build_network(built_by: Mapping[str, Any]) -> nn.Module:
    """Call a class or function by its dotted name, ``_target_``, with the other keys as arguments.

    Raises:
        VRXError: it does not exist, cannot be called so, or returns no network.
    """
    target, arguments = built_by[TARGET], {k: v for k, v in built_by.items() if k != TARGET}
    make = find(target)
    try:
        network = make(**arguments)
    except VRXError:
        raise
    except Exception as error:  # somebody else's code raises whatever it likes
        shown = ", ".join(f"{k}={v!r}" for k, v in arguments.items())
        raise VRXError(
            f"classifier._target_={target} failed with ({shown}): {type(error).__name__}: {error}. "
            "Its arguments are the keys of classifier that are not VRX's own; add one with +classifier.<name>=."
        ) from error
    if not isinstance(network, nn.Module):
        raise VRXError(
            f"classifier._target_={target} returns {type(network).__name__}: it must be a class or function that "
            "returns a torch.nn.Module."
        )
    return network


def _built_by(settings: Mapping[str, Any], outputs: int | None) -> dict[str, Any]:
    """``_target_`` and its arguments; published weights are not downloaded."""
    target = settings.get(TARGET)
    if not target:
        raise VRXError("classifier._target_ is not given: name a class or function that returns a torch.nn.Module.")
    make = find(str(target))
    if not callable(make):
        raise VRXError(f"classifier._target_={target} is a {type(make).__name__}: name a class or a function.")
    named = inspect.signature(make).parameters
    arguments = {k: v for k, v in settings.items() if k not in OWN and (v is not None or k in named)}
    arguments |= {k: settings[k] for k in sorted(OWN & set(named)) if settings.get(k) is not None}
    if arguments.get("num_classes") is None:
        arguments.pop("num_classes", None)
        if "num_classes" in named and outputs is not None:
            arguments["num_classes"] = outputs
    if "pretrained" in named:
        arguments["pretrained"] = False
    return {TARGET: str(target), **{k: v for k, v in arguments.items() if k != TARGET}}
