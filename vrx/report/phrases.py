"""Numbers, concepts, directions and relations as phrases: what all sentences of a page are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vrx.explanation import Explanation
from vrx.reasons import Relation

SAME_PLACE = 0.03  # centroids nearer than this share of the photo's diagonal have no direction
LONGEST = 32  # characters of a concept's name and number in a sentence


def signed(value: float) -> str:
    """A number in logits with its sign: ``+1.8``, ``−0.04``, ``0.0``; ``–`` for NaN."""
    if not np.isfinite(value):
        return "–"
    digits = 0 if abs(value) >= 99.5 else 1 if abs(value) >= 0.095 else 2
    return "0.0" if float(f"{value:.2f}") == 0 else f"{value:+.{digits}f}".replace("-", "−")


def shorten(text: str, length: int) -> str:
    """At most ``length`` characters, the middle left out."""
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[: length - 1 - half]}…{text[-half:]}"


def join(parts: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def capital(text: str) -> str:
    """The same with a capital letter first."""
    return text[:1].upper() + text[1:]


def called(explanation: Explanation, index: int, concept: int) -> str:
    """A concept of a class by name, where it has one, and number: ``ladder (1)``, ``3``."""
    return shorten(explanation.concept(index, concept), LONGEST)


def short_name(explanation: Explanation, graph: int, concept: int) -> str:
    """What a concept is called, as short as a sentence needs it; "" where it has no name."""
    return shorten(explanation.name_of(graph, concept), LONGEST)


def direction(source: NDArray[np.float32], target: NDArray[np.float32], shape: tuple[int, int]) -> str:
    """Where the source lies as seen from the target: above, below, left of, right of, or at the place of it.

    Places (x, y) in [0, 1], y downwards; ``shape``: height and width of the photo in pixels.
    """
    dx, dy = (np.asarray(source, float) - target) * shape[::-1]
    if np.hypot(dx, dy) < SAME_PLACE * np.hypot(*shape):
        return "at the place of"
    if abs(dy) >= abs(dx):
        return "above" if dy < 0 else "below"
    return "left of" if dx < 0 else "right of"


def relation_ends(explanation: Explanation, index: int, relation: Relation) -> str:
    """The two concepts of a relation by number: ``1 + 3``; where the arrangement counts, ``2 above 4``."""
    between = "+"
    if relation.arranged:
        places = explanation.centroids[index]
        between = direction(places[relation.source], places[relation.target], explanation.superpixels.shape)
    return f"{relation.source + 1} {between} {relation.target + 1}"


def relation_kind(relation: Relation) -> str:
    """What it is that counts, as the network expects it: ``count together``, ``its place counts``."""
    if relation.arranged:
        return "its place counts" if relation.predicted > 0 else "its place counts against"
    return "count together" if relation.predicted > 0 else "count less together"


def relation_words(explanation: Explanation, index: int, relation: Relation) -> str:
    """A relation that the classifier confirms, and what was measured: ``1 and 3 count together (+0.8)``."""
    source, target = (the(explanation, index, k) for k in (relation.source, relation.target))
    if not relation.arranged:
        return f"{source} and {target} {relation_kind(relation)} ({signed(relation.measured)})"
    places, many = explanation.centroids[index], plural(explanation, index, relation.source)
    where = direction(places[relation.source], places[relation.target], explanation.superpixels.shape)
    counts = f"count{'s' * (not many)}{' against it' * (relation.predicted < 0)}"
    lies, moved = ("they lie", "they are moved") if many else ("it lies", "it is moved")
    return f"{source} {counts} because {lies} {where} {target}: {signed(-relation.measured)} when {moved}"


def the(explanation: Explanation, index: int, concept: int) -> str:
    """A concept as a noun: ``the ladder (1)``, ``3``."""
    name = called(explanation, index, concept)
    return name if name.isdigit() else f"the {name}"


def plural(explanation: Explanation, index: int, concept: int) -> bool:
    """Whether the name of a concept reads as several things: ``wheels``."""
    name = explanation.name_of(index, concept).lower()
    return " and " in name or (name.endswith("s") and not name.endswith(("ss", "us", "is")))
