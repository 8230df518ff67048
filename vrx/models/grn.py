"""The Graph Reasoning Network (3.2.2, appendix table 3): G, a GNN with class-specific edge weights, and E."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from vrx.errors import VRXError
from vrx.storage import write_atomically
from vrx.structures import NEUTRAL, SCG
from vrx.structures import edges as edge_ends


class ConceptGraphConv(nn.Module):
    """One layer of Eq. 3: ``f_i' = W1 f_i + sum_j W3 C(e_ji^c W2 f_j, edge_ji)``, ``edge_ji' = W4 edge_ji``.

    W1..W4 are shared by all classes; e_ji^c, one scalar an edge and class, is not. It starts at 1 / (N - 1): every
    class begins with the mean of a node's neighbours, with no preference. Only W1 has a bias: those of W2..W4 would
    add nothing that W1's, or the batch norm that follows, does not.

    W3 is linear, so the messages are summed before it: ``W3 C(sum_j e_ji^c W2 f_j, sum_j edge_ji)``. On complete
    graphs of one size that is a product of small dense matrices, which no message has to be kept for.

    Args:
        num_classes: n.
        num_nodes: N, nodes per graph: the concepts and, perhaps, the rest of the photo.
        nodes: (in, out) width of the node features.
        edges: (in, out) width of the edge features.
    """

    def __init__(self, num_classes: int, num_nodes: int, nodes: tuple[int, int], edges: tuple[int, int]) -> None:
        super().__init__()
        num_edges = num_nodes * (num_nodes - 1)
        self.num_nodes = num_nodes
        self.centre = nn.Linear(*nodes)  # W1
        self.neighbour = nn.Linear(*nodes, bias=False)  # W2
        self.message_map = nn.Linear(nodes[1] + edges[0], nodes[1], bias=False)  # W3
        self.edge_map = nn.Linear(*edges, bias=False)  # W4
        self.dependency = nn.Parameter(torch.full((num_classes, num_edges), 1 / max(num_nodes - 1, 1)))  # e_ji^c
        j, i = functional.one_hot(edge_ends(num_nodes), num_nodes).float()
        self.register_buffer("receives", i.T.contiguous(), persistent=False)  # [N, E]
        self.register_buffer("place", (i[:, :, None] * j[:, None]).flatten(1), persistent=False)  # [E, N * N]
        self.receives: Tensor
        self.place: Tensor

    def forward(self, x: Tensor, edge_attr: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Update nodes and edges of the n graphs of B photos.

        Args:
            x: node features ``[B, n, N, in]``.
            edge_attr: ``[B, n, E, in]``, edges in the order of :func:`vrx.structures.edges`.
            keep: 0 for an edge that carries no message, else 1, ``[B, n, E]``.

        Returns:
            Node features ``[B, n, N, out]`` and edge features ``[B, n, E, out]``.
        """
        num = self.num_nodes
        adjacency = ((self.dependency * keep) @ self.place).unflatten(2, (num, num))  # [B, n, i, j]
        heard = adjacency @ self.neighbour(x)
        places = self.receives @ (edge_attr * keep.unsqueeze(-1))
        return self.centre(x) + self.message_map(torch.cat([heard, places], dim=-1)), self.edge_map(edge_attr)


