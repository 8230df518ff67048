"""What the parts of VRX hand to each other: frozen dataclasses that validate themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vrx.errors import check_shapes, require

EPSILON = 1e-3  # every value of a dummy node (3.2.1: "a small constant")
UNMATCHED = -1  # in place of the patch of a concept that was not found
SCG_OPTIONAL = ("classes", "patch", "pairs")  # tensors of an SCG that may be None
PERHAPS = 0.25  # least probability of a concept that may be there
NEUTRAL = 0.5  # both coordinates of a dummy node: the middle of the photo


@dataclass(frozen=True)
class Patches:
    """The concept candidates of one photo (3.2.1), stored as label maps: K masks in 2 bytes a pixel and resolution.

    Args:
        labels: superpixel of every pixel at each of R resolutions, int16 ``[R, H, W]``, H x W the input size of F;
            no label occurs at two resolutions.
        ids: the labels that are patches, int ``[K]``.
    """

    labels: NDArray[np.int16]
    ids: NDArray[np.int64]

    def __post_init__(self) -> None:
        require(self.labels.ndim == 3, f"Patches.labels must be [R, H, W], got {self.labels.shape}")
        require(self.ids.ndim == 1, f"Patches.ids must be [K], got {self.ids.shape}")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the photo in pixels."""
        return self.labels.shape[1], self.labels.shape[2]

    @property
    def masks(self) -> NDArray[np.bool_]:
        """Which pixels belong to each patch, bool ``[K, H, W]``."""
        return np.array([(self.labels == i).any(0) for i in self.ids], bool).reshape(-1, *self.shape)

    @property
    def areas(self) -> NDArray[np.float32]:
        """Share of the photo that each patch covers, float32 ``[K]`` in (0, 1]."""
        return (self.cell_counts(1, 1)[:, 0] / (self.shape[0] * self.shape[1])).astype(np.float32)

    @property
    def centroids(self) -> NDArray[np.float32]:
        """Centre of mass (x, y) of each patch, float32 ``[K, 2]`` in [0, 1]."""
        height, width = self.shape
        y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
        return np.stack([self.mean_of(x), self.mean_of(y)], axis=1).astype(np.float32)

    def _bincount(
        self, index: NDArray[np.int64], size: int, weights: NDArray[Any] | None = None
    ) -> NDArray[np.float64]:
        """Sum ``weights`` over the pixels of each patch and ``index`` (``[H, W]``, in [0, size)): ``[K, size]``."""
        top = int(self.labels.max()) + 1
        joint = (self.labels.astype(np.int64) * size + index).ravel()
        every = None if weights is None else np.broadcast_to(weights, self.labels.shape).ravel()
        return np.bincount(joint, every, minlength=top * size).reshape(top, size)[self.ids].astype(np.float64)

    def cell_counts(self, rows: int, columns: int) -> NDArray[np.float32]:
        """How many pixels of each patch lie in each cell of a grid over the photo, ``[K, rows * columns]``."""
        return self._bincount(self._cells(rows, columns), rows * columns).astype(np.float32)

    def cell_shares(self, rows: int, columns: int) -> NDArray[np.float32]:
        """Share of each cell of a grid over the photo that each patch covers, ``[K, rows * columns]`` in [0, 1]."""
        size = np.bincount(self._cells(rows, columns).ravel(), minlength=rows * columns)
        return (self.cell_counts(rows, columns) / np.maximum(size, 1)).astype(np.float32)

    def _cells(self, rows: int, columns: int) -> NDArray[np.int64]:
        """Cell of each pixel, row by row, ``[H, W]``."""
        height, width = self.shape
        return (np.arange(height) * rows // height)[:, None] * columns + np.arange(width) * columns // width

    def mean_of(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Mean of a map ``[H, W]`` over the pixels of each patch, ``[K]``."""
        one_cell = np.zeros(self.shape, np.int64)
        sums = self._bincount(one_cell, 1, values)[:, 0]
        return np.asarray(sums / np.maximum(self._bincount(one_cell, 1)[:, 0], 1))

    def select(self, index: NDArray[Any]) -> Patches:
        """The patches at ``index`` (integers or a bool mask)."""
        return Patches(self.labels, self.ids[index])


@dataclass(frozen=True)
class SCG:
    """Structural Concept Graphs: for each photo one complete directed graph per class of interest (3.2.1).

    Leading dimensions ``...`` (usually a batch of photos) are shared by all tensors.

    Args:
        nodes: float32 ``[..., n, N, D]``; an undetected concept is a dummy, all values ``EPSILON``.
        centroids: (x, y) in [0, 1], float32 ``[..., n, N, 2]``; ``NEUTRAL`` where undetected.
        detected: bool ``[..., n, N]``.
        links: what is known of each relation beside the places of its ends, float32 ``[..., n, N(N-1), K]``, edges in
            the order of :func:`edges`; 0 where an end is a dummy. None: nothing, K = 0.
        classes: which class each graph is of, int64 ``[..., n]``, where photos have graphs of some classes alone
            (``graph.hypotheses``). None: the classes of interest in their order.
        patch: which of M patches of the photo each node shows, whatever its graph, int64 ``[..., n, N]``; -1: none of
            them. None: nothing is known of pairs of patches.
        pairs: what each two of the M patches count for together, in the order of :func:`patch_pairs`, for each class in
            the order of the graphs, float32 ``[..., M(M-1)/2, n]``; 0 where there are fewer.
    """

    nodes: Tensor
    centroids: Tensor
    detected: Tensor
    links: Tensor = None  # type: ignore[assignment]
    classes: Tensor | None = None
    patch: Tensor | None = None
    pairs: Tensor | None = None

    def __post_init__(self) -> None:
        lead = self.nodes.shape[:-1]
        require(self.nodes.ndim >= 3, f"SCG.nodes must be [..., n, N, D], got {tuple(self.nodes.shape)}")
        shape = (*lead[:-1], lead[-1] * (lead[-1] - 1))
        if self.links is None:
            object.__setattr__(self, "links", self.nodes.new_zeros(*shape, 0))
        check_shapes(self, centroids=(*lead, 2), detected=tuple(lead), links=shape)
        require((self.patch is None) == (self.pairs is None), "SCG.patch and SCG.pairs belong together")
        if self.pairs is not None:
            check_shapes(self, patch=tuple(lead), pairs=(*lead[:-2], self.pairs.shape[-2], lead[-2]))

    @classmethod
    def of(cls, table: Mapping[str, Tensor], rows: Any = slice(None), prefix: str = "") -> SCG:
        """Some rows of a table that holds the tensors by name (``links`` and ``classes`` may be missing)."""
        names = {f.name: f"{prefix}{f.name}" for f in fields(cls)}
        return cls(**{own: table[name][rows] for own, name in names.items() if name in table})

    def map(self, function: Callable[[Tensor], Tensor]) -> SCG:
        """The graphs with a function of leading dimensions applied to every tensor."""
        return SCG.joined([self], lambda tensors: function(tensors[0]))

    def __getitem__(self, index: Any) -> SCG:
        """Some of the photos: an index of leading dimensions, for every tensor alike."""
        return self.map(lambda tensor: tensor[index])

    def drop(self, nodes: Tensor) -> SCG:
        """The same graphs with some nodes set to the dummy.

        Args:
            nodes: which, bool, broadcastable to ``[..., n, N]``.
        """
        gone = nodes.unsqueeze(-1)
        places = self.centroids.masked_fill(gone, NEUTRAL)
        links = self._without_links(nodes) if self.links.shape[-1] else self.links
        return replace(
            self,
            nodes=self.nodes.masked_fill(gone, EPSILON),
            centroids=places,
            detected=self.detected & ~nodes,
            links=links,
            patch=self._without_patch(nodes),
        )

    def move(self, centroids: Tensor) -> SCG:
        """The same graphs with some nodes at other places: what is known of their relations no longer holds.

        Args:
            centroids: ``[..., n, N, 2]``.
        """
        moved = (centroids != self.centroids).any(-1)
        return replace(self, centroids=centroids, links=self._without_links(moved), patch=self._without_patch(moved))

    def _without_patch(self, nodes: Tensor) -> Tensor | None:
        return None if self.patch is None else self.patch.masked_fill(nodes, UNMATCHED)

    def _without_links(self, nodes: Tensor) -> Tensor:
        j, i = edges(self.nodes.shape[-2]).to(nodes.device)
        return self.links.masked_fill((nodes[..., j] | nodes[..., i]).unsqueeze(-1), 0.0)

    def to(self, device: torch.device | str) -> SCG:
        return self.map(lambda tensor: tensor.to(device))

    @staticmethod
    def stack(graphs: list[SCG]) -> SCG:
        return SCG.joined(graphs, torch.stack)

    @staticmethod
    def cat(graphs: list[SCG]) -> SCG:
        return SCG.joined(graphs, torch.cat)

    @staticmethod
    def joined(graphs: Sequence[SCG], join: Callable[[list[Tensor]], Tensor]) -> SCG:
        """One SCG of several, tensor by tensor."""
        columns = {f.name: [getattr(g, f.name) for g in graphs] for f in fields(SCG)}
        return SCG(**{name: join(column) for name, column in columns.items() if column[0] is not None})


@cache
def edges(num_concepts: int) -> Tensor:
    """Directed edges j -> i of the complete graph, int64 ``[2, N(N-1)]``: row 0 is j (from), row 1 is i (to).

    Sorted by j, then by i. Every array over edges in VRX is in this order.
    """
    pairs = [(j, i) for j in range(num_concepts) for i in range(num_concepts) if i != j]
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T.contiguous()


@cache
def patch_pairs(count: int) -> Tensor:
    """Pairs of M patches, int64 ``[2, M(M-1)/2]``: the first of each in row 0, a later one in row 1."""
    return torch.triu_indices(count, count, 1)
