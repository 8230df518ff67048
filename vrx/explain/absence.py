"""What is missing for a class, and what lies elsewhere than it should (3.3, "why not"), predicted and measured.

What is normal for a class is read off the graphs of its training photos: what its concepts hold, how they lie to each
other. The GRN is asked about the photo's graphs with a concept added, or moved to where it belongs; F about the photo
with typical patches pasted in, or with the patch moved there. The GRN was distilled on deletions: what it says of an
addition is calibrated on training photos (:class:`Additions`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vrx.data.scg_datamodule import predicted_classes
from vrx.errors import VRXError, check_shapes
from vrx.storage import write_atomically
from vrx.structures import NEUTRAL, SCG, edges

LEAST_SEEN = 3  # photos of a class that a typical value is taken from
EXAMPLES = 16  # photos that say how two concepts of a class lie to each other
ALIKE = 0.06  # places nearer to each other than this are alike, share of the photo
ALONG = 0.5  # share of the photos in which a node comes with a concept
SHRINKAGE = 1.0  # photos that the mean of all concepts counts for beside those in which a concept was added


@dataclass(frozen=True)
class Addition:
    """A missing concept added to one photo."""

    graph: int  # the class whose concept it is
    concept: int  # which
    margins: Tensor  # of each class before, [n]
    predicted: Tensor  # gain of each class's margin that the GRN expects, [n]
    measured: Tensor  # gain of the classifier's, [n]

    @property
    def evidence(self) -> Tensor:
        """What a gain is read off: margin and the GRN's gain, ``[n, 2]``."""
        return torch.stack([self.margins, self.predicted], 1)

    def of_class(self, index: int) -> Addition:
        """The same of a photo with graphs of some classes alone: of the class ``index`` of all, for it and for the mean
        of the photo's others.
        """
        other = torch.arange(len(self.margins)) != self.graph
        pairs = [
            torch.stack([v[~other].mean(), v[other].mean()]) for v in (self.margins, self.predicted, self.measured)
        ]
        return Addition(index, self.concept, *pairs)


