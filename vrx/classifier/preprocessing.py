"""From a photo to a classifier's input: the network's own preprocessing, as it is given or as the network says it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from PIL import Image
from timm.data import resolve_data_config
from timm.data.transforms import ResizeKeepRatio, str_to_interp_mode
from torch import Tensor, nn
from torchvision.transforms import functional as tv

from vrx.errors import VRXError

log = logging.getLogger("vrx")

Resize = Literal["shorter", "squash", "none"]
MAX_ASPECT = 100  # of a photo: beyond it, resizing the shorter side makes a picture of gigabytes
SETTINGS = ("input_size", "mean", "std", "crop_pct", "interpolation", "resize")
EXAMPLE = "dict(input_size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))"


@dataclass(frozen=True)
class Preprocessing:
    """F's own way from a photo to its input. Picklable, so that worker processes can do it.

    Args:
        input_size: height and width of F's input.
        resized: height and width before the centre crop (``shorter``: of the shorter side, by this target).
        interpolation: ``bilinear``, ``bicubic``, ...
        mean: of the three channels, for values in [0, 1].
        std: the same.
        resize: ``shorter`` (keeps the aspect, then centre crop), ``squash`` (to the input size, nothing lost)
            or ``none`` (the photo must have the input size).

    Raises:
        VRXError: sizes or standard deviations that are not positive, or an unknown way to resize.
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
        try:
            str_to_interp_mode(self.interpolation)
        except KeyError as error:
            raise VRXError(f"classifier.interpolation={self.interpolation!r}: use bilinear or bicubic.") from error

    @classmethod
    def of(cls, value: Any) -> Preprocessing:
        """Preprocessing from whatever describes it.

        Args:
            value: a :class:`Preprocessing`; a mapping of its arguments, or of ``input_size`` (side, (H, W) or
                (3, H, W)) with ``mean``, ``std``, ``crop_pct``, ``interpolation``, ``resize``, as timm's data configs
                are; torchvision's ``weights.transforms()``; or torchvision's ``Compose`` of ``Resize``,
                ``CenterCrop`` and ``Normalize``.

        Raises:
            VRXError: none of these, or no input size in it.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, Mapping):
            if "resized" in value:  # its own settings, perhaps read from a file
                plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
                return cls(**plain)
            return _from_settings(value)
        if hasattr(value, "crop_size") and hasattr(value, "resize_size"):
            return _from_settings(preset_settings(value))
        if hasattr(value, "transforms"):
            return _from_compose(value.transforms)
        raise VRXError(
            f"preprocessing={type(value).__name__}: give a vrx Preprocessing, a dictionary like {EXAMPLE}, timm's data "
            "config, torchvision's weights.transforms(), or a torchvision Compose of Resize, CenterCrop and Normalize."
        )

    def settings(self) -> dict[str, object]:
        """What determines the input, for fingerprints and saved runs: :meth:`of` reads it."""
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
                    f"A photo of {height} x {width} pixels, the classifier takes {self.input_size[0]} x "
                    f"{self.input_size[1]}: with classifier.resize=none photos need that size; use shorter or squash."
                )
            return image
        how = str_to_interp_mode(self.interpolation)
        if self.resize == "squash":
            return cast(Image.Image, tv.resize(image, list(self.input_size), how))
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise VRXError(f"A photo of {height} x {width} pixels is too elongated (more than {MAX_ASPECT} to 1).")
        if self.resized[0] == self.resized[1]:
            image = cast(Image.Image, tv.resize(image, [self.resized[0]], how))
        else:
            image = ResizeKeepRatio(self.resized, interpolation=self.interpolation)(image)
        return cast(Image.Image, tv.center_crop(image, list(self.input_size)))


def preprocessing_of(network: nn.Module, given: Mapping[str, Any]) -> Preprocessing:
    """What is given, and for the rest what the network's authors published.

    Args:
        network: one with a ``pretrained_cfg``, as timm's have it, says how it reads photos. Any other needs
            ``input_size``; the rest defaults to values in [0, 1] (mean 0, std 1), the whole shorter side, bilinear.
        given: some of ``SETTINGS``; null is not given.

    Raises:
        VRXError: no input size is known, or a value out of range.
    """
    given = {name: given[name] for name in SETTINGS if given.get(name) is not None}
    if getattr(network, "pretrained_cfg", None):
        return _from_settings({**resolve_data_config({}, model=network), **given})
    if "input_size" not in given:
        raise VRXError(
            f"{type(network).__name__} does not say how it reads a photo: give classifier.input_size=<side in pixels>, "
            "and classifier.mean=[...] classifier.std=[...] unless it takes values in [0, 1]."
        )
    if "mean" not in given and "std" not in given:
        log.warning(
            "classifier.mean and classifier.std are not given: %s reads values in [0, 1].", type(network).__name__
        )
    return _from_settings(given)


def _from_settings(values: Mapping[str, Any]) -> Preprocessing:
    """From ``SETTINGS``; other keys of timm's data configs count for nothing."""
    if "input_size" not in values:
        raise VRXError(f"preprocessing={dict(values)} has no input_size: give a dictionary like {EXAMPLE}.")
    unknown = set(values) - {*SETTINGS, "crop_mode"}
    if unknown:
        raise VRXError(f"preprocessing has {', '.join(sorted(unknown))}: its keys are {', '.join(SETTINGS)}.")
    size, share = values["input_size"], values.get("crop_pct") or 1.0
    if not 0 < share <= 1:
        raise VRXError(f"classifier.crop_pct={share} is out of range: use a share in (0, 1].")
    side = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    squashed = values.get("crop_mode") == "squash" and share == 1
    return Preprocessing(
        input_size=cast(tuple[int, int], side),
        resized=cast(tuple[int, int], tuple(math.floor(s / share + 1e-6) for s in side)),
        interpolation=values.get("interpolation", "bilinear"),
        mean=_three(values.get("mean", 0.0)),
        std=_three(values.get("std", 1.0)),
        resize=values.get("resize") or ("squash" if squashed else "shorter"),
    )


