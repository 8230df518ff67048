"""Structural Concept Graphs: what the GRN reads of a photo (3.2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vrx.classifiers import Activations, Classifier
from vrx.concepts.candidates import CandidateExtractor
from vrx.concepts.patches import pool
from vrx.edits import Editor, gaussian_blur, soften
from vrx.graphs.matching import UNMATCHED, ConceptMatcher
from vrx.structures import EPSILON, NEUTRAL, SCG, ConceptBank, Patches, VRXError

SOURCES = ("pooled", "head", "head_area", "gradact", "gradact_positive", "grad_diff", "shape")
GRADIENTS = ("gradact", "gradact_positive", "grad_diff")
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

    All are ``[K, n]``: F's head on the pooled last layer (``head``), that times the area, and gradient x activation
    summed over the patch at several depths. Sums are taken over the patch as an edit would delete it, grown and
    feathered.

    Args:
        classifier: F.
        activations: of F on the batch.
        photo: which photo of the batch.
        patches: of that photo.
        margin: by how much an edit grows the patch, share of the photo's side.
    """

    GRID = 56  # rows of the grid on which patches are softened

    def __init__(
        self, classifier: Classifier, activations: Activations, photo: int, patches: Patches, margin: float
    ) -> None:
        self._activations, self._photo = activations, photo
        self.area = torch.from_numpy(patches.areas)[:, None]
        self.centroids = torch.from_numpy(patches.centroids)
        last = activations.maps[classifier.layers[-1].name][photo]
        self.pooled = pool(patches, last).float().cpu()
        self.head = classifier.head_values(self.pooled.to(last.device)).float().cpu()
        self.head = self.head - self.head.mean(1, keepdim=True)
        rows = min(self.GRID, patches.shape[0])
        columns = min(self.GRID, patches.shape[1])
        share = torch.from_numpy(patches.cell_counts(rows, columns)).reshape(-1, rows, columns)
        share = share * (rows * columns / (patches.shape[0] * patches.shape[1]))
        self._soft = soften(share, margin)[1] if len(share) else share.unsqueeze(1)

    def _over_patch(self, maps: Tensor) -> Tensor:
        """Sum of ``[n, h, w]`` over each softened patch, in units of whole cells: ``[K, n]``."""
        weight = F.adaptive_avg_pool2d(self._soft, maps.shape[1:]) if len(self._soft) else self._soft
        return weight.reshape(len(self._soft), maps.shape[1] * maps.shape[2]) @ maps.flatten(1).T.float().cpu()

    def gradient(self, source: str, layer: str) -> Tensor:
        """One of ``GRADIENTS`` at one layer, ``[K, n]``."""
        maps = {
            "gradact": self._activations.grad_act,
            "gradact_positive": self._activations.grad_act_positive,
            "grad_diff": self._activations.grad_diff,
        }[source]
        return self._over_patch(maps[layer][self._photo])

    def gradcam_sum(self) -> Tensor:
        """Grad-CAM of each class summed over the patch, ``[K, n]``."""
        return self._over_patch(self._activations.gradcam[self._photo])


class SCGBuilder:
    """Photos -> n Structural Concept Graphs each, one for every class of interest.

    Args:
        classifier: F.
        bank: the concepts.
        extractor: the one that the bank was made with.
        editor: how concepts are edited away: evidence is summed over what an edit would delete.
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
        editor: Editor,
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
        self.editor = editor
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
            "margin": self.editor.margin,
        }

    @property
    def node_features(self) -> int:
        """D, width of a node."""
        n, depth = len(self.bank.class_names), len(self.layers)
        widths = {"pooled": self.classifier.layers[-1].channels, "shape": 4, "head": n, "head_area": n}
        return sum(widths.get(source, n * depth) for source in self.sources)

    @property
    def _gradient_layers(self) -> tuple[str, ...]:
        wanted = set(self.layers) if set(GRADIENTS) & set(self.sources) else set()
        return tuple(layer.name for layer in self.classifier.layers if layer.name in wanted | {self.baseline_layer})

    def __call__(self, x: Tensor, superpixels: Sequence[Patches]) -> PhotoGraphs:
        """Build the graphs of a batch.

        Args:
            x: normalised photos ``[B, 3, H, W]``.
            superpixels: of each photo, from ``extractor.segmenter``.
        """
        reference = self._reference(x) if "grad_diff" in self.sources else None
        candidates = self.extractor(self.classifier, x, superpixels, self._gradient_layers, reference)
        distances = candidates.split(self.matcher.distances(candidates.features.cpu().numpy()))
        graphs, matches, baselines = [], [], []
        for photo, (patches, near) in enumerate(zip(candidates.patches, distances, strict=True)):
            matched = self.matcher.match(near)
            evidence = PatchEvidence(self.classifier, candidates.activations, photo, patches, self.editor.margin)
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

    def _reference(self, x: Tensor) -> dict[str, Tensor]:
        """F's maps of the photo without detail: what gradients are multiplied with the difference to."""
        blurred = gaussian_blur(x, 0.07 * max(x.shape[-2:]))
        return self.classifier.inspect(blurred, layers=self.layers, gradcam=False).maps

    def _nodes(self, evidence: PatchEvidence) -> Tensor:
        """Node features of every patch in every graph, ``[K, n, D]``."""
        n = len(self.bank.class_names)
        parts = []
        for source in self.sources:
            if source == "pooled":
                parts.append(evidence.pooled[:, None].expand(-1, n, -1))
            elif source == "shape":
                shape = torch.cat([evidence.area, evidence.area.sqrt(), evidence.centroids], dim=1)
                parts.append(shape[:, None].expand(-1, n, -1))
            elif source in ("head", "head_area"):
                parts.append(_own_class_first(evidence.head * (evidence.area if source == "head_area" else 1)))
            else:
                parts += [_own_class_first(evidence.gradient(source, layer)) for layer in self.layers]
        return torch.cat(parts, dim=2)

    def _baselines(self, evidence: PatchEvidence) -> Tensor:
        """The plain attributions to each graph's own class, ``[K, n, S]`` in the order of ``BASELINES``."""
        cam = evidence.gradcam_sum()
        area = evidence.area.expand_as(cam)
        gradact = evidence.gradient("gradact_positive", self.baseline_layer)
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