class GRN(nn.Module):
    """G and E. Defaults are those of appendix table 3; every other size follows from the graphs.

    After each layer nodes and edges alike pass ReLU and then batch norm, in the order of the table.

    Args:
        num_classes: n, classes of interest.
        num_nodes: N, nodes per graph: the concepts and, perhaps, the rest of the photo.
        node_features: D, width of a node.
        node_widths: width of the node features after each layer.
        edge_widths: width of the edge features after each layer.
        dropout: on the graph embedding, before E.
        skip: the score of a class also has a plain sum over the nodes of its graph, of one linear function of their
            features that all concepts and classes share (an additive read-out beside the GNN; the paper has none).
        isolate_dummies: a dummy hears nothing, and the edges at it tell no place, so that what it sends and what its
            block gives E are the same in every photo. Between detected nodes Eq. 3 is as written. False: dummies take
            part like any node.
        squash: draw in the heavy tails of the standardised node features by asinh.

    Raises:
        VRXError: not as many widths of edges as of nodes, or none.
    """

    def __init__(
        self,
        num_classes: int,
        num_nodes: int,
        node_features: int,
        node_widths: Sequence[int] = (64, 32, 32),
        edge_widths: Sequence[int] = (5, 5, 5),
        dropout: float = 0.0,
        skip: bool = False,
        isolate_dummies: bool = True,
        squash: bool = False,
    ) -> None:
        super().__init__()
        if len(node_widths) != len(edge_widths) or not node_widths:
            raise VRXError(
                f"model.grn: node_widths={list(node_widths)} and edge_widths={list(edge_widths)} must name one width a "
                "layer each, and at least one layer."
            )
        self.hparams = {
            "num_classes": num_classes,
            "num_nodes": num_nodes,
            "node_features": node_features,
            "node_widths": list(node_widths),
            "edge_widths": list(edge_widths),
            "dropout": dropout,
            "skip": skip,
            "isolate_dummies": isolate_dummies,
            "squash": squash,
        }
        self.num_classes, self.num_nodes = num_classes, num_nodes
        self.skip, self.isolate_dummies, self.squash = skip, isolate_dummies, squash
        self.num_edges = num_nodes * (num_nodes - 1)
        nodes, links = [node_features, *node_widths], [4, *edge_widths]
        self.convs = nn.ModuleList(
            ConceptGraphConv(num_classes, num_nodes, (nodes[i], nodes[i + 1]), (links[i], links[i + 1]))
            for i in range(len(node_widths))
        )
        self.node_norms = nn.ModuleList(nn.BatchNorm1d(w) for w in node_widths)
        self.edge_norms = nn.ModuleList(nn.BatchNorm1d(w) for w in edge_widths)
        self.hidden_size = nodes[-1]
        self.node_size = nodes[-1] + (node_features if skip else 0)
        self.edge_size = links[-1]
        self.dropout = nn.Dropout(dropout)
        per_class = num_nodes * nodes[-1] + self.num_edges * self.edge_size
        self.embedding = nn.Linear(num_classes * per_class, num_classes)  # E
        self.additive = nn.Linear(node_features, 1, bias=False) if skip else None
        self.register_buffer("edge_index", edge_ends(num_nodes), persistent=False)
        self.register_buffer("node_mean", torch.zeros(node_features))
        self.register_buffer("node_std", torch.ones(node_features))
        self.edge_index: Tensor
        self.node_mean: Tensor
        self.node_std: Tensor

    def save(self, path: Path) -> None:
        """Write weights and sizes, one safetensors file: what :meth:`load` reads."""
        state = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        write_atomically(path, lambda part: save_file(state, part, {"hparams": json.dumps(self.hparams)}))

    @classmethod
    def load(cls, path: Path) -> GRN:
        """Read what :meth:`save` wrote, on the CPU, in eval mode.

        Raises:
            VRXError: no such file, or a damaged one.
        """
        try:
            with safe_open(path, framework="pt") as file:
                grn = cls(**json.loads(file.metadata()["hparams"]))
                grn.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (not a dict)
        except Exception as error:  # damage shows in many ways: header, JSON, missing keys, other shapes
            raise VRXError(f"{path} holds no graph network ({str(error)[:120]}): rerun train.py.") from error
        return grn.eval()

    @property
    def normalised(self) -> bool:
        """Whether the scale of the node features was set."""
        return bool((self.node_std != 1).any() or (self.node_mean != 0).any())

    def set_normalisation(self, nodes: Tensor, detected: Tensor) -> None:
        """Standardise node features by the mean and deviation of detected training nodes.

        A feature that does not vary is centred only. With fewer than two detected nodes nothing is set.

        Args:
            nodes: ``[..., D]``.
            detected: bool ``[...]``.
        """
        seen = nodes[detected]
        if len(seen) > 1:
            self.node_mean.copy_(seen.mean(0))
            spread = seen.std(0)
            self.node_std.copy_(torch.where(spread > 1e-6, spread, 1.0))

    def _standard(self, scg: SCG) -> Tensor:
        """Standardised features of detected nodes; dummies keep their epsilon."""
        scaled = (scg.nodes - self.node_mean) / self.node_std
        scaled = scaled.asinh() if self.squash else scaled
        return torch.where(scg.detected.unsqueeze(-1), scaled, scg.nodes)

    def _check(self, scg: SCG) -> None:
        expected = (self.num_classes, self.num_nodes, len(self.node_mean))
        if scg.nodes.ndim != 4 or scg.nodes.shape[1:] != expected:
            raise VRXError(
                f"This GRN reads graphs of shape [B, n, N, D] = [B, {', '.join(map(str, expected))}], got "
                f"{list(scg.nodes.shape)}: the graphs are of other settings than the GRN. Rerun train.py with these."
            )

    def _edges(self, scg: SCG) -> tuple[Tensor, Tensor]:
        """Initial ``[x_j, y_j, x_i, y_i]`` of the edges, ``[B, n, E, 4]``, and which are heard, bool ``[B, n, E]``."""
        j, i = self.edge_index
        places = torch.cat([scg.centroids[:, :, j], scg.centroids[:, :, i]], dim=-1)
        if not self.isolate_dummies:
            return places, torch.ones_like(places[..., 0], dtype=torch.bool)
        sender, receiver = scg.detected[:, :, j], scg.detected[:, :, i]
        return places.masked_fill(~(sender & receiver).unsqueeze(-1), NEUTRAL), receiver

    def embed(self, scg: SCG, keep_edges: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """G: all graphs of all photos in one batched pass.

        Args:
            scg: ``[B, n, N, ...]``.
            keep_edges: bool ``[B, n, N(N-1)]``; False: this relation does not exist: it carries no message in any
                layer, and its block is 0. None: all do.

        Returns:
            Node blocks ``[B, n, N, node_size]`` and edge blocks ``[B, n, N(N-1), edge_size]``.

        Raises:
            VRXError: graphs of another size than this GRN was made for.
        """
        self._check(scg)
        given = self._standard(scg)
        x = given
        places, heard = self._edges(scg)
        exists = torch.ones_like(heard) if keep_edges is None else keep_edges
        attr, sends = places, (exists & heard).to(x.dtype)
        for conv, node_norm, edge_norm in zip(self.convs, self.node_norms, self.edge_norms, strict=True):
            x, attr = conv(x, attr, sends)
            x, attr = _over_features(node_norm, x.relu()), _over_features(edge_norm, attr.relu())
        links = attr * exists.unsqueeze(-1)
        return torch.cat([x, given * scg.detected.unsqueeze(-1)], -1) if self.skip else x, links

    def read_out(self, nodes: Tensor, links: Tensor) -> Tensor:
        """E: the blocks of all graphs -> class scores ``[B, n]``."""
        hidden = nodes[..., : self.hidden_size]
        blocks = torch.cat([hidden.flatten(2), links.flatten(2)], dim=2)  # [B, n, 32 N + 5 N(N-1)]
        scores: Tensor = self.embedding(self.dropout(blocks).flatten(1))
        if self.additive is None:
            return scores
        return scores + self.additive(nodes[..., self.hidden_size :]).sum((2, 3))

    def forward(self, scg: SCG, keep_edges: Tensor | None = None) -> Tensor:
        """Class scores ``[B, n]`` (Eq. 1)."""
        return self.read_out(*self.embed(scg, keep_edges))


def _over_features(norm: nn.Module, values: Tensor) -> Tensor:
    """Batch norm of the last dimension, over all others."""
    return norm(values.flatten(0, -2)).view_as(values) if values.numel() else values
