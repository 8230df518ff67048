"""Networks by name, with their published weights and preprocessing: timm's and torchvision's."""

from __future__ import annotations

import difflib
import socket
import urllib.error
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, cast

import timm
import torchvision
from torch import nn

from vrx.classifier.preprocessing import preset_settings
from vrx.classifier.weights import load_strictly
from vrx.errors import VRXError

Library = Literal["timm", "torchvision"]

SMALL_MOBILENET = "mobilenetv1_025"  # timm's builder knows this width, its registry does not
WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")


def named_network(
    name: str,
    num_classes: int | None = None,
    pretrained: bool = True,
    input_size: int | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A classification network of timm or torchvision; its ``pretrained_cfg`` says how it reads photos.

    Args:
        name: of the architecture; ``timm/...`` or ``torchvision/...`` says whose, where both have one.
        num_classes: outputs; None: the architecture's own number.
        pretrained: download the published weights (all but a head of another size).
        input_size: for the transformers that are built for one size.

    Raises:
        VRXError: unknown name or argument, or weights that cannot be had.
    """
    library, name = resolve_name(name)
    kwargs = dict(model_kwargs or {})
    if num_classes is not None:
        kwargs["num_classes"] = num_classes
    build = _build_timm if library == "timm" else _build_torchvision
    try:
        return build(name, pretrained, input_size, kwargs)
    except (TypeError, ValueError, AssertionError) as error:
        raise VRXError(
            f"{library} cannot build {name} with {kwargs}: {error}. Change classifier.model_kwargs."
        ) from error


def resolve_name(name: str) -> tuple[Library, str]:
    """Which library builds ``name``: its prefix says (``timm/...``, ``torchvision/...``), or the first that knows it.

    Raises:
        VRXError: neither does; the nearest names are offered.
    """
    prefix, _, rest = name.partition("/")
    library = prefix if prefix in ("timm", "torchvision") and rest else None
    plain = rest if library else name
    in_timm = plain == SMALL_MOBILENET or timm.is_model(plain)
    in_torchvision = plain in torchvision.models.list_models(module=torchvision.models)
    if in_timm and library != "torchvision":
        return "timm", plain
    if in_torchvision and library != "timm":
        return "torchvision", plain
    if in_timm or in_torchvision:
        near = [f"{'timm' if in_timm else 'torchvision'}/{plain}"]
    else:
        torchvisions = torchvision.models.list_models(module=torchvision.models)
        timms = [*timm.list_models(), SMALL_MOBILENET]
        known = {
            "timm": timms,
            "torchvision": torchvisions,
            None: timms + [m if m not in timms else f"torchvision/{m}" for m in torchvisions],
        }[library]
        near = difflib.get_close_matches(plain, known, n=4, cutoff=0.5)
    hint = (
        f"Did you mean {', '.join(near)}?" if near else "See timm.list_models() and torchvision.models.list_models()."
    )
    raise VRXError(f"Unknown network classifier.name={name!r}. {hint}")


def _build_timm(name: str, download: bool, input_size: int | None, kwargs: dict[str, Any]) -> nn.Module:
    if name == SMALL_MOBILENET:
        if download:
            raise VRXError(f"{name} has no published weights: give classifier.checkpoint=<file>, or pretrained=false.")
        from timm.models.efficientnet import _gen_mobilenet_v1

        return cast(nn.Module, _gen_mobilenet_v1("mobilenetv1_100", kwargs.pop("alpha", 0.25), **kwargs))
    config = timm.get_pretrained_cfg(name)
    if input_size is not None and config is not None and config.fixed_input_size:
        kwargs.setdefault("img_size", input_size)
    if not download:
        return timm.create_model(name, pretrained=False, **kwargs)
    with _clear_download_errors(name), _offline_when_unreachable():
        return timm.create_model(name, pretrained=True, **kwargs)


def _build_torchvision(name: str, download: bool, input_size: int | None, kwargs: dict[str, Any]) -> nn.Module:
    if name in WITH_AUXILIARY_HEADS:
        # the published weights expect transform_input; always on, so that a saved F comes back as the same F
        kwargs = {"aux_logits": False, "init_weights": False, "transform_input": True, **kwargs}
    if input_size is not None and name.startswith("vit_"):
        kwargs.setdefault("image_size", input_size)
    network: nn.Module = torchvision.models.get_model(name, weights=None, **kwargs)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    network.pretrained_cfg = preset_settings(weights.transforms())  # type: ignore[assignment]
    if download:
        with _clear_download_errors(name), _timeout(10):
            state = weights.get_state_dict(progress=True, check_hash=True)
        own = network.state_dict()
        head = [k for k in list(state)[-2:] if k in own and own[k].shape != state[k].shape]
        if head and kwargs.get("num_classes", len(weights.meta["categories"])) != len(weights.meta["categories"]):
            state = {**state, **{k: own[k] for k in head}}
        load_strictly(network, state, f"the published weights of {name}")
    return network


@contextmanager
def _clear_download_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, urllib.error.URLError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise VRXError(
            f"The weights of {name} could not be downloaded ({type(error).__name__}: {reason}). "
            "Give a local file with classifier.checkpoint=<file>, or go without by classifier.pretrained=false."
        ) from error


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _offline_when_unreachable() -> Iterator[None]:
    """Do not let the hub's client retry for a minute where there is no network: go to its local cache at once."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    before = constants.HF_HUB_OFFLINE
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # the client's exception types differ between its releases
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
