"""Find the layers of a network that are worth looking at, by one probe with a dummy photo.

A feature map says all that a network knows at its depth only where every path from the photo to the logits passes
through it. Such layers (cuts) are found, not listed by hand: a layer is a cut when detaching its output leaves
the logits independent of the photo.
"""

from __future__ import annotations

import copy
import difflib
import math
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vrx.errors import VRXError

Layout = Literal["nchw", "nhwc", "tokens"]
MIN_STRIDE = 4
NOT_A_STAGE = (nn.Identity, nn.Dropout)


@dataclass(frozen=True)
class Layer:
    """Where a feature map ``[B, D, h, w]`` is read."""

    name: str  # of the module in the network, as named_modules gives it
    reduction: int  # stride to the photo, a power of two for convolutional networks
    channels: int  # D
    layout: Layout = "nchw"  # what the module gives: nchw, nhwc or tokens ([B, prefix + h w, D])
    grid: tuple[int, int] = (0, 0)  # (h, w)
    prefix: int = 0  # class, distillation and register tokens before the patch tokens

    def to_map(self, output: Tensor) -> Tensor:
        """What the module gives (or its gradient) -> ``[B, D, h, w]``."""
        if self.layout == "nchw":
            return output
        if self.layout == "nhwc":
            return output.permute(0, 3, 1, 2)
        return output[:, self.prefix :].transpose(1, 2).unflatten(2, self.grid)

    def constant(self, features: Tensor, like: Tensor) -> Tensor:
        """The output of the module when its map is one vector everywhere, for K vectors ``[K, D]``.

        ``like``: an output of the module for one photo; its prefix tokens are kept.
        """
        count = len(features)
        if self.layout == "nchw":
            return features[:, :, None, None].expand(-1, -1, *like.shape[2:]).contiguous()
        if self.layout == "nhwc":
            return features[:, None, None].expand(-1, *like.shape[1:3], -1).contiguous()
        patches = features[:, None].expand(-1, like.shape[1] - self.prefix, -1)
        return torch.cat([like[:, : self.prefix].expand(count, -1, -1), patches], dim=1)


Hook = Callable[[nn.Module, Any, Any], Any]


@contextmanager
def hooked(network: nn.Module, hooks: dict[str, Hook]) -> Iterator[None]:
    """Forward hooks by module name, removed whatever happens."""
    handles = []
    try:
        handles = [network.get_submodule(name).register_forward_hook(hook) for name, hook in hooks.items()]
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class _Output:
    """What one module gave in the probe."""

    name: str
    shape: tuple[int, ...]


def _trace(network: nn.Module, x: Tensor) -> list[_Output]:
    """Outputs of all modules that ran exactly once and gave one tensor, in the order in which they finished."""
    outputs: list[_Output] = []

    def record(name: str) -> Hook:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            outputs.append(_Output(name, tuple(output.shape) if isinstance(output, Tensor) else ()))

        return hook

    with hooked(network, {name: record(name) for name, _ in network.named_modules() if name}), torch.no_grad():
        network(x)
    runs = Counter(o.name for o in outputs)
    return [o for o in outputs if runs[o.name] == 1 and o.shape]


def _probe(network: nn.Module, size: tuple[int, int]) -> tuple[nn.Module, Tensor, list[_Output]]:
    """A network to probe, a dummy photo for it, and the outputs of its modules.

    Shapes and paths need no numbers: the network is copied without its weights (torch's meta device), which makes
    a pass free. One that insists on numbers is probed as it is.
    """
    ghost = copy.deepcopy(network).to("meta")
    try:
        x = _dummy(ghost, size)
        return ghost, x, _trace(ghost, x)
    except (RuntimeError, NotImplementedError):
        x = _dummy(network, size)
        return network, x, _trace(network, x)


def _trunk(network: nn.Module, opened: Container[str] = ()) -> set[str]:
    """Names of the top-level modules, and of what is inside those that are plain sequences, or named."""
    names: set[str] = set()

    def walk(module: nn.Module, prefix: str) -> None:
        for child_name, child in module.named_children():
            if not isinstance(child, NOT_A_STAGE):
                names.add(prefix + child_name)
            if isinstance(child, (nn.Sequential, nn.ModuleList)) or prefix + child_name in opened:
                walk(child, f"{prefix}{child_name}.")

    walk(network, "")
    return names


