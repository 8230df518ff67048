"""What a page may say of relations and of what is missing: what the network expects, clear of the noise (3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from vrx.explanation import CLEAR, NO_RELATION, Counterfactual, Explanation, Relations

Tables = tuple[NDArray[np.bool_], NDArray[np.bool_]]
"""Of interactions and of placements, ``[P, P]`` each."""

MOST_ARROWS = 5  # per class
MOST_REASONS, MOST_ABSENCES = 3, 2  # of what a class lacks, or finds elsewhere; of what is rightly missing


@dataclass(frozen=True)
class Relation:
    """Two concepts of a class, found in a photo, and what their relation counts for."""

    source: int  # a concept; where the arrangement counts, the one whose place does
    target: int  # the other
    arranged: bool  # the place of the source counts, because of the target; False: they count together
    predicted: float  # in centred logits of the class, by the graph network
    measured: float  # the same on the classifier
    noise: float  # what a measured relation of this kind must exceed
    confirmed: bool  # the classifier was measured to do the same by both fills, clear of the noise


def shown_relations(explanation: Explanation, index: int) -> list[Relation]:
    """The relations between found concepts of a class that a page may draw: expected, and confirmed by the classifier.

    Returns:
        At most ``MOST_ARROWS``, the strongest first; none where relations were not asked for.
    """
    return [relation for relation in expected_relations(explanation, index) if relation.confirmed][:MOST_ARROWS]


def opposing_relations(explanation: Explanation, index: int) -> list[Relation]:
    """The relations between found concepts of a class that a page may draw and that speak against it."""
    return [relation for relation in shown_relations(explanation, index) if relation.predicted < 0]


def contrary_relations(explanation: Explanation, index: int) -> list[Relation]:
    """The relations between found concepts of the predicted class that speak against another one, as expected and
    confirmed; the strongest by measurement first.
    """
    found = expected_relations(explanation, index, explanation.predicted)
    against = [relation for relation in found if relation.confirmed and relation.predicted < 0]
    return sorted(against, key=lambda relation: relation.measured)


def expected_relations(explanation: Explanation, index: int, owner: int | None = None) -> list[Relation]:
    """The relations that the graph network expects to count for a class, clear of the noise.

    They are between found concepts of the class, or of the class ``owner``.
    """
    relations = explanation.relations
    if relations is None:
        return []
    (together, placed), confirmed = relations.clear(index), relations.confirmed(index)
    found: list[Relation] = []
    ends = players_of(explanation, index if owner is None else owner)
    for k, other in combinations(sorted(ends.items()), 2):
        pair, arrangement = (
            _together(relations, confirmed, index, k, other),
            _arranged(relations, confirmed, index, k, other),
        )
        found += [pair] * bool(together[k[1], other[1]])
        found += [arrangement] * bool(placed[k[1], other[1]] or placed[other[1], k[1]])
    return sorted(found, key=lambda relation: -abs(relation.predicted))


def players_of(explanation: Explanation, index: int) -> dict[int, int]:
    """The found concepts of a class whose patches are players of the relations: concept -> player."""
    if explanation.relations is None:
        return {}
    players = {label: player for player, label in enumerate(explanation.relations.labels.tolist())}
    matched = explanation.matched[index].tolist()
    return {k: players[label] for k, label in enumerate(matched) if explanation.detected[index, k] and label in players}


def _together(relations: Relations, confirmed: Tables, index: int, *ends: tuple[int, int]) -> Relation:
    """That two (concept, player) are there together."""
    (k, i), (other, j) = ends
    predicted, measured = (float(pairs[i, j, index]) for pairs in (relations.pairs, relations.pairs_measured))
    least = CLEAR * float(relations.noise[index])
    return Relation(k, other, False, predicted, measured, least, bool(confirmed[0][i, j]))


def _arranged(relations: Relations, confirmed: Tables, index: int, *ends: tuple[int, int]) -> Relation:
    """How two (concept, player) lie: the direction that the network expects more of."""
    placed = np.abs(np.nan_to_num(relations.placed[..., index]))
    first, second = ends
    if placed[first[1], second[1]] >= placed[second[1], first[1]]:  # [i, j]: the place of j
        first, second = second, first
    at = (second[1], first[1], index)
    predicted, measured = float(relations.placed[at]), float(relations.placed_measured[at])
    least = CLEAR * float(relations.placed_noise[index])
    return Relation(first[0], second[0], True, predicted, measured, least, bool(confirmed[1][at[:2]]))


def opponents(explanation: Explanation, index: int) -> list[tuple[int, int, float]]:
    """Found concepts of other classes that speak against a class, and measured how much, the strongest first.

    Returns:
        Class, concept and its measured main effect on the class ``index``, one of each patch: of the most probable
        class that has it as a concept.
    """
    relations = explanation.relations
    if relations is None:
        return []
    order = np.argsort(-explanation.logits, kind="stable").tolist()
    found = []
    for player in np.flatnonzero(relations.against(index)).tolist():
        label = relations.labels[player]
        owners = [
            (c, int(np.argmax(explanation.matched[c] == label))) for c in order if label in explanation.matched[c]
        ]
        if owners and label not in explanation.matched[index]:
            found.append((*owners[0], float(relations.main_measured[player, index])))
    return sorted(found, key=lambda one: one[2])


def wanted(explanation: Explanation, index: int) -> list[Counterfactual]:
    """What is missing for a class, or lies elsewhere than it should, the largest measured gain first.

    Listed is what the network expects a gain of, and the classifier confirms clear of the noise.
    """
    own = [c for c in explanation.counterfactuals if c.graph == index and c.predicted[index] > 0]
    best = _largest([c for c in own if _exceeds(c.measured[index], c.noise[index])], index, 1)
    once: dict[object, Counterfactual] = {}
    for c in reversed(best):  # that 1 lies above 2 and 2 below 1 is one reason, and so are two concepts of one name
        name = explanation.name_of(index, c.concept) or c.concept
        once[name if c.added else frozenset((c.concept, c.anchor))] = c
    return _largest(list(once.values()), index, 1)[:MOST_REASONS]


def welcome_absences(explanation: Explanation) -> list[Counterfactual]:
    """Missing concepts of other classes that speak for the predicted one by being missing, largest effect first.

    Listed is what the network expects to cost the predicted class, and the classifier confirms clear of the noise.
    """
    own = explanation.predicted
    others = [c for c in explanation.counterfactuals if c.added and c.graph != own and c.predicted[own] < 0]
    return _largest([c for c in others if _exceeds(-c.measured[own], c.noise[own])], own, -1)[:MOST_ABSENCES]


def gains_if_there(explanation: Explanation, index: int) -> dict[int, tuple[float, bool]]:
    """Measured gain of a class if each of its missing concepts were there, and whether it is clear of the noise."""
    added = [c for c in explanation.counterfactuals if c.added and c.graph == index]
    return {
        c.concept: (float(c.measured[index]), _exceeds(abs(c.measured[index]), c.noise[index]))
        for c in added
        if np.isfinite(c.measured[index])
    }


def _largest(found: Sequence[Counterfactual], index: int, sign: int) -> list[Counterfactual]:
    return sorted(found, key=lambda c: -sign * float(c.measured[index]))


def _exceeds(value: float, noise: float) -> bool:
    """Whether a value is clear of the noise; False for NaN."""
    return bool(value > max(noise, NO_RELATION))