def _three(value: float | Sequence[float]) -> tuple[float, float, float]:
    numbers = [float(value)] * 3 if isinstance(value, (int, float)) else [float(v) for v in value]
    return cast(tuple[float, float, float], tuple(numbers))


def preset_settings(preset: Any) -> dict[str, Any]:
    """Torchvision's ``weights.transforms()`` as ``SETTINGS``."""
    (crop,), (resized,) = preset.crop_size, preset.resize_size
    return {
        "input_size": (3, crop, crop),
        "crop_pct": crop / resized,
        "interpolation": preset.interpolation.value,
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
    }


def _from_compose(transforms: Sequence[Any]) -> Preprocessing:
    """From torchvision's ``Resize`` (a side, or H and W), ``CenterCrop`` and ``Normalize``, in a ``Compose``."""
    found = {type(transform).__name__: transform for transform in _flat(transforms)}
    known = {"Resize", "CenterCrop", "Normalize", "ToTensor", "ToImage", "ToDtype", "PILToTensor", "RGB"}
    foreign = set(found) - known - {"ConvertImageDtype"}
    resize, crop, normalize = (found.get(name) for name in ("Resize", "CenterCrop", "Normalize"))
    if foreign or (crop is None and resize is None):
        raise VRXError(
            f"preprocessing has {', '.join(found) or 'no transforms'}: of a Compose, Resize, CenterCrop and Normalize "
            f"are understood, and one of the first two must give a size; or give a dictionary like {EXAMPLE}."
        )
    size = _pair(crop.size if crop is not None else resize.size)  # type: ignore[union-attr]
    resized, way = size, "none"
    if resize is not None:
        resized = _pair(resize.size)
        single = isinstance(resize.size, int) or len(resize.size) == 1
        if not single and resized != size:
            raise VRXError(f"preprocessing squashes to {resized} and crops to {size}: leave the CenterCrop out.")
        if single and crop is None:
            raise VRXError(f"preprocessing resizes one side to {resized[0]} alone: add a CenterCrop.")
        way = "shorter" if single else "squash"
    how = getattr(resize, "interpolation", "bilinear")  # torchvision's enumeration, or in v2 a string
    return Preprocessing(
        size,
        resized,
        str(getattr(how, "value", how)),
        _three(normalize.mean if normalize is not None else 0.0),
        _three(normalize.std if normalize is not None else 1.0),
        cast(Resize, way),
    )


def _flat(transforms: Sequence[Any]) -> Iterator[Any]:
    for transform in transforms:
        if hasattr(transform, "transforms"):
            yield from _flat(transform.transforms)
        else:
            yield transform


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    numbers = [int(size)] if isinstance(size, int) else [int(s) for s in size]
    return numbers[0], numbers[-1]
