"""Errors whose cause is known, because it was planted: a correctly classified photo is changed until it is not.

The three causes of section 4.4, each planted by one change alone, and nothing else of the photo is touched:

* ``shared``: the object itself gets parts of another class, and that class is predicted,
* ``false alarm``: parts of another class stand in the background, clear of the object; that class is predicted,
* ``unseen``: the object is whole, but seen as no training photo shows it; any other class is predicted.

:mod:`.planting_rendered` renders the scene of a photo again, :mod:`.planting_pasted` edits real photos.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from tqdm import tqdm

from vrx.data.images import Photo
from vrx.explain.explainer import Explainer
from vrx.studies.core.records import Records
from vrx.studies.diagnosis.causes import ERROR_CAUSES

CLEAR = 0.02  # at most this share of an object may be hidden by a distractor, and of a distractor be near the object

Row = dict[str, Any]


class Change(NamedTuple):
    """A photo after one change."""

    x: Tensor  # normalised [3, H, W]
    donor: int | None  # label of the class whose parts were used; None for unseen: any wrong prediction counts

    def succeeded(self, label: int, predicted: int) -> bool:
        """Whether the classifier, right about the untouched photo, now makes the error that was to be caused."""
        return predicted != label and self.donor in (None, predicted)


class Planter(ABC):
    """Plants causes into photos by changes that are drawn at random; ``kind`` and ``method`` say how."""

    kind: str
    method: str

    def __init__(self, explainer: Explainer, source: Any, seed: int = 0) -> None:
        self._explainer, self._source, self._seed = explainer, source, seed

    @abstractmethod
    def plant(self, photo: Photo, cause: str, rng: np.random.Generator) -> Change | None:
        """A change of one cause; None where the photo offers none."""

    def attempts(
        self, photos: Sequence[Photo], cause: str, trials: int
    ) -> Iterator[tuple[str, Photo, np.random.Generator]]:
        """Every photo once in random order, then every photo again, up to ``trials`` times.

        Each with a name, and with random numbers that do not depend on the others.
        """
        for trial in range(trials):
            order = np.random.default_rng([self._seed, ERROR_CAUSES.index(cause), trial]).permutation(len(photos))
            for photo in (photos[number] for number in order.tolist()):
                name = f"{self.kind} {'/'.join(Path(photo.path).parts[-3:])} {cause} {trial}"
                yield name, photo, np.random.default_rng([self._seed, *hashlib.sha256(name.encode()).digest()])

    def errors(
        self,
        photos: Sequence[Photo],
        cause: str,
        wanted: int,
        trials: int,
        records: Records,
        evidence: Callable[[Tensor, int], Row],
    ) -> list[Row]:
        """Plant errors of one cause into photos that are classified right, until there are enough or trials are spent.

        The evidence of each (of normalised photo ``[3, H, W]`` and label) is kept in the records, so that no change is
        tried twice; at most ``trials`` changes of a photo.

        Returns:
            A row per error, with ``photo`` and ``cause``.
        """

        def tried(photo: Photo, rng: np.random.Generator) -> Row:
            change = self.plant(photo, cause, rng)
            if change is None:
                return {}
            predicted = int(self._explainer.logits(change.x[None])[0].argmax())
            return evidence(change.x, photo.label) if change.succeeded(photo.label, predicted) else {}

        rows: list[Row] = []
        with tqdm(total=wanted, desc=f"planting: {cause}", unit="error") as bar:
            for name, photo, rng in self.attempts(photos, cause, trials):
                if len(rows) == wanted:
                    break
                if row := records.once(f"planted {name}", tried, photo, rng):
                    rows.append({**row, "photo": photo.path, "cause": cause})
                    bar.update()
        return rows

    def _read(self, photo: Photo) -> Tensor:
        return self._explainer.read(self._source.read(photo))

    def _other_class(self, photo: Photo, rng: np.random.Generator) -> int:
        """The label of a random other class."""
        return int(rng.choice([c for c in range(len(self._source.class_names)) if c != photo.label]))
