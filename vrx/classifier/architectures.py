"""Networks by name, with their weights and their own preprocessing: timm's, torchvision's, or a local file's."""

from __future__ import annotations

import difflib
import logging
import math
import pickle
import socket
import urllib.error
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import timm
import torch
import torchvision
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data import resolve_data_config
from timm.data.transforms import str_to_interp_mode
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from vrx.errors import VRXError

log = logging.getLogger("vrx")

Source = Literal["timm", "torchvision"]
Resize = Literal["shorter", "squash", "none"]

SMALL_MOBILENET = "mobilenetv1_025"  # timm's builder knows this width, its registry does not
WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
MAX_ASPECT = 100  # of a photo: beyond it, resizing the shorter side makes a picture of gigabytes


@dataclass(frozen=True)
class Preprocessing:
    """F's own way from a photo to its input. Picklable, so that worker processes can do it.

    Args:
        input_size: height and width of F's input.
        resized: height and width before the centre crop (``shorter``: of the shorter side, by this target).
        interpolation: ``bilinear``, ``bicubic``, ...
        mean, std: of the three channels, for values in [0, 1].
        resize: ``shorter`` (keeps the aspect, then centre crop), ``squash`` (to the input size, nothing lost)
            or ``none`` (the photo must have the input size).
    """

    input_size: tuple[int, int]
    resized: tuple[int, int]
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: Resize = "shorter"

    def __post_init__(self) -> None:
        if self.resize not in ("shorter", "squash", "none"):
            raise VRXError(f"classifier.resize={self.resize!r}: use shorter, squash or none.")
        if min(self.input_size) < 1 or len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise VRXError(
                f"classifier.input_size={self.input_size}, mean={self.mean}, std={self.std}: "
                "sizes and the three stds must be positive, and there must be three means."
            )

    def settings(self) -> dict[str, object]:
        """What determines the input, for fingerprints."""
        return asdict(self)

    def __call__(self, image: Image.Image) -> Tensor:
        """Photo of any size and mode -> normalised float32 ``[3, H, W]``.

        Raises:
            VRXError: the photo is too elongated, or ``resize`` is ``none`` and it has another size.
        """
        x = tv.to_tensor(self._sized(image.convert("RGB")))
        return tv.normalize(x, list(self.mean), list(self.std))

    def _sized(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        if self.resize == "none":
            if (height, width) != self.input_size:
                raise VRXError(
                    f"A photo of {height} x {width} pixels, F takes {self.input_size[0]} x {self.input_size[1]}: "
                    "with classifier.resize=none photos must have that size; use shorter or squash."
                )
            return image
        how = str_to_interp_mode(self.interpolation)
        if self.resize == "squash":
            return cast(Image.Image, tv.resize(image, list(self.input_size), how))
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise VRXError(f"A photo of {height} x {width} pixels is too elongated (more than {MAX_ASPECT} to 1).")
        if self.resized[0] == self.resized[1]:
            image = cast(Image.Image, tv.resize(image, [self.resized[0]], how))
        else:  # the smallest size of the same aspect that covers the target
            scale = max(self.resized[0] / height, self.resized[1] / width)
            target = [max(round(height * scale), self.resized[0]), max(round(width * scale), self.resized[1])]
            image = cast(Image.Image, tv.resize(image, target, how))
        return cast(Image.Image, tv.center_crop(image, list(self.input_size)))


def resolve_name(name: str, source: Source | None = None) -> tuple[Source, str]:
    """Which library builds ``name``: its prefix says (``timm/...``, ``torchvision/...``), or the first that knows it.

    Raises:
        VRXError: neither does; the nearest names are offered.
    """
    prefix, _, rest = name.partition("/")
    if prefix in ("timm", "torchvision") and rest:
        if source not in (None, prefix):
            raise VRXError(f"classifier.name={name!r} contradicts classifier.source={source!r}: drop one.")
        source, name = cast(Source, prefix), rest
    if source not in (None, "timm", "torchvision"):
        raise VRXError(f"classifier.source={source!r}: use timm or torchvision.")
    in_torchvision = torchvision.models.list_models(module=torchvision.models)
    if source != "torchvision" and (name == SMALL_MOBILENET or timm.is_model(name)):
        return "timm", name
    if source != "timm" and name in in_torchvision:
        return "torchvision", name
    if source == "timm" and name in in_torchvision:
        near = [f"torchvision/{name}"]
    elif source == "torchvision" and timm.is_model(name):
        near = [f"timm/{name}"]
    else:
        known = [] if source == "torchvision" else [*timm.list_models(), SMALL_MOBILENET]
        known += [] if source == "timm" else [m if m not in known else f"torchvision/{m}" for m in in_torchvision]
        near = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
    hint = (
        f"Did you mean {', '.join(near)}?" if near else "See timm.list_models() and torchvision.models.list_models()."
    )
    raise VRXError(f"Unknown network classifier.name={name!r}. {hint}")


def build_network(
    name: str,
    num_classes: int | None = None,
    *,
    source: Source | None = None,
    checkpoint: str | Path | None = None,
    pretrained: bool = True,
    input_size: int | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A classification network with its weights, ready to be fitted or frozen.

    Args:
        name: of timm or torchvision; ``timm/...`` and ``torchvision/...`` say which.
        num_classes: outputs; None: the architecture's own number.
        source: which library, where the name has no prefix.
        checkpoint: local weights; goes before ``pretrained``.
        pretrained: download the published weights (all but a head of another size).
        input_size: for the transformers that are built for one size.
        model_kwargs: handed to the architecture.

    Raises:
        VRXError: unknown name or argument, weights that cannot be had or do not fit.
    """
    source, name = resolve_name(name, source)
    download = pretrained and checkpoint is None
    kwargs = dict(model_kwargs or {})
    if num_classes is not None:
        kwargs["num_classes"] = num_classes
    build = _build_timm if source == "timm" else _build_torchvision
    try:
        network = build(name, download, input_size, kwargs)
    except (TypeError, ValueError, AssertionError) as error:
        raise VRXError(f"{source} cannot build {name} with {kwargs}: {error}. Mend classifier.model_kwargs.") from error
    if checkpoint is not None:
        load_weights(network, checkpoint)
    return network


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
    network = torchvision.models.get_model(name, weights=None, **kwargs)
    if download:
        weights = torchvision.models.get_model_weights(name).DEFAULT
        with _clear_download_errors(name), _timeout(10):
            state = weights.get_state_dict(progress=True, check_hash=True)
        own = network.state_dict()
        head = [k for k in list(state)[-2:] if k in own and own[k].shape != state[k].shape]
        if head and kwargs.get("num_classes", len(weights.meta["categories"])) != len(weights.meta["categories"]):
            state = {**state, **{k: own[k] for k in head}}
        _load_strictly(network, state, f"the published weights of {name}")
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


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load a local checkpoint: safetensors, a torch state dict, or a Lightning checkpoint of VRX's own fit.

    Raises:
        VRXError: no such file, not weights, or weights of another network; names the first keys that differ.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise VRXError(f"classifier.checkpoint={path}: no such file.")
    try:
        raw = load_file(path) if path.suffix == ".safetensors" else _torch_load(path)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise VRXError(
            f"classifier.checkpoint={path} cannot be read as weights ({reason}): "
            "give a .safetensors file or a torch file of nothing but tensors."
        ) from error
    _load_strictly(network, _state_dict(raw, network, path), f"classifier.checkpoint={path}")


def _torch_load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _state_dict(raw: Any, network: nn.Module, path: Path) -> dict[str, Tensor]:
    """The network's part of what a file holds."""
    for key in ("state_dict", "model_state_dict", "model", "network"):
        if isinstance(raw, Mapping) and isinstance(raw.get(key), Mapping):
            raw = raw[key]
            break
    if not isinstance(raw, Mapping) or not any(isinstance(v, Tensor) for v in raw.values()):
        raise VRXError(f"classifier.checkpoint={path} holds no state dict: save network.state_dict().")
    state = {str(k): v for k, v in raw.items() if isinstance(v, Tensor)}
    own = set(network.state_dict())
    for prefix in ("network.", "module.", "model.", "_orig_mod."):
        inside = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if inside and not own & set(state) and own & set(inside):
            return inside
    return state


def _load_strictly(network: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
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


def preprocessing_of(
    network: nn.Module,
    name: str,
    source: Source | None = None,
    *,
    input_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    crop_pct: float | None = None,
    resize: Resize = "shorter",
) -> Preprocessing:
    """The preprocessing that the network's authors published, with what the user overrides.

    Args:
        network: what :func:`build_network` made of ``name``.
        name: the same name.
        source: the same source.
        input_size: side of the square input in pixels.
        mean: of the three channels.
        std: of the three channels.
        crop_pct: side of the centre crop as a share of the resized shorter side, in (0, 1].
        resize: see :class:`Preprocessing`.
    """
    source, name = resolve_name(name, source)
    if crop_pct is not None and not 0 < crop_pct <= 1:
        raise VRXError(f"classifier.crop_pct={crop_pct} is out of range: use a share in (0, 1].")
    config = resolve_data_config({}, model=network) if source == "timm" else _torchvision_config(name)
    side = (input_size, input_size) if input_size is not None else tuple(config["input_size"][-2:])
    share = crop_pct or config["crop_pct"]
    return Preprocessing(
        input_size=cast(tuple[int, int], side),
        resized=cast(tuple[int, int], tuple(math.floor(s / share + 1e-6) for s in side)),
        interpolation=config["interpolation"],
        mean=cast(tuple[float, float, float], tuple(mean if mean is not None else config["mean"])),
        std=cast(tuple[float, float, float], tuple(std if std is not None else config["std"])),
        resize=resize,
    )


def _torchvision_config(name: str) -> dict[str, Any]:
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    (crop,), (resized,) = preset.crop_size, preset.resize_size
    names = {InterpolationMode.BILINEAR: "bilinear", InterpolationMode.BICUBIC: "bicubic"}
    return {
        "input_size": (3, crop, crop),
        "crop_pct": crop / resized,
        "interpolation": names[preset.interpolation],
        "mean": preset.mean,
        "std": preset.std,
    }
