"""The ConceptBank: what is known of the concepts of every class, and its two files in a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from vrx.errors import VRXError, check_shapes, require
from vrx.storage import write_atomically, write_text

STATE, CUTOUT = "state.", "cutout."  # before the names of a bank's state and cut-outs in its file
BANK_TEXTS = ("exemplar_paths", "settings", "featureless", "notes", "parts")  # in its JSON file
ARRAYS = ("centroids", "radius", "importance", "p_value", "exemplars")  # with a row per class
PER_CLASS = ("exemplar_paths", "names", "parts")  # lists with an entry a class, or none


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
        parts: the part or two that each concept shows, where part masks make that certain, ``[n][N]``; "" elsewhere.
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
