"""What concept discovery and the graphs both start from: the regions of photos that may be concepts (3.1, 3.2.1)."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vrx.bank import ConceptBank
from vrx.classifier.classifier import Activations, Classifier
from vrx.concepts.attention import Attention, attend, relative
from vrx.concepts.encoders import PatchEncoder
from vrx.concepts.matching import ConceptMatcher
from vrx.concepts.patches import Segmenter, pool
from vrx.concepts.words import LEAST, Vocabulary, appearance
from vrx.errors import VRXError
from vrx.structures import UNMATCHED, Patches

EVEN = 0.5  # least probability of a concept that is part of a graph


@dataclass(frozen=True)
class Candidates:
    """The concept candidates of a batch of B photos.

    Args:
        activations: of F on the photos: logits, feature maps, Grad-CAM.
        patches: the attended patches of each photo.
        features: matching features of all patches, photo after photo, float32 ``[sum K, Dm]``.
    """

    activations: Activations
    patches: list[Patches]
    features: Tensor

    def split(self, values: np.ndarray) -> list[np.ndarray]:
        """Cut an array over all patches ``[sum K, ...]`` into one per photo."""
        return np.split(values, np.cumsum([len(p) for p in self.patches])[:-1])


@dataclass(frozen=True)
class Found:
    """Which concepts a batch of B photos shows, and where.

    Args:
        activations: of F on the photos.
        regions: all regions of each photo, attended or not.
        patches: those that may be concepts.
        matched: index of the patch of each concept, int64 ``[B, n, N]``; ``UNMATCHED`` where it is not found.
        presence: probability that the photo shows it, float32 ``[B, n, N]`` in [0, 1].
    """

    activations: Activations
    regions: list[Patches]
    patches: list[Patches]
    matched: NDArray[np.int64]
    presence: NDArray[np.float32]


class Finder(ABC):
    """Finds the concepts of a bank in photos."""

    attention: Attention

    def __call__(
        self,
        classifier: Classifier,
        x: Tensor,
        superpixels: Sequence[Patches],
        gradients: Sequence[str] = (),
        reference: Mapping[str, Tensor] | None = None,
    ) -> Found:
        """Find them in a batch.

        Args:
            classifier: F.
            x: normalised photos ``[B, 3, H, W]``.
            superpixels: what the extractor's ``segmenter`` made of each photo, or the regions of a clean photo that is
                shown edited.
            gradients: layers whose gradient x activation (of each class' margin) is wanted too.
            reference: maps of a reference photo, for gradients times the difference to it.
        """
        wanted = tuple(dict.fromkeys([*gradients, *self.attention.gradients(classifier)]))
        return self.found(classifier, x, superpixels, classifier.inspect(x, gradients=wanted, reference=reference))

    @abstractmethod
    def of(self, bank: ConceptBank) -> Finder:
        """A finder of a few classes' concepts, :meth:`ConceptBank.of`."""

    @abstractmethod
    def found(
        self, classifier: Classifier, x: Tensor, superpixels: Sequence[Patches], activations: Activations
    ) -> Found:
        """The same, from F's activations with the gradients that the attention reads."""


class CandidateExtractor:
    """Superpixels as concept candidates, the same way for every class and whatever the label: the paper's way.

    Args:
        segmenter: photo -> superpixels.
        attention: which of them may be concepts.
        encoder: patches -> matching features.
        hypotheses: the most probable classes of each photo, so many, that F looks for; None: all.
    """

    def __init__(
        self, segmenter: Segmenter, attention: Attention, encoder: PatchEncoder, hypotheses: int | None = None
    ) -> None:
        self.segmenter, self.attention, self.encoder, self.hypotheses = segmenter, attention, encoder, hypotheses

    def settings(self) -> dict[str, object]:
        few = {} if self.hypotheses is None else {"hypotheses": self.hypotheses}
        return {"segmenter": self.segmenter, "attention": self.attention, "encoder": self.encoder, **few}

    def __call__(
        self, classifier: Classifier, x: Tensor, superpixels: Sequence[Patches], activations: Activations | None = None
    ) -> Candidates:
        """The candidates of a batch; arguments as of :class:`Finder`, which gives the activations too."""
        if activations is None:
            gradients = self.attention.gradients(classifier)
            activations = classifier.inspect(x, gradients=gradients, most=self.hypotheses)
        patches = attend(self.attention, classifier, activations, superpixels)
        return Candidates(activations, patches, self.encoder(classifier, x, activations, patches))

    def finder(self, bank: ConceptBank) -> Finder:
        """Nearest concepts within their radius (3.2.1)."""
        return SuperpixelFinder(self, bank)


class SuperpixelFinder(Finder):
    """Finds the concepts of a bank of superpixels, see :class:`CandidateExtractor`."""

    def __init__(self, extractor: CandidateExtractor, bank: ConceptBank) -> None:
        self.extractor, self.attention, self.matcher = extractor, extractor.attention, ConceptMatcher(bank)

    def of(self, bank: ConceptBank) -> SuperpixelFinder:
        return SuperpixelFinder(self.extractor, bank)

    def found(
        self, classifier: Classifier, x: Tensor, superpixels: Sequence[Patches], activations: Activations
    ) -> Found:
        candidates = self.extractor(classifier, x, superpixels, activations)
        distances = candidates.split(self.matcher.distances(candidates.features.cpu().numpy()))
        matched = np.stack([self.matcher.match(near) for near in distances])
        presence = (matched != UNMATCHED).astype(np.float32)
        return Found(activations, list(superpixels), candidates.patches, matched, presence)


class WholePhoto:
    """No superpixels: regions are made of F's maps."""

    def settings(self) -> dict[str, object]:
        return {}

    def __call__(self, image: NDArray[np.uint8]) -> Patches:
        """A label map without patches for a photo, uint8 ``[H, W, 3]``."""
        return Patches(np.zeros((1, *image.shape[:2]), np.int16), np.zeros(0, np.int64))


class WordExtractor:
    """Visual words as concept candidates: where F looks, every cell of its map belongs to one (:class:`Vocabulary`).

    Args:
        attention: where F looks.
        min_area: what a concept usually covers at least, share of the photo in (0, 1).
        hypotheses: the most probable classes of each photo, so many, that F looks for; None: all.

    Raises:
        VRXError: min_area out of range.
    """

    def __init__(self, attention: Attention, min_area: float = 0.01, hypotheses: int | None = None) -> None:
        if not 0 < min_area < 1:
            raise VRXError(f"concepts.min_area={min_area} is out of range: use a share of the photo in (0, 1).")
        self.segmenter = WholePhoto()
        self.attention, self.min_area, self.hypotheses = attention, min_area, hypotheses

    def settings(self) -> dict[str, object]:
        few = {} if self.hypotheses is None else {"hypotheses": self.hypotheses}
        return {"attention": self.attention, "min_area": self.min_area, **few}

    def inspect(self, classifier: Classifier, x: Tensor) -> tuple[Activations, Tensor]:
        """F on a batch, and :meth:`looks`."""
        gradients = self.attention.gradients(classifier)
        activations = classifier.inspect(x, gradients=gradients, most=self.hypotheses)
        return activations, self.looks(classifier, activations)

    def looks(self, classifier: Classifier, activations: Activations) -> Tensor:
        """Where F looks, bool ``[B, H, W]``: nowhere in a photo without anything to look at."""
        maps, tau = self.attention.maps(classifier, activations), self.attention.tau
        high = relative(maps, classifier.input_size) >= tau
        return high & ((maps.amax((1, 2)) > 0) | (tau == 0))[:, None, None]

    def finder(self, bank: ConceptBank) -> Finder:
        """The bank's words; a concept is found where it is present with at least even odds."""
        return WordFinder(self, bank)


class WordFinder(Finder):
    """Finds the concepts of a bank of words, see :class:`WordExtractor`.

    Raises:
        VRXError: a bank of superpixels.
    """

    def __init__(self, extractor: WordExtractor, bank: ConceptBank) -> None:
        if "word" not in bank.state:
            raise VRXError(
                "This concept bank was made of superpixels: use concepts=paper with it, or run train.py again."
            )
        self.extractor, self.attention = extractor, extractor.attention
        self.vocabulary = Vocabulary.of(bank.state)
        self.word = bank.state["word"].astype(np.int64)  # [n, N], -1 where there is no concept

    def of(self, bank: ConceptBank) -> WordFinder:
        finder = copy.copy(self)
        word = bank.state["word"].astype(np.int64)
        words = np.unique(word[word >= 0])
        finder.vocabulary = replace(self.vocabulary, chosen=words)
        finder.word = np.where(word >= 0, np.searchsorted(words, word), -1)
        return finder

    def found(
        self, classifier: Classifier, x: Tensor, superpixels: Sequence[Patches], activations: Activations
    ) -> Found:
        maps = appearance(classifier, x, activations, int(self.vocabulary.depth[0]))
        found, clarity = self.vocabulary.regions(maps, self.extractor.looks(classifier, activations))
        parts = []
        for photo, (given, own) in enumerate(zip(superpixels, found, strict=True)):
            parts.append(self._own(own, clarity[photo]) if not len(given) else self._given(given, maps[photo]))
        regions, patches, matched, presence = zip(*parts, strict=True)
        return Found(activations, list(regions), list(patches), np.stack(matched), np.stack(presence))

    def _own(
        self, found: Patches, clarity: NDArray[np.float32]
    ) -> tuple[Patches, Patches, NDArray[np.int64], NDArray[np.float32]]:
        """The words that the photo shows."""
        areas, seen = np.zeros(len(clarity), np.float32), found.areas
        areas[found.ids] = seen
        probability = self.vocabulary.probability(areas, clarity, self.extractor.min_area)
        patches = found.select(seen >= LEAST * self.extractor.min_area)
        return (patches, patches, *self._concepts(patches.ids, probability))

    def _given(self, given: Patches, maps: Tensor) -> tuple[Patches, Patches, NDArray[np.int64], NDArray[np.float32]]:
        """What the regions of a clean photo show in an edited one: each the word that it is most like."""
        shares = pool(given, self.vocabulary.posterior(maps[None])[0]).cpu().numpy()  # [K, W]
        ids = self.vocabulary.ids
        best = ids[shares.argmax(1)]
        at, probability = np.full(ids.max() + 1, -1), np.zeros(ids.max() + 1, np.float32)
        odds = self.vocabulary.probability(given.areas, shares.max(1), self.extractor.min_area)
        for k in np.argsort(odds):
            at[best[k]], probability[best[k]] = k, odds[k]
        matched, presence = self._concepts(np.arange(len(given)), probability, at)
        return given, given, matched, presence

    def _concepts(
        self, ids: NDArray[np.int64], probability: NDArray[np.float32], at: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Which patch shows each concept, ``[n, N]``, and how probably."""
        if at is None:
            at = np.full(len(probability), UNMATCHED)
            at[ids] = np.arange(len(ids))
        is_concept = self.word >= 0
        presence = np.where(is_concept, probability[self.word], 0).astype(np.float32)
        matched = np.where(is_concept & (presence >= EVEN), at[self.word], UNMATCHED).astype(np.int64)
        return matched, presence
