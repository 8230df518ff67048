"""F, the classifier to be explained: frozen, in eval mode, with its own preprocessing."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from vrx.classifier.activations import Activations, gradcam_of, gradient_evidence, most_probable, recording
from vrx.classifier.compiled import Compiled
from vrx.classifier.head import Head
from vrx.classifier.layers import Hook, Layer, find_layers, hooked, layer_of_parts, layer_to_match, named_layers
from vrx.classifier.preprocessing import Preprocessing
from vrx.errors import VRXError
from vrx.machine import fast_precision
from vrx.specs import name_of
from vrx.storage import code_of, digest, write_atomically

LIBRARIES = ("torch", "torchvision", "timm")  # their code is not part of the fingerprint

Precision = Literal["auto", "fp32", "bf16"]


class Classifier(nn.Module):
    """A frozen image classifier, seen through n classes of interest.

    Args:
        network: photo batch ``[B, 3, H, W]`` -> logits ``[B, C]``.
        class_names: the n classes of interest.
        class_indices: which of the C logits they are; None: C = n, and they are all.
        preprocessing: the network's own.
        layers: modules whose feature maps are read, the last one for Grad-CAM; None: found by a probe.
        precision: of the forward and backward passes; results are float32 in any case. ``auto``: bf16 where this
            machine computes with it (:func:`vrx.machine.fast_precision`).
        compiled: whether plain forward passes run by ``torch.compile``; those whose feature maps are read never do. How
            F runs, not what it is: the fingerprint stays.
        built_by: ``_target_`` and arguments that build the network anew, plain; None: it was given as an object.

    Raises:
        VRXError: classes and logits do not fit, or the layers do not exist.
    """

    mean: Tensor
    std: Tensor
    class_indices: Tensor

    def __init__(
        self,
        network: nn.Module,
        class_names: Sequence[str],
        class_indices: Sequence[int] | None,
        preprocessing: Preprocessing,
        *,
        layers: Sequence[str] | None = None,
        precision: Precision = "fp32",
        compiled: bool = False,
        built_by: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if precision not in get_args(Precision):
            raise VRXError(f"classifier.precision={precision!r}: use auto, fp32 or bf16.")
        # channels last: three times faster for depthwise convolutions on a CPU, and what tensor cores want
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.precision = fast_precision() if precision == "auto" else precision
        self._compiled = Compiled(self.network) if compiled else None
        self.class_names = tuple(class_names)
        self.transform = preprocessing
        size = preprocessing.input_size
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(3, 1, 1), persistent=False)
        indices = _checked_indices(class_indices, self.class_names, self._count_outputs())
        self.register_buffer("class_indices", torch.tensor(indices), persistent=False)
        self.layers: list[Layer] = (
            find_layers(self.network, size) if layers is None else named_layers(self.network, layers, size)
        )
        self._given_layers = None if layers is None else list(layers)
        self._built_by = None if built_by is None else dict(built_by)

    def _count_outputs(self) -> int:
        height, width = self.input_size
        try:
            with torch.no_grad():
                output = self.network(torch.zeros(1, 3, height, width))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise VRXError(
                f"{type(self.network).__name__} cannot read a photo of {height} x {width} pixels ({error}): "
                "change classifier.input_size."
            ) from error
        if not isinstance(output, Tensor) or output.ndim != 2:
            raise VRXError(f"{type(self.network).__name__} gives no logits [B, C] but {type(output).__name__}.")
        return output.shape[1]

    # --- what F is

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the input."""
        return self.transform.input_size

    @property
    def device(self) -> torch.device:
        """Where F computes."""
        return self.mean.device

    @property
    def match_layer(self) -> str:
        """Name of the layer at stride 16 (transformers: at 3/4 of the depth), whose features match patches."""
        return layer_to_match(self.layers)

    @property
    def part_layer(self) -> str:
        """Name of the layer whose cells are about as large as the parts of an object."""
        return layer_of_parts(self.layers)

    @property
    def appearance_layers(self) -> tuple[str, ...]:
        """:attr:`part_layer` and, before it, the layer of the next finer grid where there is one."""
        names = [layer.name for layer in self.layers]
        part = names.index(self.part_layer)
        finer = [layer.name for layer in self.layers[:part] if layer.grid > self.layers[part].grid]
        return (*finer[-1:], self.part_layer)

    @property
    def spec(self) -> dict[str, Any]:
        """All of F but its weights, plain: :func:`vrx.classifier.loading.reopen_classifier` reads it."""
        return {
            "built_by": self._built_by,
            "class_names": list(self.class_names),
            "class_indices": self.class_indices.tolist(),
            "preprocessing": self.transform.settings(),
            "layers": self._given_layers,
            "precision": self.precision,
            "code": self.code,
        }

    @cached_property
    def code(self) -> dict[str, str]:
        """Class -> version of its code, of all modules that are of no library: weights do not say what they do."""
        own = {type(module) for module in self.network.modules()}
        return {name_of(kind): code_of(kind) for kind in own if kind.__module__.partition(".")[0] not in LIBRARIES}

    @cached_property
    def version(self) -> str:
        """Hash of the fingerprint, of the code and of which modules there are (ReLU or GELU): what cache keys hold."""
        return digest({"fingerprint": self.fingerprint, "code": self.code, "modules": repr(self.network)})

    @cached_property
    def fingerprint(self) -> str:
        """Hash of weights, architecture, preprocessing, classes, layers, precision: which classifier a run is of."""
        what = {
            "built_by": self._built_by,
            "network": type(self.network).__name__,
            "preprocessing": self.transform.settings(),
            "class_indices": self.class_indices.tolist(),
            "layers": [asdict(layer) for layer in self.layers],
            "precision": self.precision,
        }
        state = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
        for key, value in sorted(self.network.state_dict().items()):
            state.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
            state.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return state.hexdigest()

    def train(self, mode: bool = True) -> Classifier:
        """F never trains: eval mode whatever is asked."""
        return super().train(False)

    def save_weights(self, path: Path) -> None:
        """Write the network's weights as safetensors: what ``classifier.checkpoint`` reads."""
        state = {k: v.detach().cpu().clone().contiguous() for k, v in self.network.state_dict().items()}
        write_atomically(path, lambda part: save_file(state, part))

    def pixels(self, x: Tensor) -> NDArray[np.uint8]:
        """Undo the normalisation: ``[B, 3, H, W]`` -> uint8 ``[B, H, W, 3]``."""
        values = (x.detach().float() * self.std.to(x.device) + self.mean.to(x.device)) * 255
        pictures: NDArray[np.uint8] = values.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return pictures

    def normalize(self, pictures: NDArray[np.uint8]) -> Tensor:
        """Inverse of :meth:`pixels`, on F's device."""
        x = torch.from_numpy(np.array(pictures, order="C")).to(self.device).permute(0, 3, 1, 2).float() / 255
        return (x - self.mean) / self.std

    # --- what F computes

    def forward(self, x: Tensor) -> Tensor:
        """Logits of interest, float32 ``[B, n]``, of normalised photos ``[B, 3, H, W]``."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            run = self._compiled or self.network
            logits: Tensor = run(x.contiguous(memory_format=torch.channels_last))
        return logits[:, self.class_indices].float()

    def inspect(
        self,
        x: Tensor,
        gradients: bool | Sequence[str] = False,
        layers: Sequence[str] | None = None,
        gradcam: bool = True,
        reference: Mapping[str, Tensor] | None = None,
        most: int | None = None,
    ) -> Activations:
        """Logits, feature maps and gradient evidence in one forward pass and at most one backward pass per class for
        each of Grad-CAM and gradient x activation (of :func:`vrx.classifier.activations.class_targets`).

        The graph starts at the earliest layer whose gradient is asked for: nothing before it is kept or
        differentiated. Works inside ``no_grad`` and ``inference_mode`` too.

        Args:
            x: normalised photos ``[B, 3, H, W]``.
            gradients: layers whose gradient x activation is wanted; True: all of ``layers``.
            layers: names of the layers whose maps are wanted; None: all. Those of ``gradients`` come on top.
            gradcam: whether to make Grad-CAM (a backward pass through the head alone).
            reference: maps of a reference photo (``maps`` of another call) for ``grad_diff``.
            most: gradients of each photo's so many most probable classes alone (in the order of the classes), which
                all ``[B, n, h, w]`` are then of; None: of all.

        Raises:
            VRXError: no such layer.
        """
        wanted = [layer.name for layer in self.layers] if layers is None else list(layers)
        attributed = (wanted if gradients else []) if isinstance(gradients, bool) else list(gradients)
        last = self.layers[-1]
        chosen = self._chosen({*wanted, *attributed, *([last.name] if gradcam else [])})
        from_here = self._chosen({*attributed, *([last.name] if gradcam else [])})
        with recording():
            x = x.detach().clone() if x.is_inference() else x.detach()
            logits, outputs = self._captured(x, chosen, from_here)
            cams = []
            scores = logits if most is None else logits.gather(1, most_probable(logits, most))
            for score in scores.unbind(1) if gradcam else ():
                (slope,) = torch.autograd.grad(score.sum(), [outputs[last.name]], retain_graph=True)
                cams.append(gradcam_of(last.to_map(slope), last.to_map(outputs[last.name].detach())))
            evidence = gradient_evidence(
                scores, [(layer, outputs[layer.name]) for layer in self._chosen(set(attributed))], reference
            )
        return Activations(
            logits.detach(),
            {
                layer.name: layer.to_map(outputs[layer.name].detach()).float()
                for layer in chosen
                if layer.name in {*wanted, *evidence}
            },
            torch.stack(cams, 1) if cams else logits.new_zeros(len(x), 0, *last.grid),
            *({name: values[kind] for name, values in evidence.items() if len(values) > kind} for kind in range(3)),
        )

    def gradcam(self, x: Tensor) -> Tensor:
        """Grad-CAM (Selvaraju et al. 2017) of each logit of interest at the last layer, ``[B, n, h, w]``, >= 0."""
        return self.inspect(x, layers=[]).gradcam

    def _chosen(self, names: set[str]) -> list[Layer]:
        """The layers of these names, in the order in which they run."""
        unknown = names - {layer.name for layer in self.layers}
        if unknown:
            raise VRXError(
                f"The classifier has no layer {', '.join(sorted(unknown))}: use "
                f"{', '.join(layer.name for layer in self.layers)}, or name others with classifier.layers=[...]."
            )
        return [layer for layer in self.layers if layer.name in names]

    def _captured(self, x: Tensor, layers: Sequence[Layer], graph: Sequence[Layer]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and outputs of ``layers``; those of ``graph`` can be differentiated.

        The rest of the network goes on with a copy, so that in-place operations do not touch what was captured.
        """
        outputs: dict[str, Tensor] = {}
        differentiable = {layer.name for layer in graph}

        def capture(name: str) -> Hook:
            def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
                if name in differentiable and not output.requires_grad:
                    output = output.detach().clone().requires_grad_()  # the graph starts here
                outputs[name] = output
                return output.clone()

            return hook

        with hooked(self.network, {layer.name: capture(layer.name) for layer in layers}):
            return self(x), outputs

    def head_values(self, features: Tensor) -> Tensor:
        """F's own logits of interest for pooled features of the last layer, see :class:`vrx.classifier.head.Head`.

        Args:
            features: ``[K, D]``, D the channels of the last layer.

        Returns:
            float32 ``[K, n]``.
        """
        return self._head(features.to(self.device, torch.float32))

    @cached_property
    def _head(self) -> Head:
        return Head(self)

    def of(self, classes: Sequence[int]) -> Classifier:
        """The same F, weights shared, seen through some of its classes of interest; its fingerprint stays."""
        head, _ = self._head, self.fingerprint
        other = copy.copy(self)
        other._buffers = {**self._buffers, "class_indices": self.class_indices[list(classes)]}
        other.class_names = tuple(self.class_names[c] for c in classes)
        other.__dict__["_head"] = Head(other, head)
        return other


def _checked_indices(indices: Sequence[int] | None, names: Sequence[str], outputs: int) -> list[int]:
    """Which logits are of interest."""
    if not names or len(set(names)) != len(names):
        raise VRXError(f"data.classes={list(names)}: give one or more different class names.")
    if indices is None:
        if outputs != len(names):
            raise VRXError(
                f"The classifier has {outputs} outputs and there are {len(names)} classes of interest: give "
                f"data.class_indices (which outputs they are), or a classifier.checkpoint of {len(names)} classes."
            )
        return list(range(outputs))
    indices = [int(i) for i in indices]
    outside = [i for i in indices if not 0 <= i < outputs]
    if len(indices) != len(names) or len(set(indices)) != len(indices) or outside:
        raise VRXError(
            f"data.class_indices={indices} for the classes {', '.join(names)}: give {len(names)} different numbers "
            f"from 0 to {outputs - 1}."
        )
    return indices
