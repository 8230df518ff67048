"""Errors whose cause is known, because it was planted: a correctly classified photo is changed until it is not.

The three causes of section 4.4, each planted by one change alone, and nothing else of the photo is touched:

* ``shared``: the object itself gets parts of another class, and that class is predicted,
* ``false alarm``: parts of another class stand in the background, clear of the object; that class is predicted,
* ``unseen``: the object is whole, but seen as no training photo shows it; any other class is predicted.

:mod:`.planting_rendered` renders the scene of a photo again, :mod:`.planting_pasted` edits real photos.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from vrx.data.images import Photo
from vrx.explain.explainer import Explainer
from vrx.studies.core.records import Records

CLEAR = 0.02  # at most this share of an object may be hidden by a distractor, and of a distractor be near the object
BATCH = 16  # attempts that are classified together

Row = dict[str, Any]
Skip = Callable[[str], bool]


@dataclass(frozen=True)
class Attempt:
    """One change of one photo.

    Args:
        name: unique.
        photo: what was changed.
        donor: label of the class whose parts were used; None for ``unseen``: any wrong prediction counts.
        pixels: the changed frame, uint8 ``[H, W, 3]``.
        detail: what was done, in words.
        x: what F sees, normalised ``[3, h, w]``; None: ``pixels``, as F's transform shows them.
    """

    name: str
    photo: Photo
    donor: int | None
    pixels: NDArray[np.uint8]
    detail: str
    x: Tensor | None = None

    def succeeded(self, predicted: int) -> bool:
        """Whether F, right about the untouched photo, now makes the error that the change is to cause."""
        return predicted != self.photo.label and self.donor in (None, predicted)


class Planter(Protocol):
    """Plants causes into photos; ``method`` says how, for the page."""

    method: str

    def attempts(self, photos: Sequence[Photo], cause: str, trials: int, skip: Skip = ...) -> Iterator[Attempt]:
        """Changes of one cause: every photo once, then every photo again, up to ``trials`` times.

        Args:
            photos: to change.
            cause: one of ``ERROR_CAUSES``.
            trials: changes of each photo.
            skip: names that are not made, because they are known to have failed.
        """
        ...


class ErrorPlanter:
    """Plants errors and keeps the evidence of each in the study's records.

    Args:
        planter: makes the changes.
        explainer: of F.
        evidence: normalised photo ``[3, H, W]``, label -> what is kept of an error.
        records: of the study: no change is tried twice.
    """

    def __init__(
        self, planter: Planter, explainer: Explainer, evidence: Callable[[Tensor, int], Row], records: Records
    ) -> None:
        self.planter, self._explainer, self._evidence, self._records = planter, explainer, evidence, records

    def __call__(self, photos: Sequence[Photo], cause: str, wanted: int, trials: int) -> list[Row]:
        """Plant errors of one cause into photos that F gets right, until there are enough or the trials are spent.

        Returns:
            A row per error, with ``photo``, ``cause``, ``detail`` and ``name``.
        """
        rows: list[Row] = []
        attempts = self.planter.attempts(photos, cause, trials, lambda name: self._known(name) == {})
        with tqdm(total=wanted, desc=f"planting: {cause}", unit="error") as bar:
            while len(rows) < wanted and (some := list(islice(attempts, BATCH))):
                self._try(some, wanted - len(rows))
                for attempt in some:
                    row = self._known(attempt.name)
                    if row and len(rows) < wanted:
                        extra = {"photo": attempt.photo.path, "cause": cause, "detail": attempt.detail}
                        rows.append({**row, "name": attempt.name, **extra})
                        bar.update()
        return rows

    def _known(self, name: str) -> Row | None:
        """The evidence of an attempt; empty: it failed; None: it was not tried."""
        key = f"planted {name}"
        if key not in self._records:
            return None
        return self._records[key]

    def _try(self, attempts: Sequence[Attempt], wanted: int) -> None:
        """Classify changed photos and keep the evidence of the errors among them, until there are enough."""
        unknown = [a for a in attempts if self._known(a.name) is None]
        missing = wanted - sum(bool(self._known(a.name)) for a in attempts)
        if not unknown or missing <= 0:
            return
        read = self._explainer.read
        x = torch.stack([read(Image.fromarray(a.pixels)) if a.x is None else a.x for a in unknown])
        for attempt, photo, predicted in zip(unknown, x, self._explainer.logits(x).argmax(1).tolist(), strict=True):
            made = attempt.succeeded(predicted)
            self._records.add(f"planted {attempt.name}", self._evidence(photo, attempt.photo.label) if made else {})
            missing -= made
            if missing <= 0:
                break
