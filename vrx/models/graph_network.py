"""What every Graph Reasoning Network has in common: sizes, scale of the features, files, what is read off it."""

from __future__ import annotations

import json
from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vrx.errors import VRXError
from vrx.specs import TARGET, make, name_of
from vrx.storage import write_atomically
from vrx.structures import SCG, edges


class GraphNetwork(nn.Module):
    """The graphs of a photo -> class scores, by a block for every node and every edge (Eq. 1).

    Args:
        hparams: arguments that build it anew, plain; among them:
        num_classes: n, classes of interest.
        num_nodes: N, nodes per graph: the concepts and, perhaps, the rest of the photo.
        node_features: D, width of a node.
        link_features: K, values of an edge beside the places of its ends.
        all_classes: classes that there are, where a photo has graphs of n of them (``SCG.classes``): what is
            class-specific is kept for each and taken for those of the photo. Missing or None: n.
    """

    edge_index: Tensor
    node_mean: Tensor
    node_std: Tensor
    link_std: Tensor

    def __init__(self, hparams: dict[str, Any]) -> None:
        super().__init__()
        self.hparams = hparams
        self.num_classes, self.num_nodes = int(hparams["num_classes"]), int(hparams["num_nodes"])
        self.all_classes = int(hparams.get("all_classes") or self.num_classes)
        self.num_edges = self.num_nodes * (self.num_nodes - 1)
        self.register_buffer("edge_index", edges(self.num_nodes), persistent=False)
        self.register_buffer("node_mean", torch.zeros(hparams["node_features"]))
        self.register_buffer("node_std", torch.ones(hparams["node_features"]))
        self.register_buffer("link_std", torch.ones(hparams["link_features"]))

    @property
    def spec(self) -> dict[str, Any]:
        """Class and arguments, plain: what :func:`vrx.specs.make` builds it anew from."""
        return {TARGET: name_of(type(self)), **self.hparams}

    def save(self, path: Path) -> None:
        """Write weights and sizes, one safetensors file: what :meth:`load` reads."""
        state = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        write_atomically(path, lambda part: save_file(state, part, {"spec": json.dumps(self.spec)}))

    @staticmethod
    def load(path: Path) -> GraphNetwork:
        """Read what :meth:`save` wrote, on the CPU, in eval mode.

        Raises:
            VRXError: no such file, or a damaged one.
        """
        try:
            with safe_open(path, framework="pt") as file:
                grn: GraphNetwork = make(json.loads(file.metadata()["spec"]))
                grn.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (not a dict)
        except Exception as error:  # damage shows in many ways: header, JSON, missing keys, other shapes
            raise VRXError(f"{path} holds no graph network ({str(error)[:120]}): rerun train.py.") from error
        return grn.eval()

    @property
    def normalised(self) -> bool:
        """Whether the scale of the node features was set."""
        return bool((self.node_std != 1).any() or (self.node_mean != 0).any())

    def set_normalisation(self, nodes: Tensor, detected: Tensor, links: Tensor | None = None) -> None:
        """Standardise node features by the mean and deviation of detected training nodes, edges by their scale alone.

        A feature that does not vary is centred only. With fewer than two detected nodes nothing is set. Shapes: nodes
        ``[..., D]``, detected ``[...]``, links ``[..., K]``, 0 where an end is not detected: 0 stays 0.
        """
        if links is not None and links.shape[-1]:
            known = links[(links != 0).any(-1)]
            scale = known.square().mean(0).sqrt() if len(known) else self.link_std
            self.link_std.copy_(torch.where(scale > 1e-6, scale, 1.0))
        seen = nodes[detected]
        if len(seen) > 1:
            self.node_mean.copy_(seen.mean(0))
            spread = seen.std(0)
            self.node_std.copy_(torch.where(spread > 1e-6, spread, 1.0))

    def check(self, scg: SCG) -> None:
        """Refuse graphs of another size than this network was made for (VRXError)."""
        expected = (self.num_classes, self.num_nodes, len(self.node_mean))
        if scg.nodes.ndim != 4 or scg.nodes.shape[1:] != expected or scg.links.shape[-1] != len(self.link_std):
            raise VRXError(
                f"This GRN reads graphs of shape [B, n, N, D] = [B, {', '.join(map(str, expected))}], got "
                f"{list(scg.nodes.shape)}: the graphs are of other settings than the GRN. Rerun train.py with these."
            )
        if scg.classes is None and self.all_classes != self.num_classes:
            raise VRXError(
                f"This GRN reads graphs of {self.num_classes} of {self.all_classes} classes: give SCG.classes."
            )

    def of_graphs(self, parameter: Tensor, scg: SCG) -> Tensor:
        """What is kept for each class, ``[all_classes, ...]``, for the graphs of the photos, ``[B, n, ...]``."""
        if scg.classes is None or self.all_classes == self.num_classes:
            return parameter.expand(len(scg.nodes), *parameter.shape)
        return parameter[scg.classes]

    @abstractmethod
    def embed(self, scg: SCG) -> tuple[Tensor, Tensor]:
        """G: all graphs of all photos in one batched pass.

        Returns:
            Node blocks ``[B, n, N, ...]`` and edge blocks ``[B, n, N(N-1), ...]``.

        Raises:
            VRXError: graphs of another size than this network was made for.
        """

    @abstractmethod
    def read_out(self, nodes: Tensor, links: Tensor) -> Tensor:
        """E: the blocks of all graphs -> class scores ``[B, n]``."""

    def forward(self, scg: SCG) -> Tensor:
        """Class scores ``[B, n]`` (Eq. 1)."""
        return self.read_out(*self.embed(scg))

    def masked(self, scg: SCG, drop: Tensor) -> tuple[Tensor, Tensor]:
        """Class scores ``[B, n]`` of the graphs, and ``[B, V, n]`` without the nodes of ``drop``, ``[B, V, n, N]``."""
        size, count = drop.shape[:2]
        copies = scg.map(lambda v: v.unsqueeze(1).expand(-1, count, *v.shape[1:])).drop(drop)
        scores = self(SCG.cat([scg, copies.map(lambda v: v.flatten(0, 1))]))
        return scores[:size], scores[size:].reshape(size, count, -1)
