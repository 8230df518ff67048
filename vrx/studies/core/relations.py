"""What the GRN says of the concepts and relations of a photo, read off its explanation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vrx.explanation import Explanation

READINGS = {
    "nodes": "its own contribution",
    "together": "its pair interactions",
    "placement": "its placement effects",
    "elsewhere": "the loss by lying elsewhere",
    "all": "all of these",
}
"""What :func:`by_concept` reads, in words."""


def by_concept(explanation: Explanation, index: int) -> dict[str, NDArray[np.float64]]:
    """What the GRN says that each concept of a class gives to the class: ``[N]`` for each of ``READINGS``.

    ``together``, ``placement``: the sum of the pair interactions, and of the placement effects, that it takes part in
    with other concepts of the class; ``elsewhere``: minus the largest gain if it lay where it belongs; ``all``: the sum
    of these and of its own contribution.
    """
    found = {name: np.zeros(explanation.matched.shape[1]) for name in READINGS}
    found["nodes"] = explanation.node_scores[index, index]
    relations = explanation.relations
    if relations is not None:
        own = np.isin(relations.labels, explanation.matched[index])
        is_player = explanation.matched[index][:, None] == relations.labels[own]  # [N, P]
        pairs, placed = (np.nan_to_num(v[own][:, own, index]) for v in (relations.pairs, relations.placed))
        found["together"] = is_player @ pairs.sum(0)
        found["placement"] = is_player @ (placed.sum(0) + placed.sum(1))
    for one in explanation.counterfactuals:
        if one.graph == index and not one.added:
            found["elsewhere"][one.concept] = min(found["elsewhere"][one.concept], -one.predicted[index])
    found["all"] = np.sum([values for name, values in found.items() if name != "all"], axis=0)
    return found


def sums(explanation: Explanation, index: int) -> tuple[float, float]:
    """Contributions to a class of its concepts that were found, and of the relations between them, by the GRN.

    Main effects and pair interactions; with fewer than two concepts there are no relations.
    """
    relations = explanation.relations
    if relations is None:
        return float(explanation.node_scores[index, index].sum()), 0.0
    own = np.isin(relations.labels, explanation.matched[index])
    pairs = relations.pairs[own][:, own, index]
    return float(relations.main[own, index].sum()), float(pairs.sum() / 2)
