"""What the benchmarks share: photos, a concept bank that detects everything, a clock by stage, a count of passes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage import data
from torch import Tensor

from vrx.api import EVIDENCE
from vrx.bank import ConceptBank
from vrx.classifier.classifier import Classifier, Precision
from vrx.classifier.loading import load_classifier
from vrx.concepts.attention import GradCAMAttention, GradientAttention
from vrx.concepts.candidates import CandidateExtractor, WordExtractor, WordFinder
from vrx.concepts.encoders import CropEncoder, PatchEncoder, PooledEncoder
from vrx.concepts.patches import Segmenter
from vrx.edits import Editor
from vrx.graphs.scg import SCGBuilder

CLASSES = ("fire engine", "ambulance", "school bus", "recreational vehicle", "beach wagon", "jeep")
ENCODERS: dict[str, PatchEncoder] = {"pooled": PooledEncoder(), "crop": CropEncoder()}
STAGES = ("regions", "F", "patch features", "matching", "evidence")
WORDS = 40


_read = time.perf_counter


def now() -> float:
    """Seconds on the clock of :func:`count_cpu_time`, or the wall's."""
    return _read()


def count_cpu_time() -> None:
    """From now on count the seconds that this process computed: with one thread, load from others hardly matters."""
    global _read
    _read = time.process_time


def natural_photos() -> list[Image.Image]:
    """Four photos that come with scikit-image."""
    return [Image.fromarray(make()) for make in (data.astronaut, data.chelsea, data.coffee, data.rocket)]


def classifier(
    name: str,
    precision: Precision = "fp32",
    input_size: int | None = None,
    classes: Sequence[str] = CLASSES,
    outputs: int = 1000,
) -> Classifier:
    """F with random weights: they do not change how long a pass takes."""
    torch.manual_seed(0)
    settings = {
        "_target_": "vrx.classifier.networks.named_network",
        "name": name,
        "pretrained": False,
        "precision": precision,
        "input_size": input_size,
        "num_classes": outputs,
    }
    return load_classifier(settings, classes, range(len(classes)))


def wide_bank(f: Classifier, encoder: str, num_concepts: int = 8) -> ConceptBank:
    """Random concepts with so wide a radius that all are detected: the most work that a photo can make."""
    layer = f.layers[-1].name if encoder == "crop" else f.match_layer
    width = next(one.channels for one in f.layers if one.name == layer)
    lead = (len(f.class_names), num_concepts)
    centroids = np.random.default_rng(0).normal(size=(*lead, width)).astype(np.float32)
    one = np.ones(lead, np.float32)
    return ConceptBank(
        f.class_names,
        centroids / np.linalg.norm(centroids, axis=2, keepdims=True),
        1e6 * one,
        one,
        one,
        np.zeros((*lead, 0, 8, 8, 3), np.uint8),
    )


def word_bank(f: Classifier, num_concepts: int = 8, shown: int = WORDS, unseen: int = 0) -> ConceptBank:
    """Random words, some of them the concepts of each class; all that a photo shows are present. The unseen ones are in
    no photo, but every cell is compared with them.
    """
    width = next(one.channels for one in f.layers if one.name == f.part_layer)
    clusters = np.random.default_rng(0).normal(size=(shown + unseen, width)).astype(np.float32)
    clusters /= np.linalg.norm(clusters, axis=1, keepdims=True)
    clusters[shown:] *= 1e-3
    lead = (len(f.class_names), num_concepts)
    word = np.arange(np.prod(lead), dtype=np.int32).reshape(lead) % shown
    one = np.ones(lead, np.float32)
    state = {
        "centre": np.zeros(width, np.float32),
        "scale": np.ones(width, np.float32),
        "clusters": clusters,
        "member": np.zeros(0, np.int32),
        "presence": np.array([0, 0, 10], np.float32),
        "depth": np.ones(1, np.int32),
        "word": word,
    }
    exemplars = np.zeros((*lead, 0, 8, 8, 3), np.uint8)
    return ConceptBank(f.class_names, clusters[word], one, one, one, exemplars, state=state)


def builder(
    f: Classifier,
    encoder: str = "pooled",
    paper: bool = False,
    layers: Sequence[str] = (),
    relations: bool = False,
) -> SCGBuilder:
    """The builder of ``graph=evidence`` (or ``paper``) with all patches kept (tau = 0).

    Args:
        f: the classifier.
        encoder: of the patches.
        paper: the paper's node instead of the evidence.
        layers: layers of the gradient evidence; none: all.
        relations: whether the graphs hold what patches and pairs of them count for.
    """
    sources, rest = (["pooled"], False) if paper else ([s for s in EVIDENCE if relations or s != "fades"], True)
    if encoder == "words":
        bank, extractor = word_bank(f), WordExtractor(GradientAttention(tau=0.0))
    else:
        bank = wide_bank(f, encoder)
        extractor = CandidateExtractor(Segmenter(), GradCAMAttention(tau=0.0), ENCODERS[encoder])
    editor = Editor("blur", 0.027)
    return SCGBuilder(f, bank, extractor, editor, sources, layers, rest, relations)


class Clock:
    """Seconds a stage; within a stage nothing else is timed."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._busy = False

    def timed(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same callable, on the clock."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self._busy:
                return call(*args, **kwargs)
            self._busy = True
            start = now()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds[stage] += now() - start
                self._busy = False

        return wrapped

    def watch(self, made: SCGBuilder) -> None:
        """Time the stages of a builder; what is left of its time is the stage ``evidence``."""
        extractor = made.extractor
        made.classifier.inspect = self.timed("F", made.classifier.inspect)  # type: ignore[method-assign]
        finder: Any = made.finder
        if isinstance(finder, WordFinder):
            vocabulary = finder.vocabulary
            object.__setattr__(vocabulary, "regions", self.timed("regions", vocabulary.regions))
            return
        extractor.segmenter = self.timed("regions", extractor.segmenter)
        extractor.encoder = self.timed("patch features", extractor.encoder)  # type: ignore[union-attr]
        finder.matcher.distances = self.timed("matching", finder.matcher.distances)
        finder.matcher.match = self.timed("matching", finder.matcher.match)


class Passes:
    """Photos that went through F, forward, and backward from a class' score to the earliest layer."""

    def __init__(self) -> None:
        self.forward = 0
        self.backward = 0


@contextmanager
def counting(f: Classifier) -> Iterator[Passes]:
    """Count the passes of F; backward passes through the head alone (Grad-CAM) are not counted."""
    passes, plain = Passes(), torch.autograd.grad

    def count(module: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        passes.forward += len(args[0])

    def grad(outputs: Tensor, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(inputs, list) and tuple(inputs[0].shape[2:]) != f.layers[-1].grid:
            passes.backward += len(inputs[0])
        return plain(outputs, inputs, *args, **kwargs)

    handle = f.network.register_forward_pre_hook(count)
    torch.autograd.grad = grad
    try:
        yield passes
    finally:
        torch.autograd.grad = plain
        handle.remove()


def forward_seconds(f: Classifier, x: Tensor) -> float:
    """One plain forward pass of a batch, seconds a photo."""
    start = now()
    with torch.inference_mode():
        f(x)
    return (now() - start) / len(x)


def pixels_of(f: Classifier, pictures: Sequence[Image.Image]) -> tuple[Tensor, NDArray[np.uint8]]:
    """Photos as F reads them, and their pixels."""
    x = torch.stack([f.transform(picture) for picture in pictures])
    return x, f.pixels(x)


def median(values: Sequence[float]) -> float:
    return float(np.median(values))
