"""Structural Concept Graphs: what the GRN reads of a photo (3.2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vrx.classifiers import Activations, Classifier
from vrx.concepts.candidates import CandidateExtractor
from vrx.concepts.patches import pool
from vrx.graphs.matching import UNMATCHED, ConceptMatcher
from vrx.structures import EPSILON, NEUTRAL, SCG, ConceptBank, Patches, VRXError

SOURCES = ("pooled", "head", "head_area", "gradact", "gradact_positive", "area")
BASELINES = ("area", "gradcam_mean", "gradcam_sum", "head_area", "gradact")


@dataclass(frozen=True)
class PhotoGraphs:
    """The graphs of a batch of B photos and what they were made from.

    Args:
        scg: ``[B, n, N, ...]``.
        matched: index of the patch of each node, int64 ``[B, n, N]``; ``UNMATCHED`` for dummies.
        patches: the attended patches of each photo.
        logits: of F, for the classes of interest, ``[B, n]``.
        baselines: plain attributions of each node to the class of its graph (order of ``BASELINES``),
            float32 ``[B, n, N, S]``: what a node's contribution must beat.
    """

    scg: SCG
    matched: NDArray[np.int64]
    patches: list[Patches]
    logits: Tensor
    baselines: Tensor


class PatchEvidence:
    """Plain attributions of every patch to every class of interest, read off F's pass over the clean photo.

    All are ``[K, n]`` (``area`` the same for each class): F's head on the pooled last layer (``head``), that times
    the area, gradient x activation of the centred logits summed over the patch at several depths.
    """

    def __init__(self, classifier: Classifier, activations: Activations, photo: int, patches: Patches) -> None:
        self._classifier, self._activations, self._photo, self._patches = classifier, activations, photo, patches
        self.area = torch.from_numpy(patches.areas)[:, None]
        last = activations.maps[classifier.layers[-1].name][photo]
        self.pooled = pool(patches, last).float().cpu()
        self.head = classifier.head_values(self.pooled.to(last.device)).float().cpu()
        self.head = self.head - self.head.mean(1, keepdim=True)

    def _over_cells(self, maps: Tensor) -> Tensor:
        """Sum of ``[n, h, w]`` over each patch, in units of whole cells: ``[K, n]``."""
        rows, columns = maps.shape[1:]
        height, width = self._patches.shape
        counts = torch.from_numpy(self._patches.cell_counts(rows, columns)) * (rows * columns / (height * width))
        return counts @ maps.flatten(1).T.float().cpu()

    def gradact(self, layer: str, positive: bool = False) -> Tensor:
        """Gradient x activation of each class at one layer, ``[K, n]``."""
        maps = self._activations.grad_act_positive if positive else self._activations.grad_act
        return self._over_cells(maps[layer][self._photo])

    def gradcam_sum(self) -> Tensor:
        """Grad-CAM of each class summed over the patch, ``[K, n]``."""
        return self._over_cells(self._activations.gradcam[self._photo])


class SCGBuilder:
    """Photos -> n Structural Concept Graphs each, one for every class of interest.

    Args:
        classifier: F.
        bank: the concepts.
        extractor: the one that the bank was made with.
        sources: what a node holds, of ``SOURCES``. ``pooled`` alone is the paper's node (F's last layer).
            The others are low-dimensional evidence; each gives n values, that of the graph's own class first.
        layers: layers for ``gradact``: names, or an empty list for all of ``classifier.layers``.
        baseline_layer: layer of the ``gradact`` baseline; default: that at stride 8.
    """

    def __init__(
        self,
        classifier: Classifier,
        bank: ConceptBank,
        extractor: CandidateExtractor,
        sources: Sequence[str] = ("pooled",),
        layers: Sequence[str] = (),
        baseline_layer: str | None = None,
    ) -> None:
        unknown = set(sources) - set(SOURCES)
        if unknown or not sources:
            raise VRXError(f"graph.sources={list(sources)}: use one or more of {', '.join(SOURCES)}.")
        self.classifier = classifier
        self.bank = bank
        self.extractor = extractor
        self.sources = tuple(sources)
        self.layers = tuple(layers) or tuple(layer.name for layer in classifier.layers)
        self.baseline_layer = baseline_layer or _nearest_stride(classifier, 8)
        self.matcher = ConceptMatcher(bank)

    def settings(self) -> dict[str, object]:
        """What determines the graphs, for cache keys."""
        return {
            "sources": list(self.sources),
            "layers": list(self.layers),
            "baseline_layer": self.baseline_layer,
            "extractor": self.extractor.settings(),
        }

    @property
    def _gradient_layers(self) -> tuple[str, ...]:
        wanted = set(self.layers) if {"gradact", "gradact_positive"} & set(self.sources) else set()
        return tuple(layer.name for layer in self.classifier.layers if layer.name in wanted | {self.baseline_layer})

    def __call__(self, x: Tensor, superpixels: Sequence[Patches]) -> PhotoGraphs:
        """Build the graphs of a batch.

        Args:
            x: normalised photos ``[B, 3, H, W]``.
            superpixels: of each photo, from ``extractor.segmenter``.
        """
        candidates = self.extractor(self.classifier, x, superpixels, self._gradient_layers)
        distances = candidates.split(self.matcher.distances(candidates.features.cpu().numpy()))
        graphs, matches, baselines = [], [], []
        for photo, (patches, near) in enumerate(zip(candidates.patches, distances, strict=True)):
            matched = self.matcher.match(near)
            evidence = PatchEvidence(self.classifier, candidates.activations, photo, patches)
            graphs.append(_graph(matched, self._nodes(evidence), patches))
            baselines.append(_gather(self._baselines(evidence), matched, 0.0))
            matches.append(matched)
        return PhotoGraphs(
            SCG.stack(graphs),
            np.stack(matches),
            candidates.patches,
            candidates.activations.logits.float().cpu(),
            torch.stack(baselines),
        )

    def _nodes(self, evidence: PatchEvidence) -> Tensor:
        """Node features of every patch in every graph, ``[K, n, D]``."""
        n = len(self.bank.class_names)
        parts = []
        for source in self.sources:
            if source in ("pooled", "area"):
                value = evidence.pooled if source == "pooled" else evidence.area
                parts.append(value[:, None].expand(-1, n, -1))
            elif source in ("head", "head_area"):
                parts.append(_own_class_first(evidence.head * (evidence.area if source == "head_area" else 1)))
            else:
                positive = source == "gradact_positive"
                parts += [_own_class_first(evidence.gradact(layer, positive)) for layer in self.layers]
        return torch.cat(parts, dim=2)

    def _baselines(self, evidence: PatchEvidence) -> Tensor:
        """The plain attributions to each graph's own class, ``[K, n, S]`` in the order of ``BASELINES``."""
        cam = evidence.gradcam_sum()
        area = evidence.area.expand_as(cam)
        gradact = evidence.gradact(self.baseline_layer, positive=True)
        return torch.stack([area, cam / area, cam, evidence.head * area, gradact], dim=2)


