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
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vrx.data.images import Photo
from vrx.explain.explainer import Explainer
from vrx.studies.core.records import Records
from vrx.studies.diagnosis.causes import ERROR_CAUSES

CLEAR = 0.02  # at most this share of an object may be hidden by a distractor, and of a distractor be near the object
BATCH = 16  # attempts that are classified together

Row = dict[str, Any]
Skip = Callable[[str], bool]


@dataclass(frozen=True)
class Attempt:
    """One change of one photo."""

    name: str  # unique
    photo: Photo  # what was changed
    x: Tensor  # the changed photo, normalised [3, H, W]
    donor: int | None  # label of the class whose parts were used; None for unseen: any wrong prediction counts

    def succeeded(self, predicted: int) -> bool:
        """Whether the classifier, right about the untouched photo, now makes the error that was to be caused."""
        return predicted != self.photo.label and self.donor in (None, predicted)


class Planter(ABC):
    """Plants causes into photos by changes that are drawn at random; ``kind`` and ``method`` say how."""

    kind: str
    method: str

    def __init__(self, explainer: Explainer, source: Any, seed: int = 0) -> None:
        self._explainer, self._source, self._seed = explainer, source, seed

    @abstractmethod
    def plant(self, photo: Photo, cause: str, rng: np.random.Generator) -> tuple[Tensor, int | None] | None:
        """A change: the photo after it, normalised ``[3, H, W]``, and :attr:`Attempt.donor`; None: there is none."""

    def attempts(
        self, photos: Sequence[Photo], cause: str, trials: int, skip: Skip = lambda name: False
    ) -> Iterator[Attempt]:
        """Changes of one cause: every photo once in random order, then every photo again, up to ``trials`` times.

        Attempts whose name is to be skipped are not made: they are known to have failed.
        """
        for trial in range(trials):
            order = np.random.default_rng([self._seed, ERROR_CAUSES.index(cause), trial]).permutation(len(photos))
            for photo in (photos[number] for number in order.tolist()):
                name = f"{self.kind} {'/'.join(Path(photo.path).parts[-3:])} {cause} {trial}"
                rng = np.random.default_rng([self._seed, *hashlib.sha256(name.encode()).digest()])
                made = None if skip(name) else self.plant(photo, cause, rng)
                if made is not None:
                    yield Attempt(name, photo, *made)

    def _read(self, photo: Photo) -> Tensor:
        return self._explainer.read(self._source.read(photo))

    def _other_class(self, photo: Photo, rng: np.random.Generator) -> int:
        """The label of a random other class."""
        return int(rng.choice([c for c in range(len(self._source.class_names)) if c != photo.label]))


@dataclass(frozen=True)
class ErrorPlanter:
    """Plants errors and keeps the evidence of each in the study's records: no change is tried twice."""

    planter: Planter
    explainer: Explainer
    evidence: Callable[[Tensor, int], Row]  # normalised photo [3, H, W], label -> what is kept of an error
    records: Records

    def __call__(self, photos: Sequence[Photo], cause: str, wanted: int, trials: int) -> list[Row]:
        """Plant errors of one cause into photos that are classified right, until there are enough or trials are spent.

        A row per error, with ``photo`` and ``cause``.
        """
        rows: list[Row] = []
        attempts = self.planter.attempts(photos, cause, trials, lambda name: self._known(name) == {})
        with tqdm(total=wanted, desc=f"planting: {cause}", unit="error") as bar:
            while len(rows) < wanted and (some := list(islice(attempts, BATCH))):
                self._try(some, wanted - len(rows))
                known = [(attempt, self._known(attempt.name)) for attempt in some]
                made = [{**row, "photo": attempt.photo.path, "cause": cause} for attempt, row in known if row]
                rows += made[: wanted - len(rows)]
                bar.update(len(rows) - bar.n)
        return rows

    def _known(self, name: str) -> Row | None:
        """The evidence of an attempt; empty: it failed; None: it was not tried."""
        return self.records.get(f"planted {name}")

    def _try(self, attempts: Sequence[Attempt], wanted: int) -> None:
        """Classify changed photos and keep the evidence of the errors among them, until there are enough."""
        unknown = [a for a in attempts if self._known(a.name) is None]
        missing = wanted - sum(bool(self._known(a.name)) for a in attempts)
        if not unknown or missing <= 0:
            return
        predicted = self.explainer.logits(torch.stack([a.x for a in unknown])).argmax(1).tolist()
        for attempt, label in zip(unknown, predicted, strict=True):
            made = attempt.succeeded(label)
            self.records.add(f"planted {attempt.name}", self.evidence(attempt.x, attempt.photo.label) if made else {})
            missing -= made
            if missing <= 0:
                break
