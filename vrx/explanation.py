"""Why F chose a class for one photo, and why not the others (3.3): the numbers that pages and studies read."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from html import escape
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from vrx.errors import check_shapes, require
from vrx.scores import margins, rank_agreement
from vrx.storage import json_safe
from vrx.structures import PERHAPS, UNMATCHED, Patches, edges

NO_RELATION = 0.1  # logits: a smaller relation is none
CLEAR = 2.5  # times the noise: what a relation must exceed to stand clear of it
DERIVED = ("probabilities", "grn_probabilities", "detected", "perhaps", "present", "trust")  # of an explanation, ditto


@dataclass(frozen=True)
class Relations:
    """What pairs of the concepts found in a photo count for, in centred logits of each of the n classes.

    The P players are the distinct patches of the found concepts. Together: main effects and pairs (each once) add up to
    what the network says of the photo minus what it says of the photo without any of them. Placement: what it costs to
    move j, less what it costs where i is gone. Predicted by the GRN from the clean photo, measured on the classifier.

    Args:
        labels: of the players' patches, int64 ``[P]``.
        main: predicted main effects, ``[P, n]``.
        main_measured: the same of the classifier.
        pairs: predicted interactions, symmetric, ``[P, P, n]``.
        pairs_measured: the same of the classifier.
        placed: predicted: what the place of j counts for because of i, ``[P (i), P (j), n]``; NaN where j is too large
            to be moved.
        placed_measured: the same of the classifier.
        moved: measured: what it costs to move each player, ``[P, n]``; NaN where it cannot be moved.
        pairs_second: the measured ones with another fill: how far two fills differ is the noise.
        placed_second: the same of the placements.
        moved_second: the same of what moving costs.
        empty: what the GRN says of the photo without any player, ``[n]``.
        shares: how much of what the classifier says of all sets of players, for the predicted class, single players
            explain, and how much with pairs (R2).
        left_out: found patches that are not among the players: there were too many.
    """

    labels: NDArray[np.int64]
    main: NDArray[np.float64]
    main_measured: NDArray[np.float64]
    pairs: NDArray[np.float64]
    pairs_measured: NDArray[np.float64]
    placed: NDArray[np.float64]
    placed_measured: NDArray[np.float64]
    moved: NDArray[np.float64]
    pairs_second: NDArray[np.float64]
    placed_second: NDArray[np.float64]
    moved_second: NDArray[np.float64]
    empty: NDArray[np.float64]
    shares: tuple[float, float] = (math.nan, math.nan)
    left_out: int = 0

    def __post_init__(self) -> None:
        count, n = len(self.labels), len(self.empty)
        alone, square = (count, n), (count, count, n)
        check_shapes(self, main=alone, main_measured=alone, pairs=square, pairs_measured=square)
        check_shapes(self, moved=alone, moved_second=alone)
        check_shapes(self, placed=square, placed_measured=square, pairs_second=square, placed_second=square)

    @property
    def noise(self) -> NDArray[np.float64]:
        """How far two fills differ in the measured interactions, root mean square, ``[n]``."""
        return _difference(self.pairs_measured, self.pairs_second)

    @property
    def placed_noise(self) -> NDArray[np.float64]:
        """The same of the placements."""
        return _difference(self.placed_measured, self.placed_second)

    def confirmed(self, index: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Of :meth:`clear`, those that both fills measure with the same sign, clear of the noise.

        The place of j counts only where moving j has that sign, too. A patch that was moved is worth less, as if a part
        of it was gone: of two that stand in for each other, the place of each would seem to count because of the other.
        """
        (together, placed), (least, least_placed) = self.clear(index), self._least(index)
        pairs, places = np.sign(self.pairs[..., index]), np.sign(np.nan_to_num(self.placed[..., index]))
        for measured in (self.pairs_measured, self.pairs_second):
            together &= pairs * measured[..., index] > least
        for measured, moved in ((self.placed_measured, self.moved), (self.placed_second, self.moved_second)):
            placed &= (places * measured[..., index] > least_placed) & (places * moved[:, index] > least_placed)
        return together, placed

    def against(self, index: int) -> NDArray[np.bool_]:
        """Which players speak against a class: by the GRN and by the classifier, clear of the noise, bool ``[P]``."""
        least = self._least(index)[0]
        return (self.main[:, index] < -least) & (self.main_measured[:, index] < -least)

    def _least(self, index: int) -> tuple[float, float]:
        """What interactions and placements for a class must exceed."""
        return max(CLEAR * self.noise[index], NO_RELATION), max(CLEAR * self.placed_noise[index], NO_RELATION)

    def clear(self, index: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which predicted interactions and placements for a class stand clear of the noise, bool ``[P, P]`` each."""
        least, least_placed = self._least(index)
        return np.abs(self.pairs[..., index]) > least, np.abs(np.nan_to_num(self.placed[..., index])) > least_placed


def _difference(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Root mean square over the pairs that were measured: ``[P, P, n]`` twice -> ``[n]``."""
    off = ~np.eye(len(first), dtype=bool) & np.isfinite(first).all(-1)
    return np.sqrt(((first - second)[off] ** 2).mean(0)) if off.any() else np.zeros(first.shape[2])


@dataclass(frozen=True)
class Counterfactual:
    """What becomes of the classes when a concept of a class is put where it belongs.

    Args:
        graph: the class whose concept it is.
        concept: which.
        anchor: a concept of the same class that it is put right to; ``UNMATCHED``: it was missing and is added.
        place: (x, y) in [0, 1], where it is put.
        predicted: gain of each class's margin that the GRN expects, ``[n]``.
        measured: gain of the classifier's, ``[n]``: the median of several typical patches, or the mean of two fills.
        noise: what must be exceeded: what covering the place alone does, or half of how far two fills differ, ``[n]``.
    """

    graph: int
    concept: int
    anchor: int
    place: tuple[float, float]
    predicted: NDArray[np.float64]
    measured: NDArray[np.float64]
    noise: NDArray[np.float64]

    @property
    def added(self) -> bool:
        """Whether the concept was missing."""
        return self.anchor == UNMATCHED


@dataclass(frozen=True)
class Explanation:
    """Why F chose a class for one photo, and why not the others (3.3).

    n classes of interest are scored (axis 0) and have a graph each (axis 1); N concepts per class.

    Args:
        image: the photo as F saw it, before normalisation, uint8 ``[H, W, 3]``.
        x: the same as F read it, normalised ``[3, H, W]``.
        name: where the photo came from (a path, usually).
        class_names: the n classes of interest.
        logits: of F, for the classes of interest, ``[n]``.
        grn_logits: of the GRN, ``[n]``.
        node_scores: contribution of node k of graph g to the score of class c, in logits,
            ``[n (score), n (graph), N]``; 0 where undetected.
        edge_scores: the same of edge e (order of :func:`edges`) by Eq. 5-6, ``[n, n, N(N-1)]``.
        matched: label of the superpixel that shows each concept, int64 ``[n, N]``; ``UNMATCHED`` where undetected.
        centroids: (x, y) in [0, 1], ``[n, N, 2]``.
        superpixels: all regions of the photo, before attention.
        attended: labels of those that F attends to, the concept candidates, int64 ``[K]``.
        measured: fall of F's margin of class c (its logit minus the log-sum-exp of the others) when the
            concept k of graph c is deleted, ``[n, N]``; NaN where it was not measured.
        presence: probability that the photo shows each concept, ``[n, N]`` in [0, 1]; found are those with at least
            even odds.
        names: what the concepts are called, ``[n][N]``; "" for those without a name.
        gradcam: where F looks for each class, by Grad-CAM at its last layer (Selvaraju et al. 2017), >= 0,
            ``[n, h, w]``; empty where it was not asked. To compare with: no contribution reads it.
        fallback: index of the class that F calls a photo without detail, if it clearly prefers one.
        exists: which places of the graphs hold a concept, bool ``[n, N]``; empty: all.
        relations: what pairs of concepts count for; None where it was not asked.
        counterfactuals: what is missing for the classes shown, and what lies elsewhere than it should.
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
    gradcam: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 1, 1), np.float32))
    fallback: int | None = None
    exists: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0), bool))
    relations: Relations | None = None
    counterfactuals: tuple[Counterfactual, ...] = ()
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

    def shown(self, others: int = 2) -> list[int]:
        """The predicted class, F's next ``others``, and the true one if it is known and not among them."""
        first = np.argsort(-self.logits, kind="stable")[: others + 1].tolist()
        return first + [c for c in (self.true_class,) if c is not None and c not in first]

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

    def name_of(self, graph: int, concept: int) -> str:
        """What a concept is called; "" where it has no name."""
        return self.names[graph][concept] if self.names else ""

    def concept(self, graph: int, concept: int) -> str:
        """A concept's number and, where it has one, its name: "3", "ladder (3)"."""
        name = self.name_of(graph, concept)
        return f"{name} ({concept + 1})" if name else str(concept + 1)

    def mask(self, graph: int, concept: int) -> NDArray[np.bool_]:
        """The pixels of a concept, bool ``[H, W]``; none where it was not detected."""
        return self.label_mask(int(self.matched[graph, concept]))

    def label_mask(self, labels: int | NDArray[np.int64]) -> NDArray[np.bool_]:
        """The pixels of a superpixel, or of several, bool ``[H, W]``."""
        return np.asarray(np.isin(self.superpixels.labels, labels).any(0))

    def margin(self, index: int) -> float:
        """F's log-odds of a class against the other classes of interest."""
        return float(margins(torch.from_numpy(self.logits))[index])

    def _repr_html_(self) -> str:
        """What a notebook shows: the page of the photo, in a frame of its own."""
        from vrx.report.pages import explanation_page  # knows how things look; nothing else here does

        page = escape(explanation_page(self), quote=True)
        return f'<iframe srcdoc="{page}" title="explanation" style="width: 100%; height: 860px; border: 0"></iframe>'

    def to_json(self) -> str:
        """Everything but the pixels and masks, as JSON (NaN becomes null)."""
        hidden = ("image", "x", "superpixels", "attended", "matched", "exists", "gradcam")
        content: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in hidden}
        content |= {name: getattr(self, name) for name in DERIVED}
        content["relations"] = None if self.relations is None else asdict(self.relations)
        content["counterfactuals"] = [asdict(c) for c in self.counterfactuals]
        content["predicted"] = self.class_names[self.predicted]
        content["edges"] = edges(self.matched.shape[1]).T.tolist()
        return json.dumps(json_safe(content), indent=1)
