"""Structural Concept Graphs: what the GRN reads of a photo (3.2.1)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vrx.bank import ConceptBank
from vrx.classifier.activations import most_probable
from vrx.classifier.classifier import Classifier
from vrx.concepts.candidates import CandidateExtractor, Found, WordExtractor
from vrx.edits import Editor, gaussian_blur
from vrx.errors import VRXError, require
from vrx.graphs.evidence import Evidence
from vrx.graphs.fading import Fades, asked_in_pairs, fades
from vrx.specs import describe
from vrx.structures import EPSILON, NEUTRAL, SCG, UNMATCHED, Patches, edges

SOURCES = ("pooled", "head", "head_area", "gradact", "gradact_positive", "grad_diff", "fades", "shape")
GRADIENTS = ("gradact", "gradact_positive", "grad_diff")
BASELINES = ("area", "gradcam_mean", "gradcam_sum", "head_area", "gradact")


@dataclass(frozen=True)
class PhotoGraphs:
    """The graphs of a batch of B photos and what they were made from.

    Args:
        scg: ``[B, n, N, ...]``.
        matched: index of the patch of each node, int64 ``[B, n, N]``; ``UNMATCHED`` for dummies and for the rest.
        patches: the attended patches of each photo.
        regions: all regions of each photo, attended or not.
        presence: probability that the photo shows each concept, ``[B, n, N]``; 1 where the matches were given.
        logits: of F, for the classes of interest, ``[B, n]``.
        gradcam: Grad-CAM of each of them, ``[B, n, h, w]``.
        baselines: plain attributions of each node to the class of its graph (order of ``BASELINES``),
            float32 ``[B, n, N, S]``: what a node's contribution must beat; None where they were not asked for.
    """

    scg: SCG
    matched: NDArray[np.int64]
    patches: list[Patches]
    regions: list[Patches]
    presence: NDArray[np.float32]
    logits: Tensor
    gradcam: Tensor
    baselines: Tensor | None = None


class SCGBuilder:
    """Photos -> n Structural Concept Graphs each, one for every class of interest.

    Args:
        classifier: F.
        bank: the concepts.
        extractor: the one that the bank was made with.
        editor: how concepts are deleted: evidence is summed over what an edit would delete.
        sources: what a node holds, of ``SOURCES``. ``pooled`` alone is the paper's node (F's last layer).
            The others are low-dimensional evidence; each gives n values, that of the graph's own class first.
        layers: layers for ``gradact``: names, or an empty list for the layer of parts and all after it.
        rest: whether every graph has one more node, "the rest of the photo": the evidence of all that lies in none of
            its detected concepts. It is never a concept: nothing is matched to it and nothing edits it away.
        relations: whether the graphs hold what two patches count for together, read in F's own maps: :class:`Fades`.
            An edge then holds it for each class, that of the graph first, beside the places of its ends.
        hypotheses: graphs of each photo's so many most probable classes alone, whatever n: what they cost does not
            grow with the number of classes. None: of all n.

    Raises:
        VRXError: unknown sources, or fewer than two hypotheses.
    """

    def __init__(
        self,
        classifier: Classifier,
        bank: ConceptBank,
        extractor: CandidateExtractor | WordExtractor,
        editor: Editor,
        sources: Sequence[str] = ("pooled",),
        layers: Sequence[str] = (),
        rest: bool = False,
        relations: bool = False,
        hypotheses: int | None = None,
    ) -> None:
        if hypotheses is not None and hypotheses < 2:
            raise VRXError(f"graph.hypotheses={hypotheses}: use 2 or more, or null for all classes.")
        unknown = set(sources) - set(SOURCES)
        if unknown or not sources:
            raise VRXError(f"graph.builder.sources={list(sources)}: use one or more of {', '.join(SOURCES)}.")
        self.classifier = classifier
        self.bank = bank
        self.extractor = extractor
        self.editor = editor
        self.sources = tuple(sources)
        self.rest, self.relations = rest, relations
        names = [layer.name for layer in classifier.layers]
        self.layers = tuple(layers) or tuple(names[names.index(classifier.part_layer) :])
        self.fading_layer = classifier.appearance_layers[0]
        self.baseline_layer = min(classifier.layers, key=lambda layer: abs(layer.reduction - 8)).name
        self.finder = extractor.finder(bank)
        self.hypotheses = None if hypotheses is None or hypotheses >= len(bank.class_names) else hypotheses
        self._classes: list[int] | None = None  # of a builder that :meth:`of` made

    def of(self, class_names: Sequence[str]) -> SCGBuilder:
        """The builder of graphs of some classes alone, in this order."""
        if tuple(class_names) == self.bank.class_names:
            return self
        classes = [self.bank.class_names.index(name) for name in class_names]
        bank = self.bank.of(class_names)
        return replaced(
            self, classifier=self.classifier.of(classes), bank=bank, finder=self.finder.of(bank), hypotheses=None,
            _classes=classes,
        )  # fmt: skip

    @torch.no_grad()
    def problems(self, x: Tensor) -> Iterator[tuple[list[int], SCGBuilder]]:
        """Photos ``[B, 3, H, W]`` that have the same hypotheses, and the builder of their graphs."""
        if self.hypotheses is None:
            yield list(range(len(x))), self
            return
        rows: dict[tuple[int, ...], list[int]] = {}
        for row, classes in enumerate(most_probable(self.classifier(x), self.hypotheses).tolist()):
            rows.setdefault(tuple(classes), []).append(row)
        for classes, photos in rows.items():
            yield photos, self.of([self.bank.class_names[c] for c in classes])

    def settings(self) -> dict[str, object]:
        """What determines the graphs, for cache keys."""
        return {
            "sources": list(self.sources),
            "layers": list(self.layers),
            "rest": self.rest,
            "relations": self.relations,
            "baseline_layer": self.baseline_layer,
            "fading_layer": self.fading_layer,
            "extractor": describe(self.extractor),
            "margin": self.editor.margin,
            "hypotheses": self.hypotheses,
        }

    @property
    def num_classes(self) -> int:
        """n, graphs of a photo."""
        return self.hypotheses or len(self.bank.class_names)

    @property
    def num_nodes(self) -> int:
        """Nodes of a graph: N concepts and, perhaps, the rest."""
        return self.bank.num_concepts + self.rest

    @property
    def link_features(self) -> int:
        """K, values of an edge beside the places of its ends."""
        return self.num_classes * self.relations

    @property
    def node_features(self) -> int:
        """D, width of a node."""
        n, depth = self.num_classes, len(self.layers)
        widths = {"pooled": self.classifier.layers[-1].channels, "shape": 4, "head": n, "head_area": n, "fades": 2 * n}
        return sum(widths.get(source, n * depth) for source in self.sources)

    def _gradient_layers(self, baselines: bool = False) -> tuple[str, ...]:
        wanted = set(self.layers) if set(GRADIENTS) & set(self.sources) else set()
        wanted |= {self.baseline_layer} if baselines else set()
        return tuple(layer.name for layer in self.classifier.layers if layer.name in wanted)

    def __call__(self, x: Tensor, superpixels: Sequence[Patches], baselines: bool = False) -> PhotoGraphs:
        """Build the graphs of a batch; with ``hypotheses``, of one of its :meth:`problems`.

        Args:
            x: normalised photos ``[B, 3, H, W]``.
            superpixels: of each photo, from ``extractor.segmenter``.
            baselines: whether plain attributions of the nodes are wanted beside them: they take gradients at a shallow
                layer, which is most of the time.
        """
        require(self.hypotheses is None, "SCGBuilder with hypotheses: call those that problems(x) gives")
        found = self.finder(self.classifier, x, superpixels, self._gradient_layers(baselines), self._reference(x))
        return self._graphs(x, found, baselines)

    def rebuild(self, x: Tensor, patches: Sequence[Patches], matched: NDArray[np.int64]) -> PhotoGraphs:
        """Build the graphs of edited photos with the matches of the clean ones: only what the patches show may differ.

        Args:
            x: normalised photos ``[B, 3, H, W]``.
            patches: of each photo, where they are now.
            matched: the patch of each node, ``[B, n, N]``; ``UNMATCHED`` for dummies.
        """
        activations = self.classifier.inspect(x, gradients=self._gradient_layers(), reference=self._reference(x))
        given = (matched != UNMATCHED).astype(np.float32)
        return self._graphs(x, Found(activations, list(patches), list(patches), matched, given))

    def _graphs(self, x: Tensor, found: Found, baselines: bool = False) -> PhotoGraphs:
        activations, patches, matched = found.activations, found.patches, found.matched
        used, places = zip(*(_used(matches) for matches in matched), strict=True)  # evidence of matched patches alone
        regions = [p.select(index) for p, index in zip(patches, used, strict=True)]
        evidence = [
            Evidence.of_patches(self.classifier, activations, photo, region, self.editor.margin)
            for photo, region in enumerate(regions)
        ]
        self._fade(x, regions, places, evidence, activations.logits)
        graphs, plain = [], []
        for photo, (place, own) in enumerate(zip(places, evidence, strict=True)):
            graph = _graph(place, self._nodes(own), regions[photo])
            if baselines:
                plain.append(F.pad(_gather(self._baselines(own), place, 0.0), (0, 0, 0, int(self.rest))))
            if self.rest:
                graph = _with_rest(graph, self._nodes(own.rest(self.classifier, place)))
            graphs.append(_with_links(graph, place, own.fades) if self.relations and own.fades else graph)
        nodes = np.pad(matched, ((0, 0), (0, 0), (0, int(self.rest))), constant_values=UNMATCHED)
        scg = SCG.stack(graphs)
        if self._classes is not None:
            scg = replace(scg, classes=torch.tensor(self._classes).expand(len(graphs), -1))
        return PhotoGraphs(
            scg,
            nodes,
            patches,
            found.regions,
            found.presence,
            activations.logits.float().cpu(),
            activations.gradcam.float().cpu(),
            torch.stack(plain) if plain else None,
        )

    def _reference(self, x: Tensor) -> dict[str, Tensor] | None:
        """F's maps of the photo without detail: what gradients are multiplied with the difference to."""
        if "grad_diff" not in self.sources:
            return None
        blurred = gaussian_blur(x, 0.07 * max(x.shape[-2:]))
        return self.classifier.inspect(blurred, layers=self.layers, gradcam=False).maps

    def _fade(
        self,
        x: Tensor,
        regions: Sequence[Patches],
        places: Sequence[NDArray[np.int64]],
        evidence: Sequence[Evidence],
        logits: Tensor,
    ) -> None:
        """Ask F about the photos without their matched patches, where the graphs hold what it says."""
        if not self.relations and "fades" not in self.sources:
            return
        best = logits.argmax(1).tolist()
        asked = [asked_in_pairs(place, c, r.areas) for place, c, r in zip(places, best, regions, strict=True)]
        with torch.no_grad():
            empty = self.editor.delete(x, torch.stack([torch.from_numpy(r.masks).any(0) for r in regions]))
        found = fades(self.classifier, x, empty, self.fading_layer, [e.weights for e in evidence], asked)
        for own, of_photo in zip(evidence, found, strict=True):
            own.fades = of_photo

    def _nodes(self, evidence: Evidence) -> Tensor:
        """Node features of every region in every graph, ``[K, n, D]``."""
        n = len(self.bank.class_names)
        parts = []
        for source in self.sources:
            if source == "pooled":
                parts.append(evidence.pooled[:, None].expand(-1, n, -1))
            elif source == "fades":
                parts += [_own_class_first(values) for values in evidence.lost]
            elif source == "shape":
                parts.append(evidence.shape[:, None].expand(-1, n, -1))
            elif source in ("head", "head_area"):
                parts.append(_own_class_first(evidence.head * (evidence.area if source == "head_area" else 1)))
            else:
                parts += [_own_class_first(evidence.gradient(source, layer)) for layer in self.layers]
        return torch.cat(parts, dim=2)

    def _baselines(self, evidence: Evidence) -> Tensor:
        """The plain attributions to each graph's own class, ``[K, n, S]`` in the order of ``BASELINES``."""
        cam = evidence.gradcam_sum()
        area = evidence.area.expand_as(cam)
        gradact = evidence.gradient("gradact_positive", self.baseline_layer)
        return torch.stack([area, cam / area, cam, evidence.head * area, gradact], dim=2)


