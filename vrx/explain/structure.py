"""Are relations and absences true of F? The ``relations/*`` and ``absence/*`` of ``metrics.json``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from vrx.data.images import Photo
from vrx.data.sources import HasDecidingRelations, PhotoSource
from vrx.explain.contrast import MOST_PLAYERS
from vrx.explain.explainer import Explainer
from vrx.explain.interactions import GRNGame, Players, placements, together
from vrx.explain.quality import read_photos, sampled
from vrx.explanation import NO_RELATION, Explanation, Relations
from vrx.reasons import contrary_relations, opponents, opposing_relations, wanted
from vrx.scores import above_p_value, finite_mean, rank_agreement

ENOUGH = 5  # pairs of a photo: the three strongest of fewer say little
TOP = 3
VISIBLE = 0.5  # share of a patch's object pixels on one part, if the patch shows it

Pairs = NDArray[np.float64]


def structure_quality(explainer: Explainer, source: PhotoSource, photos: int, seed: int = 0) -> dict[str, float]:
    """Explain test photos with everything measured, and say how true their relations and absences are.

    So many photos, from all classes alike; where the deciding relations are known, four times as many.
    """
    chosen = sampled(source.photos("test"), photos, seed)
    read = tqdm(read_photos(explainer, source, chosen), desc="asking about relations", unit="photo", leave=False)
    explained = [explainer.explain_input(x, regions, measure=True, true_class=label) for x, regions, label in read]
    metrics = structure_metrics(explained)
    if isinstance(source, HasDecidingRelations):
        metrics |= deciding_first(explainer, source, sampled(source.photos("test"), 4 * photos, seed))
    return metrics


def structure_metrics(explanations: Sequence[Explanation]) -> dict[str, float]:
    """The ``relations/*`` and ``absence/*`` of docs/metrics.md, over explanations of test photos."""
    known = [(e, e.relations) for e in explanations if e.relations is not None]
    scores: dict[str, Callable[[Explanation, Relations, int], Pairs]] = {
        "spearman": lambda e, r, c: r.pairs[..., c],
        "ceiling": lambda e, r, c: r.pairs_second[..., c],
        "spearman_product": lambda e, r, c: -np.outer(r.main[:, c], r.main[:, c]),
        "spearman_distance": lambda e, r, c: -_distances(e, r),
    }
    found = {
        name: np.array([_agreement(score(e, r, e.predicted), r.pairs_measured[..., e.predicted]) for e, r in known])
        for name, score in scores.items()
    }
    result = {f"relations/{name}": finite_mean(values) for name, values in found.items()}
    for name in ("product", "distance"):
        counted = ~np.isnan(found["spearman"])
        other = found[f"spearman_{name}"]
        result[f"relations/p_above_{name}"] = above_p_value(found["spearman"][counted], other[counted])
    for name, second in (("placement", False), ("placement_ceiling", True)):
        values = [_agreement_placed(r, e.predicted, second) for e, r in known]
        result[f"relations/{name}"] = finite_mean(np.array(values))
    result["relations/precision_at_3"] = finite_mean(np.array([_precision(r, e.predicted) for e, r in known]))
    claims = np.array([[part.any() for part in _between(e, r, e.predicted)] for e, r in known], bool).reshape(-1, 2)
    for name, claimed in (("claimed", claims.any(1)), ("claimed_placement", claims[:, 1])):
        result[f"relations/{name}"] = float(claimed.sum() / len(explanations)) if explanations else float("nan")
    for order in (1, 2):
        result[f"relations/order_{order}"] = finite_mean(np.array([r.shares[order - 1] for _, r in known]))
    result["relations/photos"] = float(len(known))
    return result | _absence(explanations)


def _upper(values: Pairs) -> Pairs:
    return values[np.triu_indices(len(values), 1)]


def _agreement(predicted: Pairs, measured: Pairs) -> float:
    return rank_agreement(_upper(predicted), _upper(measured))


def _agreement_placed(relations: Relations, index: int, second: bool) -> float:
    predicted = (relations.placed_second if second else relations.placed)[..., index]
    measured = relations.placed_measured[..., index]
    asked = np.isfinite(measured) & np.isfinite(predicted)
    return rank_agreement(predicted[asked], measured[asked])


def _precision(relations: Relations, index: int) -> float:
    predicted, measured = (np.abs(_upper(v[..., index])) for v in (relations.pairs, relations.pairs_measured))
    if len(measured) < ENOUGH:
        return float("nan")
    return len({*np.argsort(-predicted)[:TOP]} & {*np.argsort(-measured)[:TOP]}) / TOP


def _distances(explanation: Explanation, relations: Relations) -> Pairs:
    """Distance of the middles of the players' patches, share of the photo, ``[P, P]``."""
    places = explanation.superpixels.select(np.searchsorted(explanation.superpixels.ids, relations.labels)).centroids
    return np.asarray(np.linalg.norm(places[:, None] - places[None], axis=2), np.float64)


def _between(explanation: Explanation, relations: Relations, index: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The confirmed relations between concepts of a class: interactions, placements, ``[P, P]`` each."""
    own = np.isin(relations.labels, explanation.matched[index])
    both = own[:, None] & own[None]
    pairs, placed = relations.confirmed(index)
    return pairs & both, placed & both


def _absence(explanations: Sequence[Explanation]) -> dict[str, float]:
    added = [(c.predicted[c.graph], c.measured[c.graph]) for e in explanations for c in e.counterfactuals if c.added]
    predicted, measured = np.array(added).reshape(-1, 2).T
    panels = [confirmed(e, c) for e in explanations for c in e.shown() if c != e.predicted and e.present[c].any()]
    return {
        "absence/spearman": rank_agreement(predicted, measured),
        "absence/counted": float(len(added)),
        "absence/confirmed": float(np.mean(panels)) if panels else float("nan"),
    }


def confirmed(explanation: Explanation, index: int) -> bool:
    """Whether "why not" this class names a reason that F confirms: a concept of the class that is here and speaks
    against it, one that is missing or lies elsewhere, a relation against it, or a concept of another class. The
    relation is between concepts of the class or of the predicted one.
    """
    here = explanation.detected[index]
    against = (explanation.node_scores[index, index] < 0) & (np.nan_to_num(explanation.measured[index]) < -NO_RELATION)
    named = (wanted, opponents, opposing_relations, contrary_relations)
    return bool((against & here).any()) or any(reasons(explanation, index) for reasons in named)


def deciding_first(explainer: Explainer, source: HasDecidingRelations, photos: Sequence[Photo]) -> dict[str, float]:
    """Is the relation that decides a class the strongest that the GRN predicts? Photos that lack it are misses.

    ``relations/deciding_first`` and ``relations/deciding_found``; nothing where no class has a deciding relation.
    """
    first, found = [], []
    for photo in photos:
        wanted = source.deciding_relation(photo.label)
        if wanted is None:
            continue
        x = explainer.read(source.read(photo))  # type: ignore[attr-defined]
        local, label = explainer.about(x, photo.label)
        graphs = local.builder(x[None], [explainer.superpixels(x)])
        players = Players.of(graphs, 0, MOST_PLAYERS)
        shows = [_main_part(mask, source.parts(photo)) for mask in players.masks]
        found.append({wanted.part, wanted.other} <= set(shows))
        strength = _strength(GRNGame(explainer.grn, graphs.scg.to(x.device), players), players, int(label or 0))
        i, j = np.unravel_index(int(strength.argmax()), strength.shape) if len(players) > 1 else (0, 0)
        first.append(found[-1] and {shows[i], shows[j]} == {wanted.part, wanted.other})
    if not first:
        return {}
    return {"relations/deciding_first": float(np.mean(first)), "relations/deciding_found": float(np.mean(found))}


def _strength(game: GRNGame, players: Players, index: int) -> Pairs:
    """Larger of interaction and placement of each pair for a class, ``[P, P]``; 0 on the diagonal."""
    with torch.inference_mode():
        values, _, pairs = together(game, len(players))
        placed = np.abs(np.nan_to_num(placements(game, players.movable, values)[1][..., index]))
    return np.asarray(np.maximum(np.abs(pairs[..., index]), np.maximum(placed, placed.T)))


def _main_part(mask: NDArray[np.bool_], parts: dict[str, NDArray[np.bool_]]) -> str:
    """The part on which most of a patch's object pixels lie; "" for one of background."""
    shares = {name: int((mask & part).sum()) for name, part in parts.items()}
    best = max(shares, key=lambda name: shares[name], default="")
    return best if best and shares[best] > VISIBLE * sum(shares.values()) else ""
