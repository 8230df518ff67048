"""What the parts of VRX hand to each other: frozen dataclasses that validate themselves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor

from vrx.errors import VRXError, check_shapes, require
from vrx.storage import write_atomically, write_text

EPSILON = 1e-3  # every value of a dummy node (3.2.1: "a small constant")
UNMATCHED = -1  # in place of the patch of a concept that was not found
PERHAPS = 0.25  # least probability of a concept that may be there
STATE, CUTOUT = "state.", "cutout."  # before the names of a bank's state and cut-outs in its file
BANK_TEXTS = ("exemplar_paths", "settings", "featureless", "notes", "parts")  # of a bank, in its JSON file
ARRAYS = ("centroids", "radius", "importance", "p_value", "exemplars")  # of a bank, with a row per class
PER_CLASS = ("exemplar_paths", "names", "parts")  # lists of a bank with an entry a class, or none
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


@dataclass(frozen=True)
class ConceptBank:
    """The top-N visual concepts of every class of interest (3.1).

    A class in which fewer than N concepts survive has ``radius`` -1 at the missing places: never detected.

    Args:
        class_names: the n classes of interest, in the order of F's logits of interest.
        centroids: mean matching feature of each concept, float32 ``[n, N, Dm]``.
        radius: a patch nearer than this is a detection, float32 ``[n, N]``; -1: no such concept.
        importance: mean fall of F's log-odds for the class when the concept's pixels are deleted, ``[n, N]``.
        p_value: Holm-corrected, against deleting as many pixels at random places of the same photos, ``[n, N]``.
        exemplars: thumbnails of the most typical patches in their surroundings, outlined,
            uint8 ``[n, N, E, S, S, 3]``.
        exemplar_paths: the photo of each exemplar, ``[n][N][E]``; "" where there is none.
        settings: everything that the bank was made with (data, classifier fingerprint, patches, ...).
        state: what else finding the concepts needs, by name.
        cutouts: some typical patches at their own size with a little of what surrounds them, ``"class.concept.number"``
            -> uint8 ``[h, w, 4]``, the last channel 255 inside the patch.
        featureless: mean probability of each class for photos without any detail, fill by fill, ``{fill: [n]}``.
        notes: why a class has fewer than N concepts, by class.
        names: what people call the concepts (``names.yaml``), ``[n][N]``; "" for those without a name.
        parts: the part that each concept shows, where part masks make that certain, ``[n][N]``; "" elsewhere.
    """

    class_names: tuple[str, ...]
    centroids: NDArray[np.float32]
    radius: NDArray[np.float32]
    importance: NDArray[np.float32]
    p_value: NDArray[np.float32]
    exemplars: NDArray[np.uint8]
    exemplar_paths: list[list[list[str]]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    state: dict[str, NDArray[Any]] = field(default_factory=dict)
    cutouts: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    featureless: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    names: list[list[str]] = field(default_factory=list)
    parts: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        require(self.centroids.ndim == 3, f"centroids must be [n, N, Dm], got {self.centroids.shape}")
        lead = (len(self.class_names), self.centroids.shape[1])
        check_shapes(self, **dict.fromkeys(ARRAYS, lead))

    @property
    def num_concepts(self) -> int:
        """N, concepts per class."""
        return int(self.centroids.shape[1])

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which places hold a concept, bool ``[n, N]``."""
        return np.asarray(self.radius >= 0)

    @property
    def digest(self) -> str:
        """Hash of everything that decides which patches are detected as which concepts."""
        state = hashlib.sha256("\n".join(self.class_names).encode())
        state.update(self.centroids.tobytes())
        state.update(self.radius.tobytes())
        for name, value in sorted(self.state.items()):
            state.update(name.encode() + np.ascontiguousarray(value).tobytes())
        return state.hexdigest()

    def name(self, index: int, concept: int) -> str:
        """What a concept is called: by people, else by its part; "" where neither is known."""
        given = [table[index][concept] for table in (self.names, self.parts) if table]
        return next(filter(None, given), "")

    @property
    def all_names(self) -> tuple[tuple[str, ...], ...]:
        """:meth:`name` of every concept, ``[n][N]``."""
        return tuple(tuple(self.name(c, k) for k in range(self.num_concepts)) for c in range(len(self.class_names)))

    @property
    def fallback(self) -> int | None:
        """The class that F calls a photo without detail, whatever the fill, more likely than all others; else None."""
        if not self.featureless:
            return None
        mean = np.mean(list(self.featureless.values()), axis=0)
        return int(mean.argmax()) if mean.max() > 0.5 else None

    def of(self, class_names: Sequence[str]) -> ConceptBank:
        """The concepts of some classes, in this order: what a photo with graphs of these alone speaks of."""
        if tuple(class_names) == self.class_names:
            return self
        rows = [self.class_names.index(name) for name in class_names]
        arrays: dict[str, Any] = {f: getattr(self, f)[rows] for f in ARRAYS}
        lists: dict[str, Any] = {
            f: [values[c] for c in rows] if (values := getattr(self, f)) else [] for f in PER_CLASS
        }
        num, shown = self.exemplars.shape[1:3]
        places = product(enumerate(rows), range(num), range(shown))
        named = {f"{row}.{k}.{e}": self.cutouts.get(f"{c}.{k}.{e}") for (row, c), k, e in places}
        cutouts = {name: cutout for name, cutout in named.items() if cutout is not None}
        state = {name: value[rows] if name == "word" else value for name, value in self.state.items()}
        blank = {fill: [shares[c] for c in rows] for fill, shares in self.featureless.items()}
        return replace(
            self, class_names=tuple(class_names), **arrays, **lists, cutouts=cutouts, state=state, featureless=blank
        )

    def save(self, folder: Path) -> None:
        """Write ``bank.safetensors`` and, last, ``bank.json`` into ``folder``."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        arrays = {name: np.ascontiguousarray(v) for name, v in values.items() if isinstance(v, np.ndarray)}
        for prefix, named in ((STATE, self.state), (CUTOUT, self.cutouts)):
            arrays |= {f"{prefix}{name}": np.ascontiguousarray(v) for name, v in named.items()}
        write_atomically(folder / "bank.safetensors", lambda path: save_file(arrays, path))
        text = {
            "class_names": list(self.class_names),
            "digest": self.digest,
            **{name: values[name] for name in BANK_TEXTS},
        }
        write_text(folder / "bank.json", json.dumps(text, indent=1))

    @classmethod
    def load(cls, folder: Path) -> ConceptBank:
        """Read what :meth:`save` wrote.

        Raises:
            VRXError: the folder holds no bank, or a damaged one.
        """
        try:
            text = json.loads((folder / "bank.json").read_text())
            arrays: dict[str, Any] = load_file(folder / "bank.safetensors")
            texts: dict[str, Any] = {name: text[name] for name in BANK_TEXTS}
            state, cutouts = (
                {name.removeprefix(prefix): arrays.pop(name) for name in list(arrays) if name.startswith(prefix)}
                for prefix in (STATE, CUTOUT)
            )
            bank = cls(tuple(text["class_names"]), **texts, **arrays, state=state, cutouts=cutouts)
            require(text.get("digest", bank.digest) == bank.digest, "bank.json and bank.safetensors do not belong")
            return bank
        except FileNotFoundError as error:
            raise VRXError(f"No concept bank in {folder}: run train.py first, or give another run folder.") from error
        except Exception as error:
            raise VRXError(
                f"The concept bank in {folder} is damaged ({error}): delete that folder and rerun."
            ) from error