def _maps(network: nn.Module, outputs: Sequence[_Output], trunk: set[str], size: tuple[int, int]) -> list[Layer]:
    """The feature maps of the trunk up to the head's pooling."""
    maps: list[Layer] = []
    for output in outputs:
        if output.name in trunk and "Adaptive" in type(network.get_submodule(output.name)).__name__:
            break
        if output.name in trunk and len(output.shape) == 4:
            maps.append(_as_map(output, size))
    return maps


def is_cut(network: nn.Module, name: str, x: Tensor) -> bool:
    """Whether every path from the photo to the logits passes through this module's output."""
    with hooked(network, {name: lambda module, args, output: output.detach()}), torch.enable_grad():
        return not network(x.detach().clone().requires_grad_()).requires_grad


def _as_map(output: _Output, size: tuple[int, int]) -> Layer:
    """Read an output of four dimensions as a feature map, channels first or last."""
    _, a, b, c = output.shape
    first, last = _strides((b, c), size), _strides((a, b), size)
    if abs(first[0] - first[1]) <= abs(last[0] - last[1]):
        return Layer(output.name, _power_of_two(first), a, "nchw", (b, c))
    return Layer(output.name, _power_of_two(last), c, "nhwc", (a, b))


def _strides(grid: tuple[int, int], size: tuple[int, int]) -> tuple[float, float]:
    return math.log2(size[0] / grid[0]), math.log2(size[1] / grid[1])


def _power_of_two(strides: tuple[float, float]) -> int:
    return 2 ** max(0, round(sum(strides) / 2))


def find_layers(network: nn.Module, size: tuple[int, int]) -> list[Layer]:
    """One layer a stride (4, 8, 16, 32 where they exist) and, last, the map that the head pools; ``size``: (H, W).

    Raises:
        VRXError: the network has no feature map larger than 1 x 1 at this size.
    """
    ghost, x, outputs = _probe(network, size)
    blocks = _token_blocks(network, outputs)
    if blocks:
        return _token_layers(network, blocks, outputs, size)
    maps = _maps(network, outputs, _trunk(network), size)
    if max((m.reduction for m in maps), default=0) < MIN_STRIDE:  # a network inside another one
        inner = {o.name for o in outputs if len(o.shape) == 2}
        maps = _maps(network, outputs, _trunk(network, inner), size)
    if not maps or min(maps[-1].grid) < 2:
        raise VRXError(
            f"{type(network).__name__} has no last feature map larger than 1 x 1 at {size[0]} x {size[1]} pixels: "
            "give a larger classifier.input_size, or name the layers with classifier.layers=[...]."
        )
    layers: list[Layer] = []
    deepest = maps[-1].reduction
    for stride in sorted({m.reduction for m in maps if MIN_STRIDE <= m.reduction <= deepest} | {deepest}):
        cut = next((m for m in reversed(maps) if m.reduction == stride and is_cut(ghost, m.name, x)), None)
        if cut is not None:
            layers.append(cut)
    if not layers:
        raise VRXError(f"No layer of {type(network).__name__} carries all it sees: name some with classifier.layers.")
    return layers


def _dummy(network: nn.Module, size: tuple[int, int]) -> Tensor:
    reference = next(network.parameters())
    noise = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    return noise.to(reference.device, reference.dtype)


def _token_blocks(network: nn.Module, outputs: Sequence[_Output]) -> list[_Output]:
    """The transformer blocks: the longest sequence of modules of one kind that all give the same ``[1, T, D]``."""
    groups: dict[tuple[str, type, tuple[int, ...]], list[_Output]] = {}
    for output in outputs:
        parent = output.name.rpartition(".")[0]
        if len(output.shape) == 3 and isinstance(network.get_submodule(parent), (nn.Sequential, nn.ModuleList)):
            key = (parent, type(network.get_submodule(output.name)), output.shape)
            groups.setdefault(key, []).append(output)
    blocks = max(groups.values(), key=len, default=[])
    later = outputs[outputs.index(blocks[0]) :] if blocks else []
    return [] if any(len(o.shape) == 4 and o.name in _trunk(network) for o in later) else blocks