def _nearest_stride(classifier: Classifier, stride: int) -> str:
    return min(classifier.layers, key=lambda layer: abs(layer.reduction - stride)).name


def _own_class_first(values: Tensor) -> Tensor:
    """``[K, n]`` values a class -> ``[K, n (graph), n]``: each graph reads its own class first, then the others."""
    n = values.shape[1]
    order = torch.tensor([[g, *(c for c in range(n) if c != g)] for g in range(n)])
    return values[:, order]


def _gather(values: Tensor, matched: NDArray[np.int64], missing: float) -> Tensor:
    """``[K, n, D]`` of every patch -> ``[n, N, D]`` of the matched ones, ``missing`` where there is none."""
    n, num = matched.shape
    out = torch.full((n, num, values.shape[2]), missing)
    graph, concept = np.nonzero(matched != UNMATCHED)
    out[graph, concept] = values[matched[graph, concept], graph].float()
    return out


def _graph(matched: NDArray[np.int64], nodes: Tensor, patches: Patches) -> SCG:
    centroids = torch.from_numpy(patches.centroids)[:, None].expand(-1, len(matched), -1)
    return SCG(
        _gather(nodes, matched, EPSILON), _gather(centroids, matched, NEUTRAL), torch.from_numpy(matched != UNMATCHED)
    )