@dataclass(frozen=True)
class Typical:
    """What is normal for the concepts of every class, over the training photos of the class that F gets right.

    Where photos have graphs of some classes alone, it is known of the class's own graph: the second n is 1 until a
    photo's classes are chosen (:meth:`at`).

    Args:
        nodes: mean of each node where it is detected, float32 ``[n (class of the photo), n, N, D]``.
        links: mean of each edge where both ends are, ``[n (class of the photo), n, E, K]``.
        known: whether enough photos of a class show the node, bool ``[n (class of the photo), n, N]``.
        places: where the concepts of the class's own graph lie most, (x, y), ``[n, N, 2]``.
        offsets: place of concept k minus that of concept l in the class's own graph, of :data:`EXAMPLES` photos each,
            ``[n, N (k), N (l), M, 2]``; NaN where too few photos show both. A drum that lies beside a crate lies left
            or right of it: no single offset says both.
        along: nodes that come with each concept of the class's own graph, being the same patch, bool ``[n, N, n, N]``.
        gains: what adding a concept gains each class's margin where margin and GRN say nothing of it,
            ``[n, N, n (class)]``; the concept's own class and any other, ``[n, N, 2]``, until classes are chosen.
        slopes: how much a gain rises with the margin and with the GRN's gain, for the class whose concept it is and for
            the others, ``[2, 2]``.
    """

    nodes: Tensor
    links: Tensor
    known: Tensor
    places: Tensor
    offsets: Tensor
    along: Tensor
    gains: Tensor
    slopes: Tensor

    def __post_init__(self) -> None:
        n, num = self.places.shape[:2]
        check_shapes(self, places=(n, num, 2), offsets=(n, num, num, EXAMPLES, 2))

    @classmethod
    def of(cls, table: Mapping[str, Tensor], num_concepts: int, num_classes: int) -> Typical:
        """From the graphs of the training photos, as the cache holds them; further nodes are no concepts.

        Gains are the GRN's until they are :meth:`calibrated`.
        """
        right, label, made = predicted_classes(table) == table["label"], table["label"], []
        few = "classes" in table
        for c in range(num_classes):
            rows = right & (label == c)
            own, graphs = (0, _own_graphs(table, rows, c)) if few else (c, table)
            made.append(cls._of_class(graphs, rows[rows] if few else rows, own, num_concepts))
        grn_alone, columns = torch.tensor([[0.0, 1.0], [0.0, 1.0]]), 2 if few else num_classes
        parts = [torch.stack(part) for part in zip(*made, strict=True)]
        parts += [torch.zeros(num_classes, num_concepts, columns), grn_alone]
        return cls(**{field.name: part for field, part in zip(fields(cls), parts, strict=True)})

    def at(self, classes: Sequence[int]) -> Typical:
        """For a photo with graphs of these classes alone."""
        chosen, n = list(classes), len(classes)
        own = torch.arange(n)
        spread = []
        for values in (self.nodes, self.links, self.known):
            spread.append(values.new_zeros(n, n, *values.shape[2:]))
            spread[-1][own, own] = values[chosen, 0]
        along = self.along.new_zeros(n, self.along.shape[1], n, self.along.shape[3])
        along[own, :, own] = self.along[chosen][:, :, 0]
        mine, other = self.gains[chosen][..., None].unbind(2)
        gains = torch.where(torch.eye(n, dtype=torch.bool)[:, None], mine, other)
        nodes, links, known = spread
        return Typical(nodes, links, known, self.places[chosen], self.offsets[chosen], along, gains, self.slopes)

    def calibrated(self, additions: Sequence[Addition]) -> Typical:
        """The same with gains as they were measured in training photos.

        A linear model with an intercept per concept and class: slopes from what differs between photos of the same
        concept, intercepts shrunk to their mean.
        """
        n, num, columns = self.gains.shape
        if not additions:
            return self
        mine = torch.eye(n, dtype=torch.bool) if n == columns else torch.tensor([True, False]).expand(n, 2)
        own = mine[[a.graph for a in additions]]
        concept = torch.tensor([a.graph * num + a.concept for a in additions])
        evidence = torch.stack([a.evidence for a in additions]).double()  # [R, n, 2]
        gains = torch.stack([a.measured for a in additions]).double()[..., None]
        seen = torch.bincount(concept, minlength=n * num)[:, None, None]

        def sums(values: Tensor) -> Tensor:
            return values.new_zeros(n * num, *values.shape[1:]).index_add(0, concept, values)

        def within(values: Tensor) -> Tensor:
            return values - (sums(values) / seen.clamp(min=1))[concept]

        kinds, slopes, left = (own, ~own), [], torch.zeros_like(gains)
        for kind in kinds:
            rows, ridge = within(evidence)[kind], 1e-3 * torch.eye(2).double()
            slope = torch.linalg.solve(rows.T @ rows + ridge, rows.T @ within(gains)[kind])
            left[kind] = gains[kind] - evidence[kind] @ slope
            slopes.append(slope[:, 0])
        usual = [left[kind].mean() if kind.any() else left.new_zeros(()) for kind in kinds]
        usual_of = torch.where(mine, usual[0], usual[1])[:, None]  # [n (graph), 1, n]
        total, count = sums(left)[..., 0].reshape(n, num, columns), seen.reshape(n, num, 1)
        intercepts = (total + SHRINKAGE * usual_of) / (count + SHRINKAGE)
        return replace(self, gains=intercepts.float(), slopes=torch.stack(slopes).float())

    def expected(self, addition: Addition) -> Tensor:
        """What a concept is expected to gain each class's margin, ``[n]``; its ``measured`` is not read."""
        slopes = self.slopes[1].expand(len(addition.margins), 2).clone()
        slopes[addition.graph] = self.slopes[0]
        return self.gains[addition.graph, addition.concept] + (addition.evidence.float() * slopes).sum(1)

    @staticmethod
    def _of_class(table: Mapping[str, Tensor], rows: Tensor, own: int, num: int) -> tuple[Tensor, ...]:
        scg = SCG.of(table, rows)
        seen = scg.detected.sum(0)
        j, i = edges(scg.detected.shape[2])
        both = scg.detected[..., j] & scg.detected[..., i]
        nodes = (scg.nodes * scg.detected[..., None]).sum(0) / seen.clamp(min=1)[..., None]
        links = (scg.links * both[..., None]).sum(0) / both.sum(0).clamp(min=1)[..., None]
        there = scg.detected[:, own] & (torch.arange(scg.detected.shape[2]) < num)
        places = scg.centroids[:, own].masked_fill(~there[..., None], torch.nan)
        pairs = places[:, :, None] - places[:, None]  # NaN where one of them is missing
        asked = table["of_node"][rows, own]  # [P, N]
        drop = table["drop"][rows][torch.arange(len(asked))[:, None], asked.clamp(min=0)]  # [P, N, n, N]
        goes = (drop & (asked >= 0)[..., None, None]).sum(0) / (asked >= 0).sum(0).clamp(min=1)[:, None, None]
        return (
            nodes,
            links,
            seen >= LEAST_SEEN,
            densest(_examples(places, 1)).nan_to_num(NEUTRAL),
            _examples(pairs, LEAST_SEEN),
            goes >= ALONG,
        )

    def save(self, path: Path) -> None:
        """Write one safetensors file: what :meth:`load` reads."""
        tensors = {f.name: getattr(self, f.name).contiguous() for f in fields(self)}
        write_atomically(path, lambda part: save_file(tensors, part))

    @classmethod
    def load(cls, path: Path) -> Typical:
        """Read what :meth:`save` wrote.

        Raises:
            VRXError: no such file, or a damaged one.
        """
        try:
            return cls(**load_file(path))
        except Exception as error:  # damage shows in many ways
            raise VRXError(f"{path} does not say what is normal for the classes ({error}): rerun train.py.") from error

    def place(self, scg: SCG, index: int, concept: int) -> Tensor:
        """Where a concept of a class belongs, (x, y): as it most often lies to those of its class that are there."""
        offsets = self.offsets[index, concept]
        anchors = scg.detected[index] & ~offsets[:, 0, 0].isnan()
        anchors[concept] = False
        if not anchors.any():
            return self.places[index, concept]
        return densest((scg.centroids[index, anchors, None] + offsets[anchors]).flatten(0, 1)).clamp(0, 1)

    def elsewhere(self, scg: SCG, index: int, concept: int, anchor: int) -> Tensor | None:
        """Where a concept of a class belongs, (x, y), as it most often lies to another one that the photo shows.

        None where it lies there, or too few photos show both.
        """
        belongs = densest(scg.centroids[index, anchor] + self.offsets[index, concept, anchor]).clamp(0, 1)
        return belongs if float((belongs - scg.centroids[index, concept]).norm()) >= ALIKE else None

    def added(self, scg: SCG, index: int, concept: int, place: Tensor) -> SCG:
        """The graphs of a photo, ``[n, N, ...]``, with a typical example of a concept of a class at a place (x, y)."""
        new = self._with(index, concept) & ~scg.detected & self.known[index]
        nodes = torch.where(new[..., None], self.nodes[index], scg.nodes)
        places = torch.where(new[..., None], place, scg.centroids)
        return self._linked(replace(scg, nodes=nodes, centroids=places, detected=scg.detected | new), index, new)

    def put_right(self, scg: SCG, index: int, concept: int, place: Tensor) -> SCG:
        """The graphs of one photo with a concept that it shows at another place (x, y), where it belongs in a class."""
        moved = self._with(index, concept) & scg.detected
        places = torch.where(moved[..., None], place, scg.centroids)
        return self._linked(scg.move(places), index, moved)

    def _with(self, index: int, concept: int) -> Tensor:
        """The node of a concept of a class, and those that come with it, bool ``[n, N]``."""
        nodes = self.along[index, concept].clone()
        nodes[index, concept] = True
        return nodes

    def _linked(self, scg: SCG, index: int, fresh: Tensor) -> SCG:
        """The same graphs with the links that a class's photos usually have at the fresh nodes, bool ``[n, N]``."""
        j, i = edges(fresh.shape[1])
        there = (fresh[:, j] | fresh[:, i]) & scg.detected[:, j] & scg.detected[:, i]
        return replace(scg, links=torch.where(there[..., None], self.links[index], scg.links))


