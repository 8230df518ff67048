"""Structural Concept Graphs as PyTorch Geometric data: for any other graph network, and to check ours against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch_geometric.data import Data, Dataset

from vrx.errors import VRXError
from vrx.structures import SCG, SCG_OPTIONAL, edges

FIELDS = ("nodes", "centroids", "detected", "links", "logits", "label", "index")


def to_geometric(scg: SCG) -> list[Data]:
    """The n graphs of every photo as one :class:`torch_geometric.data.Data`, disjoint and each complete.

    Args:
        scg: graphs of B photos, ``[B, n, N, ...]``.

    Returns:
        B graphs of n * N nodes, those of class 0 first, dummies included: ``x`` ``[nN, D]``, ``pos`` (x, y) in [0, 1]
        ``[nN, 2]``, ``detected`` bool ``[nN]``, ``hypothesis`` (class of the node's graph) and ``concept`` (place in
        it) int64 ``[nN]``, ``edge_index`` ``[2, nN(N-1)]`` (from, to), ``edge_attr`` ``[x_j, y_j, x_i, y_i]``
        and what else is known of the relation, ``[nN(N-1), 4 + K]``; where pairs of patches are known, ``patch`` (which
        of M patches each node shows, -1: none) int64 ``[nN]`` and ``pairs`` ``[1, M(M-1)/2, n]``, as of :class:`SCG`.
    """
    n, num = scg.nodes.shape[1:3]
    first = num * torch.arange(n, device=scg.nodes.device)
    index = (edges(num).to(scg.nodes.device)[:, None] + first[:, None]).flatten(1)
    graph, concept = torch.cartesian_prod(torch.arange(n), torch.arange(num)).to(scg.nodes.device).T
    classes = torch.arange(n).expand(len(scg.nodes), -1) if scg.classes is None else scg.classes
    known: list[dict[str, Tensor]] = [{} for _ in scg.nodes]
    if scg.patch is not None and scg.pairs is not None:
        known = [{"patch": p.flatten(), "pairs": v[None]} for p, v in zip(scg.patch, scg.pairs, strict=True)]
    return [
        Data(
            x=nodes.flatten(0, 1),
            pos=pos.flatten(0, 1),
            detected=detected.flatten(),
            hypothesis=of_graph.to(graph.device)[graph],
            concept=concept,
            edge_index=index,
            edge_attr=torch.cat([pos.flatten(0, 1)[index.T].flatten(1), links.flatten(0, 1)], dim=1),
            **pairs,
        )
        for nodes, pos, detected, links, of_graph, pairs in zip(
            scg.nodes, scg.centroids, scg.detected, scg.links, classes, known, strict=True
        )
    ]


class SCGDataset(Dataset):
    """The cached graphs of one split, one item per photo, for any PyTorch Geometric network.

    An item is a photo's :func:`to_geometric` with the targets ``y``, the classifier's logits of interest, float32
    ``[1, n]`` (what a distilled network predicts), ``label``, the true class, and ``photo``, the photo's place in the
    split, int64 ``[1]`` each. Where the graphs have a node for the rest of the photo (the setting
    ``graph.builder.rest``), it is the last ``concept`` of each hypothesis. Concepts that were not found are in the
    graph as dummies (every feature ``EPSILON``, in the middle of the photo):
    ``transform=lambda data: data.subgraph(data.detected)`` removes them.

    Args:
        table: ``nodes`` ``[P, n, N, D]``, ``centroids`` ``[P, n, N, 2]``, ``detected`` bool ``[P, n, N]``, ``logits``
            ``[P, n]``, ``label`` ``[P]`` and ``index`` ``[P]``: ``SCGDataModule.tables[split]`` after ``setup()``.
        transform: applied to every item when it is read.
    """

    def __init__(self, table: Mapping[str, Tensor], transform: Callable[[Data], Data] | None = None) -> None:
        super().__init__(transform=transform)
        self.table = {name: table[name] for name in (*FIELDS, *SCG_OPTIONAL) if name in table}

    @classmethod
    def from_cache(cls, folder: str | Path, transform: Callable[[Data], Data] | None = None) -> SCGDataset:
        """The graphs of a folder beneath ``data/cache/scgs``; its ``manifest.json`` says which split of which photos.

        Raises:
            VRXError: the folder is not a finished cache, or no photo of it could be read.
        """
        folder = Path(folder)
        if not (folder / "manifest.json").exists():
            raise VRXError(f"{folder} has no manifest.json: give a folder of data/cache/scgs that a run has finished.")
        shards = [load_file(path) for path in sorted(folder.glob("shard-*.safetensors"))]
        full = [shard for shard in shards if len(shard["label"])]
        if not full:
            raise VRXError(f"{folder} holds no photo that could be read: delete it and run train.py again.")
        return cls({name: torch.cat([shard[name] for shard in full]) for name in full[0]}, transform)

    @property
    def num_classes(self) -> int:
        """n, the classes of interest."""
        return int(self.table["logits"].shape[1])

    def len(self) -> int:
        """P, the photos that could be read."""
        return len(self.table["label"])

    def get(self, idx: int) -> Data:
        """The graphs of one photo, before ``transform``."""
        row = {name: value[idx : idx + 1] for name, value in self.table.items()}
        (data,) = to_geometric(SCG.of(row))
        data.y, data.label, data.photo = row["logits"], row["label"], row["index"]
        return data