def replaced(made: Any, **changes: Any) -> Any:
    """A shallow copy of an object with some attributes changed."""
    other = copy.copy(made)
    vars(other).update(changes)
    return other


def _own_class_first(values: Tensor) -> Tensor:
    """``[K, n]`` values per class -> ``[K, n (graph), n]``: each graph reads its own class first, then the others."""
    return values[:, _class_order(values.shape[1])]


def _class_order(n: int) -> Tensor:
    """The order in which each graph reads the classes, its own first, int64 ``[n (graph), n]``."""
    return torch.tensor([[g, *(c for c in range(n) if c != g)] for g in range(n)])


def _gather(values: Tensor, matched: NDArray[np.int64], missing: float) -> Tensor:
    """``[K, n, D]`` of every patch -> ``[n, N, D]`` of the matched ones, ``missing`` where there is none."""
    n, num = matched.shape
    out = torch.full((n, num, values.shape[2]), missing)
    graph, concept = np.nonzero(matched != UNMATCHED)
    out[graph, concept] = values[matched[graph, concept], graph].float()
    return out


def _used(matched: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The patches that are matched at all, sorted, and ``matched`` as places among them."""
    used = np.unique(matched[matched != UNMATCHED])
    return used, np.where(matched == UNMATCHED, UNMATCHED, np.searchsorted(used, matched))


def _graph(matched: NDArray[np.int64], nodes: Tensor, patches: Patches) -> SCG:
    centroids = torch.from_numpy(patches.centroids)[:, None].expand(-1, len(matched), -1)
    return SCG(
        _gather(nodes, matched, EPSILON), _gather(centroids, matched, NEUTRAL), torch.from_numpy(matched != UNMATCHED)
    )


def _with_rest(graph: SCG, rest: Tensor) -> SCG:
    """Append the rest of the photo as a node that is always there; ``rest`` is ``[n (region), n (graph), D]``."""
    own = torch.arange(len(rest))
    return SCG(
        torch.cat([graph.nodes, rest[own, own][:, None].float()], dim=1),
        F.pad(graph.centroids, (0, 0, 0, 1), value=NEUTRAL),
        F.pad(graph.detected, (0, 1), value=True),
    )


def _with_links(graph: SCG, place: NDArray[np.int64], asked: Fades) -> SCG:
    """Give n graphs what is known of the pairs of the patches at their nodes, ``place``, ``[n, N]``."""
    n, num = graph.detected.shape
    at = torch.full((n, num), UNMATCHED)
    at[:, : place.shape[1]] = torch.from_numpy(place)
    tail, head = (at[:, end] for end in edges(num))  # [n, E]
    links = asked.pairs.new_zeros(n, tail.shape[1], n)
    g, e = ((tail != UNMATCHED) & (head != UNMATCHED)).nonzero(as_tuple=True)
    links[g, e] = asked.matrix[_class_order(n)[g], head[g, e, None], tail[g, e, None]]
    patch = F.pad(asked.among, (0, 1), value=UNMATCHED)[at]
    return replace(graph, links=links, patch=patch, pairs=asked.pairs)