def _own_graphs(table: Mapping[str, Tensor], rows: Tensor, index: int) -> dict[str, Tensor]:
    """The graph of a class alone, of photos that all have one: ``[P, 1, N, ...]``."""
    at = (table["classes"][rows] == index).int().argmax(1)[:, None]
    photo = torch.arange(len(at))[:, None]
    own = {name: table[name][rows][photo, at] for name in ("nodes", "centroids", "detected", "links", "of_node")}
    return own | {"drop": table["drop"][rows].movedim(2, 1)[photo, at].movedim(1, 2)}


def _examples(values: Tensor, least: int) -> Tensor:
    """:data:`EXAMPLES` of the rows of ``[P, ..., 2]`` that are no NaN, evenly among them: ``[..., M, 2]``; NaN where
    there are fewer than ``least``.
    """
    values = torch.cat([values, values.new_full((1, *values.shape[1:]), torch.nan)])
    found = ~values[..., 0].isnan()
    count = found.sum(0)
    shares = torch.arange(EXAMPLES).reshape(-1, *[1] * count.ndim) / EXAMPLES
    rows = (~found).int().argsort(dim=0, stable=True).gather(0, (shares * count).long())
    chosen = values.gather(0, rows[..., None].expand(*rows.shape, 2))
    return chosen.masked_fill((count < least)[..., None], torch.nan).movedim(0, -2)


def densest(points: Tensor) -> Tensor:
    """The middle of where most of M points lie, ``[..., M, 2]`` -> ``[..., 2]``; NaN where one is NaN."""
    near = (-((torch.cdist(points, points) / ALIKE) ** 2) / 2).exp()  # [..., M, M]
    best = near.sum(-1).nan_to_num().argmax(-1)[..., None, None]
    weight = near.gather(-2, best.expand(*best.shape[:-1], near.shape[-1])).squeeze(-2)[..., None]
    return (weight * points).sum(-2) / weight.sum(-2)
