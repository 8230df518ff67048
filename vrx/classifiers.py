"""F, the classifier to be explained: frozen, in eval mode, with its own preprocessing and its inner maps."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import timm
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.transforms import v2

from vrx.structures import VRXError

Precision = Literal["fp32", "bf16"]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Layer:
    """A place where F's maps are read: module name, stride with respect to the photo, channels."""

    name: str
    reduction: int
    channels: int


@dataclass(frozen=True)
class Activations:
    """What F's pass over B photos leaves.

    Args:
        logits: of the classes of interest, ``[B, n]``.
        maps: feature map of every layer, ``[B, D, h, w]``.
        gradcam: Grad-CAM of every class of interest, ``[B, n, h, w]``, >= 0 (Selvaraju et al. 2017).
        grad_act: gradient x activation of each centred logit, summed over channels, ``[B, n, h, w]`` a layer.
        grad_act_positive: the same with the negative products left out before the sum.
    """

    logits: Tensor
    maps: dict[str, Tensor]
    gradcam: Tensor
    grad_act: dict[str, Tensor] = field(default_factory=dict)
    grad_act_positive: dict[str, Tensor] = field(default_factory=dict)


class Classifier(nn.Module):
    """The frozen F.

    Args:
        network: any image classifier, photos ``[B, 3, H, W]`` -> logits ``[B, C]``.
        class_names: the n classes of interest.
        class_indices: their places among the C outputs; None: all outputs, in order.
        input_size: (H, W).
        mean: of F's normalisation, RGB in [0, 1].
        std: the same.
        resize: shorter side before the centre crop; None: the photo is resized to ``input_size`` as it is.
        layers: module names to read maps from, shallow to deep; None: found by a probe.
        precision: ``bf16`` computes under autocast.
        architecture: a name for the fingerprint.
    """

    def __init__(
        self,
        network: nn.Module,
        class_names: Sequence[str],
        class_indices: Sequence[int] | None = None,
        input_size: tuple[int, int] = (224, 224),
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        resize: int | None = None,
        interpolation: str = "bicubic",
        layers: Sequence[str] | None = None,
        precision: Precision = "fp32",
        architecture: str = "",
    ) -> None:
        super().__init__()
        if precision not in get_args(Precision):
            raise VRXError(f"classifier.precision={precision!r}: use fp32 or bf16.")
        self.network = network.eval().requires_grad_(False)
        self.class_names = tuple(class_names)
        self.input_size, self.resize, self.interpolation = input_size, resize, interpolation
        self.precision, self.architecture = precision, architecture
        self.register_buffer("mean", torch.tensor(list(mean)).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(list(std)).view(3, 1, 1))
        self.mean: Tensor
        self.std: Tensor
        with torch.inference_mode():
            outputs = self.network(torch.zeros(1, 3, *input_size)).shape[1]
        indices = list(range(outputs)) if class_indices is None else list(class_indices)
        _check_classes(self.class_names, indices, outputs)
        self.register_buffer("indices", torch.tensor(indices))
        self.indices: Tensor
        self.layers = probe_layers(self.network, input_size, layers)
        self._fingerprint = ""
        self.eval()

    def train(self, mode: bool = True) -> Classifier:
        """F never trains while it is explained: it stays in eval mode."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Where F computes."""
        return self.mean.device

    @property
    def match_layer(self) -> str:
        """The layer of the matching features: the last at stride 16 or the nearest to it, but never the last."""
        inner = self.layers[:-1] or self.layers
        best = min(abs(layer.reduction - 16) for layer in inner)
        return [layer.name for layer in inner if abs(layer.reduction - 16) == best][-1]

    @property
    def fingerprint(self) -> str:
        """Hash of the weights, the architecture, the preprocessing and the classes of interest."""
        if not self._fingerprint:
            state = hashlib.sha256()
            for name, value in sorted(self.state_dict().items()):
                state.update(name.encode())
                state.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
            plain = (self.class_names, self.input_size, self.resize, self.interpolation, self.layers)
            state.update(repr((plain, self.precision, self.architecture, str(self.network))).encode())
            self._fingerprint = state.hexdigest()
        return self._fingerprint

    def transform(self, image: Image.Image) -> Tensor:
        """F's own preprocessing: an RGB image -> float32 ``[3, H, W]``, normalised."""
        mode = v2.InterpolationMode(self.interpolation)
        if self.resize is not None and image.size[::-1] != self.input_size:
            image = v2.functional.center_crop(v2.functional.resize(image, [self.resize], mode), list(self.input_size))
        elif image.size[::-1] != self.input_size:
            image = v2.functional.resize(image, list(self.input_size), mode)
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255
        return (pixels - self.mean.cpu()) / self.std.cpu()

    def pixels(self, x: Tensor) -> NDArray[np.uint8]:
        """The inverse of the normalisation: ``[B, 3, H, W]`` -> uint8 ``[B, H, W, 3]``."""
        shown = ((x * self.std.to(x.device) + self.mean.to(x.device)) * 255).round().clamp(0, 255)
        return shown.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    def _run(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits = self.network(x)
        return logits.float()[:, self.indices]

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the classes of interest, ``[B, n]``."""
        return self._run(x)

    def head_values(self, features: Tensor) -> Tensor:
        """F's own head on pooled last-layer features.

        Where the head is not a linear layer on the pooled map (a class token, say), it is applied to the mean token.

        Args:
            features: ``[K, D]``.

        Returns:
            ``[K, n]``.
        """
        values = features
        norm = getattr(self.network, "fc_norm", None)
        if norm is not None:
            values = norm(values)
        return _linear_head(self.network)(values)[:, self.indices]

    @contextmanager
    def _tapped(self, start: str | None) -> Iterator[dict[str, Tensor]]:
        """Record the maps of all layers; from ``start`` on they carry gradients. Hooks are removed even on error."""
        taken: dict[str, Tensor] = {}
        modules = dict(self.network.named_modules())
        reached = [False]

        def hook(name: str) -> Callable[..., Tensor]:
            def take(module: nn.Module, args: Any, output: Tensor) -> Tensor:
                if name == start:
                    output = output.detach().requires_grad_()
                    reached[0] = True
                taken[name] = output
                # a copy goes on, so that an in-place ReLU further down cannot change what was recorded
                return output.clone()

            return take

        handles = [modules[layer.name].register_forward_hook(hook(layer.name)) for layer in self.layers]
        try:
            yield taken
        finally:
            for handle in handles:
                handle.remove()

    def _as_map(self, value: Tensor) -> Tensor:
        """Tokens ``[B, T, D]`` -> ``[B, D, h, w]`` without class and register tokens; maps stay."""
        if value.ndim == 4:
            return value
        height, width = token_grid(self.network, value.shape[1], self.input_size)
        patches = value[:, value.shape[1] - height * width :]
        return patches.transpose(1, 2).reshape(len(value), -1, height, width)

    def inspect(self, x: Tensor, gradients: Sequence[str] = ()) -> Activations:
        """One pass of F and, for every class of interest, one backward pass down to the shallowest asked layer.

        Without ``gradients`` only the part from the last map to the logits is differentiated: Grad-CAM costs next to
        nothing then.

        Args:
            x: normalised photos ``[B, 3, H, W]``.
            gradients: names of layers whose gradient x activation is wanted.

        Raises:
            VRXError: an unknown layer.
        """
        names = [layer.name for layer in self.layers]
        unknown = set(gradients) - set(names)
        if unknown:
            raise VRXError(f"No layer {sorted(unknown)} among those that F is read at: {', '.join(names)}.")
        last = names[-1]
        asked = [name for name in names if name in gradients]
        with torch.inference_mode(False), torch.enable_grad(), self._tapped(asked[0] if asked else last) as taken:
            logits = self._run(x.clone() if x.is_inference() else x)
            targets = [*asked, *([] if last in asked else [last])]
            per_class = self._backward(logits, [taken[name] for name in targets])
        maps = {name: self._as_map(value.detach()) for name, value in taken.items()}
        grads = {name: [self._as_map(g[i]).float() for g in per_class] for i, name in enumerate(targets)}
        weights = torch.stack([g.mean((2, 3)) for g in grads[last]], 1)
        gradcam = torch.einsum("bnd,bdhw->bnhw", weights, maps[last].float()).relu()
        signed, positive = {}, {}
        for name in asked:
            signed[name], positive[name] = _gradient_times_activation(grads[name], maps[name].float())
        return Activations(logits.detach(), maps, gradcam, signed, positive)

    def _backward(self, logits: Tensor, at: list[Tensor]) -> list[tuple[Tensor, ...]]:
        """Gradient of each plain logit at some maps; photos are independent, so the batch is summed."""
        n = logits.shape[1]
        return [torch.autograd.grad(logits[:, c].sum(), at, retain_graph=c < n - 1) for c in range(n)]

    def layer_gradient(self, x: Tensor, layer: str, index: int) -> Tensor:
        """Gradient of one class' logit at a layer, averaged over space: ``[B, D]`` (TCAV)."""
        with torch.inference_mode(False), torch.enable_grad(), self._tapped(layer) as taken:
            logits = self._run(x)
            (gradient,) = torch.autograd.grad(logits[:, index].sum(), taken[layer])
        return self._as_map(gradient).float().mean((2, 3))

    def save_weights(self, path: Path) -> None:
        """Write the network's weights as safetensors, atomically."""
        state = {k: v.detach().cpu().contiguous().clone() for k, v in self.network.state_dict().items()}
        temporary = path.with_name(path.name + ".part")
        save_file(state, temporary)
        temporary.replace(path)


def _gradient_times_activation(gradients: list[Tensor], maps: Tensor) -> tuple[Tensor, Tensor]:
    """Channel sums of (gradient of each centred logit) x activation, ``[B, n, h, w]``: signed, and positive part."""
    mean = torch.stack(gradients).mean(0)
    products = [(g - mean) * maps for g in gradients]
    return (
        torch.stack([p.sum(1) for p in products], 1),
        torch.stack([p.clamp(min=0).sum(1) for p in products], 1),
    )


def _check_classes(names: Sequence[str], indices: Sequence[int], outputs: int) -> None:
    if len(names) < 2:
        raise VRXError(f"{len(names)} class of interest: VRX needs at least two to say why this and why not that.")
    if len(indices) != len(names):
        raise VRXError(
            f"{len(names)} classes of interest but {len(indices)} outputs of F: set data.class_indices to the output "
            "of each class."
        )
    wrong = [i for i in indices if not 0 <= i < outputs]
    if wrong or len(set(indices)) < len(indices):
        raise VRXError(f"data.class_indices={list(indices)}: they must be distinct and within 0..{outputs - 1}.")


def _linear_head(network: nn.Module) -> nn.Module:
    head = network.get_classifier() if hasattr(network, "get_classifier") else None
    if isinstance(head, nn.Linear):
        return head
    linear = [m for m in network.modules() if isinstance(m, nn.Linear)]
    if not linear:
        raise VRXError("F has no linear head: graph sources 'head' and 'head_area' need one; use other graph.sources.")
    return linear[-1]


def token_grid(network: nn.Module, tokens: int, input_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the patch tokens among ``tokens``, inferred from the count and the photo's shape."""
    prefix = getattr(network, "num_prefix_tokens", None)
    for extra in [prefix] if prefix is not None else range(0, 9):
        count = tokens - extra
        height = round((count * input_size[0] / input_size[1]) ** 0.5)
        if height > 0 and count % height == 0 and abs(count // height / height - input_size[1] / input_size[0]) < 0.1:
            return height, count // height
    raise VRXError(f"Cannot lay out {tokens} tokens of {type(network).__name__} as a grid: give classifier.layers.")


def probe_layers(network: nn.Module, input_size: tuple[int, int], names: Sequence[str] | None = None) -> list[Layer]:
    """Where to read F: the last block at every spatial size and, last, the map that the pooling reads.

    A transformer is read at a quarter, half and three quarters of its blocks and at the input of its last one
    (normalised), the last place whose patch tokens still reach the logits.
    """
    shapes = _dry_run(network, input_size)
    if names is None:
        blocks = [name for name in shapes if _is_block(network, name, shapes)]
        tokens = [name for name in blocks if len(shapes[name]) == 3]
        names = _transformer_layers(network, tokens) if tokens else _stage_ends(blocks, shapes)
    unknown = [name for name in names if name not in shapes]
    if unknown:
        near = difflib.get_close_matches(unknown[0], list(shapes), 3, 0.3)
        raise VRXError(f"classifier.layers: F has no layer {unknown[0]!r} with a map; nearest: {', '.join(near)}.")
    return [_layer(network, name, shapes[name], input_size) for name in names]


def _layer(network: nn.Module, name: str, shape: tuple[int, ...], input_size: tuple[int, int]) -> Layer:
    height = shape[2] if len(shape) == 4 else token_grid(network, shape[1], input_size)[0]
    return Layer(name, round(input_size[0] / height), shape[1] if len(shape) == 4 else shape[2])


def _dry_run(network: nn.Module, input_size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Output shape of every module that gives a map or tokens, in the order in which they finish."""
    shapes: dict[str, tuple[int, ...]] = {}
    handles = []

    def hook(name: str) -> Callable[..., None]:
        def take(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim in (3, 4) and min(output.shape[1:]) > 1:
                shapes.pop(name, None)
                shapes[name] = tuple(output.shape)

        return take

    for name, module in network.named_modules():
        if name:
            handles.append(module.register_forward_hook(hook(name)))
    try:
        with torch.inference_mode():
            network(torch.zeros(1, 3, *input_size))
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def _is_block(network: nn.Module, name: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Top-level modules, and the members of top-level lists and sequences: never the inside of a block."""
    parts = name.split(".")
    if len(parts) == 1:
        return not isinstance(network.get_submodule(name), nn.Identity)
    inside = [network.get_submodule(".".join(parts[:i])) for i in range(1, len(parts))]
    return len(parts) <= 3 and all(isinstance(m, (nn.Sequential, nn.ModuleList)) or _holds_tokens(m) for m in inside)


def _holds_tokens(module: nn.Module) -> bool:
    return type(module).__name__ == "Encoder"  # torchvision's transformers keep their blocks in one


def _stage_ends(blocks: list[str], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    ends: dict[tuple[int, ...], str] = {}
    for name in blocks:
        ends[shapes[name][2:]] = name
    kept = [name for size, name in ends.items() if len(size) == 2 and min(size) > 1]
    return kept[-4:]


def _transformer_layers(network: nn.Module, tokens: list[str]) -> list[str]:
    depth: dict[str, list[str]] = {}
    for name in tokens:
        depth.setdefault(name.rpartition(".")[0], []).append(name)
    blocks = max(depth.values(), key=len)
    norm = next(
        (n for n, m in network.get_submodule(blocks[-1]).named_children() if isinstance(m, nn.LayerNorm)), None
    )
    last = f"{blocks[-1]}.{norm}" if norm else blocks[-2]
    quarters = [blocks[max(0, round(len(blocks) * q) - 1)] for q in (0.25, 0.5, 0.75)]
    return [*dict.fromkeys(quarters), last]


def _known(name: str, source: str) -> bool:
    return name in (timm.list_models() if source == "timm" else torchvision.models.list_models())


def _resolve(name: str, source: str | None) -> tuple[str, str]:
    """``timm/...``, ``torchvision/...`` or a plain name -> (source, name)."""
    head, _, tail = name.partition("/")
    if head in ("timm", "torchvision") and tail:
        source, name = head, tail
    base = name.partition(".")[0]  # timm: architecture.weights
    if base == "mobilenetv1_025":
        return "timm", name
    for candidate in [source] if source else ["timm", "torchvision"]:
        if _known(base, candidate):
            return candidate, name
    everything = [*timm.list_models(), *torchvision.models.list_models()]
    near = difflib.get_close_matches(base, everything, 4, 0.3)
    raise VRXError(f"classifier.name={name!r} is not a model of {source or 'timm or torchvision'}; nearest: {', '.join(near)}.")


def _create(source: str, name: str, kwargs: dict[str, Any], pretrained: bool) -> nn.Module:
    if name == "mobilenetv1_025":  # width 0.25, which timm registers no name for
        from timm.models.efficientnet import _gen_mobilenet_v1

        return _gen_mobilenet_v1("mobilenetv1_100", 0.25, **kwargs)
    try:
        if source == "timm":
            return timm.create_model(name, pretrained=pretrained, **kwargs)
        if not pretrained and name in ("googlenet", "inception_v3"):
            kwargs = {"init_weights": True, "aux_logits": False, **kwargs}
        return torchvision.models.get_model(name, weights="DEFAULT" if pretrained else None, **kwargs)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise VRXError(
            f"The weights of {source}/{name} could not be downloaded ({str(error).splitlines()[0][:120]}). Give a "
            "local file: classifier.checkpoint=<.safetensors or .pth>, or classifier.pretrained=false for random ones."
        ) from error


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Weights of a file, safetensors or torch (``weights_only``); wrappers and prefixes are removed.

    Raises:
        VRXError: no such file, or not a checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise VRXError(f"classifier.checkpoint={path}: no such file.")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise VRXError(f"classifier.checkpoint={path} cannot be read ({str(error)[:120]}).") from error
    except Exception as error:  # pickle errors have no common base
        raise VRXError(f"classifier.checkpoint={path} is not a plain weights file ({str(error)[:120]}).") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise VRXError(f"classifier.checkpoint={path} holds no state dict.")
    for prefix in ("network.", "module.", "model."):
        if state and all(k.startswith(prefix) for k in state):
            state = {k[len(prefix) :]: v for k, v in state.items()}
    return state


def _load(network: nn.Module, path: str | Path) -> None:
    state = read_checkpoint(path)
    own = network.state_dict()
    state = {k: v for k, v in state.items() if not (k.startswith(("aux1.", "aux2.", "AuxLogits.")) and k not in own)}
    wrong = [k for k in own if k not in state or state[k].shape != own[k].shape]
    wrong += [k for k in state if k not in own]
    if wrong:
        raise VRXError(
            f"classifier.checkpoint={path} does not fit the network: {len(wrong)} keys differ, first {wrong[:3]}. "
            "Is classifier.name the right one, and the number of classes?"
        )
    network.load_state_dict(state)


def load_classifier(
    name: str,
    class_names: Sequence[str],
    class_indices: Sequence[int] | None = None,
    checkpoint: str | None = None,
    pretrained: bool = True,
    source: str | None = None,
    input_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: int | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    layers: Sequence[str] | None = None,
    precision: Precision = "fp32",
) -> Classifier:
    """Build F.

    Args:
        name: of a timm or torchvision model; ``timm/`` or ``torchvision/`` before it says which.
        class_names: the n classes of interest.
        class_indices: their outputs; None: F has n outputs, one a class.
        checkpoint: local weights, safetensors or torch; None: downloaded when ``pretrained``.
        pretrained: whether to download weights when there is no checkpoint.
        source: ``timm`` or ``torchvision``; None: whichever knows the name, timm first.
        input_size: side of the square that F sees; None: the model's own.
        mean: of the normalisation; None: the model's own.
        std: the same.
        resize: shorter side before the centre crop; None: the model's own (input size / crop share).
        model_kwargs: for the constructor of the model.
        layers: where to read maps; None: found by a probe.
        precision: ``fp32`` or ``bf16``.

    Raises:
        VRXError: an unknown name, weights that cannot be had or do not fit, wrong classes.
    """
    source, name = _resolve(name, source)
    kwargs = dict(model_kwargs or {})
    if class_indices is None:
        kwargs.setdefault("num_classes", len(class_names))
    if input_size is not None and source == "timm" and name.startswith(("vit", "deit", "swin")):
        kwargs.setdefault("img_size", input_size)
    network = _create(source, name, kwargs, pretrained and checkpoint is None)
    if checkpoint is not None:
        _load(network, checkpoint)
    own = _own_preprocessing(source, network)
    side = input_size or own["input_size"]
    return Classifier(
        network,
        class_names,
        class_indices,
        (side, side),
        mean or own["mean"],
        std or own["std"],
        resize or round(side / own["crop_pct"]),
        own["interpolation"],
        layers,
        precision,
        f"{source}/{name}",
    )


def _own_preprocessing(source: str, network: nn.Module) -> dict[str, Any]:
    """The model's own evaluation transform: input size, mean, std, crop share, interpolation."""
    if source == "timm":
        config = timm.data.resolve_data_config({}, model=network)
        interpolation = config["interpolation"]
        return {
            "input_size": config["input_size"][-1],
            "mean": config["mean"],
            "std": config["std"],
            "crop_pct": config["crop_pct"],
            "interpolation": interpolation if interpolation in ("bilinear", "bicubic", "nearest") else "bicubic",
        }
    side, resize = (299, 342) if type(network).__name__ == "Inception3" else (224, 256)
    return {
        "input_size": side,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "crop_pct": side / resize,
        "interpolation": "bilinear",
    }
