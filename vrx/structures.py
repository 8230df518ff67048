"""What the parts of VRX hand to each other: frozen dataclasses that validate themselves."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy.special import softmax
from torch import Tensor

from vrx.errors import VRXError, check_shapes, require
from vrx.scores import margins, rank_agreement
from vrx.storage import json_safe, write_atomically, write_text

EPSILON = 1e-3  # every value of a dummy node (3.2.1: "a small constant")
UNMATCHED = -1  # in place of the patch of a concept that was not found
PERHAPS = 0.25  # least probability of a concept that may be there
STATE = "state."  # before the names of a bank's state in its file
BANK_TEXTS = ("exemplar_paths", "settings", "featureless", "notes", "parts")  # of a bank, in its JSON file
DERIVED = ("probabilities", "grn_probabilities", "detected", "perhaps", "present", "trust")  # of an explanation, ditto
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
    """Structural Concept Graphs: for each photo one complete directed graph a class of interest (3.2.1).

    Leading dimensions ``...`` (usually a batch of photos) are shared by all three tensors.

    Args:
        nodes: float32 ``[..., n, N, D]``; an undetected concept is a dummy, all values ``EPSILON``.
        centroids: (x, y) in [0, 1], float32 ``[..., n, N, 2]``; ``NEUTRAL`` where undetected.
        detected: bool ``[..., n, N]``.
    """

    nodes: Tensor
    centroids: Tensor
    detected: Tensor

    def __post_init__(self) -> None:
        lead = self.nodes.shape[:-1]
        require(self.nodes.ndim >= 3, f"SCG.nodes must be [..., n, N, D], got {tuple(self.nodes.shape)}")
        check_shapes(self, centroids=(*lead, 2), detected=tuple(lead))

    def drop(self, nodes: Tensor) -> SCG:
        """The same graphs with some nodes set to the dummy.

        Args:
            nodes: which, bool, broadcastable to ``[..., n, N]``.
        """
        gone = nodes.unsqueeze(-1)
        places = self.centroids.masked_fill(gone, NEUTRAL)
        return SCG(self.nodes.masked_fill(gone, EPSILON), places, self.detected & ~nodes)

    def to(self, device: torch.device | str) -> SCG:
        return SCG(self.nodes.to(device), self.centroids.to(device), self.detected.to(device))

    @staticmethod
    def stack(graphs: list[SCG]) -> SCG:
        return SCG(
            torch.stack([g.nodes for g in graphs]),
            torch.stack([g.centroids for g in graphs]),
            torch.stack([g.detected for g in graphs]),
        )


def edges(num_concepts: int) -> Tensor:
    """Directed edges j -> i of the complete graph, int64 ``[2, N(N-1)]``: row 0 is j (from), row 1 is i (to).

    Sorted by j, then by i. Every array over edges in VRX is in this order.
    """
    pairs = [(j, i) for j in range(num_concepts) for i in range(num_concepts) if i != j]
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T.contiguous()


@dataclass(frozen=True)
class ConceptBank:
    """The top-N visual concepts of every class of interest (3.1).

    A class in which fewer than N concepts survive has ``radius`` -1 at the missing places: never detected.

    Args:
        class_names: the n classes of interest, in the order of F's logits of interest.
        centroids: mean matching feature of each concept, float32 ``[n, N, Dm]``.
        radius: a patch nearer than this is a detection, float32 ``[n, N]``; -1: no such concept.
        importance: mean fall of F's log-odds for the class when the concept's pixels are edited away, ``[n, N]``.
        p_value: Holm-corrected, against deleting as many pixels at random places of the same photos, ``[n, N]``.
        exemplars: thumbnails of the most typical patches in their surroundings, outlined,
            uint8 ``[n, N, E, S, S, 3]``.
        exemplar_paths: the photo of each exemplar, ``[n][N][E]``; "" where there is none.
        settings: everything that the bank was made with (data, classifier fingerprint, patches, ...).
        state: what else finding the concepts needs, by name.
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
    featureless: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    names: list[list[str]] = field(default_factory=list)
    parts: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        require(self.centroids.ndim == 3, f"centroids must be [n, N, Dm], got {self.centroids.shape}")
        lead = (len(self.class_names), self.centroids.shape[1])
        check_shapes(self, **dict.fromkeys(("centroids", "radius", "importance", "p_value", "exemplars"), lead))

    @property
    def num_concepts(self) -> int:
        """N, concepts a class."""
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

    def save(self, folder: Path) -> None:
        """Write ``bank.safetensors`` and, last, ``bank.json`` into ``folder``."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        arrays = {name: np.ascontiguousarray(v) for name, v in values.items() if isinstance(v, np.ndarray)}
        arrays |= {f"{STATE}{name}": np.ascontiguousarray(v) for name, v in self.state.items()}
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
            state = {name.removeprefix(STATE): arrays.pop(name) for name in list(arrays) if name.startswith(STATE)}
            bank = cls(tuple(text["class_names"]), **texts, **arrays, state=state)
            require(text.get("digest", bank.digest) == bank.digest, "bank.json and bank.safetensors do not belong")
            return bank
        except FileNotFoundError as error:
            raise VRXError(f"No concept bank in {folder}: run train.py first, or give another run folder.") from error
        except Exception as error:
            raise VRXError(
                f"The concept bank in {folder} is damaged ({error}): delete that folder and rerun."
            ) from error


@dataclass(frozen=True)
class Explanation:
    """Why F chose a class for one photo, and why not the others (3.3).

    n classes of interest are scored (axis 0) and have a graph each (axis 1); N concepts a class.

    Args:
        image: the photo as F saw it, before normalisation, uint8 ``[H, W, 3]``.
        x: the same as F read it, normalised ``[3, H, W]``.
        name: where the photo came from (a path, usually).
        class_names: the n classes of interest.
        logits: of F, for the classes of interest, ``[n]``.
        grn_logits: of the GRN, ``[n]``.
        node_scores: contribution of node k of graph g to the score of class c, in logits,
            ``[n (score), n (graph), N]``; 0 where undetected.
        edge_scores: the same of edge e (order of :func:`edges`), ``[n, n, N(N-1)]``; 0 where not asked for.
        matched: label of the superpixel that shows each concept, int64 ``[n, N]``; ``UNMATCHED`` where undetected.
        centroids: (x, y) in [0, 1], ``[n, N, 2]``.
        superpixels: all regions of the photo, before attention.
        attended: labels of those that F attends to, the concept candidates, int64 ``[K]``.
        measured: fall of F's margin of class c (its logit minus the log-sum-exp of the others) when the
            concept k of graph c is deleted, ``[n, N]``; NaN where it was not measured.
        presence: probability that the photo shows each concept, ``[n, N]`` in [0, 1]; found are those with at least
            even odds.
        names: what the concepts are called, ``[n][N]``; "" for those without a name.
        fallback: index of the class that F calls a photo without detail, if it clearly prefers one.
        exists: which places of the graphs hold a concept, bool ``[n, N]``; empty: all.
        true_class: index of the label, if known.
        provenance: run folder, fingerprint of F, settings of the contributions.
    """

    image: NDArray[np.uint8]
    x: Tensor
    name: str
    class_names: tuple[str, ...]
    logits: NDArray[np.float64]
    grn_logits: NDArray[np.float64]
    node_scores: NDArray[np.float64]
    edge_scores: NDArray[np.float64]
    matched: NDArray[np.int64]
    centroids: NDArray[np.float32]
    superpixels: Patches
    attended: NDArray[np.int64]
    measured: NDArray[np.float32]
    presence: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    names: tuple[tuple[str, ...], ...] = ()
    fallback: int | None = None
    exists: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0), bool))
    true_class: int | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n, num = self.matched.shape
        require(len(self.class_names) == n, f"{len(self.class_names)} class names for {n} graphs")
        require(
            self.image.shape[:2] == self.superpixels.shape, f"superpixels of {self.superpixels.shape}, not the photo's"
        )
        check_shapes(self, logits=(n,), grn_logits=(n,), node_scores=(n, n, num))
        check_shapes(self, edge_scores=(n, n, num * (num - 1)), centroids=(n, num, 2), measured=(n, num))

    @property
    def predicted(self) -> int:
        """Index of the class that F predicts among the classes of interest."""
        return int(self.logits.argmax())

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Softmax of F over the classes of interest, ``[n]``."""
        return np.asarray(softmax(self.logits))

    @property
    def grn_probabilities(self) -> NDArray[np.float64]:
        """The same of the GRN, ``[n]``."""
        return np.asarray(softmax(self.grn_logits))

    @property
    def detected(self) -> NDArray[np.bool_]:
        """Which concepts were found, bool ``[n, N]``."""
        return np.asarray(self.matched != UNMATCHED)

    @property
    def trust(self) -> float:
        """Spearman between the contributions to the predicted class and the measured effects on it.

        NaN with fewer than three detected concepts, or where nothing was measured.
        """
        own = self.predicted
        found = self.detected[own]
        measured = self.measured[own][found]
        return rank_agreement(self.node_scores[own, own][found], measured) if np.isfinite(measured).all() else math.nan

    @property
    def perhaps(self) -> NDArray[np.bool_]:
        """Which concepts may be there, with less than even odds, bool ``[n, N]``."""
        unknown = self.presence.shape != self.matched.shape
        likely = np.zeros(self.matched.shape, bool) if unknown else self.presence >= PERHAPS
        return np.asarray(likely & ~self.detected)

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which places of the graphs hold a concept that a photo can show, bool ``[n, N]``."""
        return self.exists if self.exists.shape == self.matched.shape else np.ones(self.matched.shape, bool)

    def concept(self, graph: int, concept: int) -> str:
        """A concept's number and, where it has one, its name: "3", "ladder (3)"."""
        name = self.names[graph][concept] if self.names else ""
        return f"{name} ({concept + 1})" if name else str(concept + 1)

    def mask(self, graph: int, concept: int) -> NDArray[np.bool_]:
        """The pixels of a concept, bool ``[H, W]``; none where it was not detected."""
        return self.label_mask(int(self.matched[graph, concept]))

    def label_mask(self, label: int) -> NDArray[np.bool_]:
        """The pixels of a superpixel, bool ``[H, W]``."""
        return np.asarray((self.superpixels.labels == label).any(0))

    def margin(self, index: int) -> float:
        """F's log-odds of a class against the other classes of interest."""
        return float(margins(torch.from_numpy(self.logits))[index])

    def at_edges(self, index: int) -> NDArray[np.float64]:
        """Contribution to the class of all relations, in and out, of each concept of its graph, ``[N]``."""
        num = self.matched.shape[1]
        j, i = edges(num).numpy()
        links = self.edge_scores[index, index]
        return np.asarray(np.bincount(j, links, num) + np.bincount(i, links, num))

    def to_json(self) -> str:
        """Everything but the pixels and masks, as JSON (NaN becomes null)."""
        hidden = ("image", "x", "superpixels", "attended", "matched", "exists")
        content: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in hidden}
        content |= {name: getattr(self, name) for name in DERIVED}
        content["predicted"] = self.class_names[self.predicted]
        content["edges"] = edges(self.matched.shape[1]).T.tolist()
        return json.dumps(json_safe(content), indent=1)