def _token_layers(
    network: nn.Module, blocks: list[_Output], outputs: list[_Output], size: tuple[int, int]
) -> list[Layer]:
    first, depth = _as_tokens(blocks[0], outputs, size), len(blocks)
    inner = sorted({max(0, round(depth * q) - 1) for q in (0.25, 0.5, 0.75)} - {depth - 1})
    last = replace(first, name=blocks[-1].name)
    if not _patches_matter(network, last, _dummy(network, size)):
        # the logits read the class token alone: the patch tokens speak for the last time in the last block's attention
        last = replace(first, name=_first_norm(network, blocks[-1], outputs))
    return [*(replace(first, name=blocks[i].name) for i in inner), last]


def _as_tokens(output: _Output, outputs: Sequence[_Output], size: tuple[int, int]) -> Layer:
    """Read an output ``[1, T, D]`` as tokens of a grid, prefix tokens first."""
    grid = _token_grid(output, outputs)
    _, tokens, channels = output.shape
    return Layer(output.name, round(size[0] / grid[0]), channels, "tokens", grid, tokens - grid[0] * grid[1])


def _token_grid(block: _Output, outputs: Sequence[_Output]) -> tuple[int, int]:
    """(h, w) of the patch tokens: that of the patch embedding, or the largest square that the tokens fill."""
    tokens = block.shape[1]
    before = outputs[: outputs.index(block)]
    for output in reversed(before):
        if len(output.shape) == 4 and output.shape[1] == block.shape[2] and output.shape[2] * output.shape[3] <= tokens:
            return output.shape[2], output.shape[3]
    side = math.isqrt(tokens)
    return side, side


def _patches_matter(network: nn.Module, layer: Layer, x: Tensor) -> bool:
    """Whether the head reads the patch tokens of this layer (asked of what its last linear layer is given)."""
    leaves: list[Tensor] = []
    read: list[Tensor] = []

    def start(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[0].clone()

    def watch(module: nn.Module, args: Any, output: Tensor) -> None:
        read.append(args[0])

    hooks: dict[str, Hook] = {n: watch for n, m in network.named_modules() if isinstance(m, nn.Linear)}
    with hooked(network, {**hooks, layer.name: start}), torch.enable_grad():
        network(x)
        (gradient,) = torch.autograd.grad((read[-1] ** 3).sum(), leaves)
    return bool(layer.to_map(gradient).abs().max() > 0)


def _first_norm(network: nn.Module, block: _Output, outputs: Sequence[_Output]) -> str:
    for output in outputs:
        inside = output.name.startswith(f"{block.name}.") and output.shape == block.shape
        if inside and "Norm" in type(network.get_submodule(output.name)).__name__:
            return output.name
    return block.name


def named_layers(network: nn.Module, names: Sequence[str], size: tuple[int, int]) -> list[Layer]:
    """The layers that a user names, in the order in which they run.

    Raises:
        VRXError: no such module, or one that gives no feature map; the nearest names are offered.
    """
    _, _, outputs = _probe(network, size)
    outputs = [o for o in outputs if len(o.shape) in (3, 4)]
    unknown = [n for n in names if n not in {o.name for o in outputs}]
    if unknown or not names:
        near = difflib.get_close_matches(unknown[0] if unknown else "", [o.name for o in outputs], n=4, cutoff=0.4)
        raise VRXError(
            f"classifier.layers={list(names)}: {', '.join(unknown) or 'nothing'} gives no feature map."
            + (f" Did you mean {', '.join(near)}?" if near else "")
        )
    chosen = [o for o in outputs if o.name in names]
    return [_as_map(o, size) if len(o.shape) == 4 else _as_tokens(o, outputs, size) for o in chosen]


def layer_to_match(layers: Sequence[Layer]) -> str:
    """Where like parts of different photos look alike: stride 16, or three quarters of a transformer's depth."""
    if layers[-1].layout == "tokens":
        return layers[max(0, len(layers) - 2)].name
    return min(layers, key=lambda layer: abs(math.log2(layer.reduction) - 4)).name


def layer_of_parts(layers: Sequence[Layer], cells: int = 14) -> str:
    """The layer whose map has nearest to ``cells`` x ``cells`` cells: a photo's parts are about as large as one.

    Stride 16 at 224 pixels, stride 8 at 128; the deeper of two that are equally near. Transformers, whose maps are all
    of one size: three quarters of the depth.
    """
    if layers[-1].layout == "tokens":
        return layer_to_match(layers)

    def distance(layer: Layer) -> float:
        return round(abs(math.log2(math.sqrt(layer.grid[0] * layer.grid[1]) / cells)), 3)

    return min(reversed(layers), key=distance).name
