"""The Visual Concept Extractor (3.1) on visual words: one vocabulary for all classes, for each class what F needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from tqdm import tqdm

from vrx.bank import ConceptBank
from vrx.classifier.classifier import Classifier
from vrx.concepts.assembly import ClassPatches, Concept, DiscoveryPhoto, featureless, make_bank
from vrx.concepts.attention import Attention
from vrx.concepts.candidates import EVEN, WordExtractor
from vrx.concepts.joining import Neighbours, joined
from vrx.concepts.perturbations import PERTURBATIONS, moved_back
from vrx.concepts.words import LEAST, Vocabulary, appearance, calibrated, traits
from vrx.edits import Editor
from vrx.errors import VRXError
from vrx.scores import SIGNIFICANT, above_p_value, holm, margins
from vrx.specs import describe
from vrx.structures import Patches

SURE = 0.02  # p-value of a concept, where enough photos test it: of those that barely pass .05, half fail it elsewhere
NARROW = 1.2  # times the margin by which a deletion grows: a narrower word is an object's rim, not a part
SAME_PLACE = 0.5  # least overlap (IoU) of a word with itself in a changed photo, if it stays
LEAST_WORDS = 16
STEADY_PHOTOS = 20  # of each class, that say which layers are steady, how sure a word must be, and how wide it is


class WordDiscovery:
    """Finds the concepts of every class of interest among visual words of all classes.

    Args:
        attention: where F looks.
        editor: how a concept is deleted.
        num_concepts: N, concepts per class at most; a class shows as many as F needs.
        words_per_class: the vocabulary holds that many times the number of classes, and 16 words at least: the fewer
            there are, the more often a part is found as the concept of another class.
        cells: of each photo that the words are clustered from, at random, at most.
        frequency: share of a class's photos in which a word must be present to be a concept, in (0, 1].
        min_area: what a concept usually covers at least, share of the photo in (0, 1).
        effects: photos on which the effect of deleting a word is measured, at most; twice as many test it.
        shown_exemplars: of these, how many the bank keeps for galleries and reports.
        batch_size: photos per pass.
        seed: of k-means and of all that is random.
        hypotheses: so many of a photo's most probable classes say where F looks; None: all.

    Raises:
        VRXError: a setting out of range.
    """

    def __init__(
        self,
        attention: Attention,
        editor: Editor,
        num_concepts: int = 8,
        words_per_class: int = 5,
        cells: int = 64,
        frequency: float = 0.25,
        min_area: float = 0.01,
        effects: int = 24,
        shown_exemplars: int = 6,
        batch_size: int = 16,
        seed: int = 0,
        hypotheses: int | None = None,
    ) -> None:
        if not 0 < frequency <= 1:
            raise VRXError(f"concepts.frequency={frequency} is out of range: use a share of the photos in (0, 1].")
        for name, value in (("num_concepts", num_concepts), ("words_per_class", words_per_class), ("effects", effects)):
            if value < 1:
                raise VRXError(f"concepts.{name}={value}: use 1 or more.")
        self.extractor, self.editor = WordExtractor(attention, min_area, hypotheses), editor
        self.num_concepts, self.words_per_class, self.cells = num_concepts, words_per_class, cells
        self.frequency, self.effects, self.shown_exemplars = frequency, effects, shown_exemplars
        self.batch_size, self.seed = batch_size, seed

    def settings(self) -> dict[str, object]:
        plain = {k: v for k, v in vars(self).items() if k != "extractor"}
        return {**self.extractor.settings(), **plain}

    def __call__(self, classifier: Classifier, photos: Mapping[str, Sequence[DiscoveryPhoto]]) -> ConceptBank:
        """Discover the concepts of every class.

        Args:
            classifier: F.
            photos: the discovery photos of each class of interest.

        Raises:
            VRXError: a class has no photo, or there is no concept in any class.
        """
        missing = [name for name in classifier.class_names if not photos[name]]
        if missing:
            raise VRXError(
                f"Class {missing[0]!r} has no readable discovery photo: give some, or leave it out of data.classes."
            )
        vocabulary = self._vocabulary(classifier, photos)
        concepts, sources, notes, words = [], [], {}, []
        bar = tqdm(classifier.class_names, desc="discovering concepts", unit="class")
        for index, name in enumerate(bar):
            bar.set_postfix_str(name)
            pool = self._collect(classifier, vocabulary, photos[name], index)
            found, note = self._discover(classifier, pool, vocabulary, index)
            concepts.append([concept for _, concept in found])
            words.append([word for word, _ in found] + [-1] * (self.num_concepts - len(found)))
            sources.append(pool)
            if note:
                notes[name] = note
        if not any(concepts):
            raise VRXError(
                "No class has a concept whose deletion lowers it: "
                + "; ".join(f"{name}: {note}" for name, note in notes.items())
                + ". Give more discovery photos, raise concepts.effects, or lower concepts.frequency or "
                "concepts.attention.tau."
            )
        settings = {"classifier": classifier.fingerprint, "discovery": describe(self)}
        state = {**vocabulary.state(), "word": np.array(words, np.int32)}
        every = torch.stack([p.x for found in photos.values() for p in found[:10]])
        blank = featureless(classifier, self.editor.margin, every, self.batch_size)
        return make_bank(
            classifier, concepts, sources, self.num_concepts, self.shown_exemplars, settings, state, blank, notes
        )

    # --- the words

    def _vocabulary(self, classifier: Classifier, photos: Mapping[str, Sequence[DiscoveryPhoto]]) -> Vocabulary:
        """The words of the layers whose words stay where they are when a photo is changed so that nobody sees it.

        One layer finds what stands for a part where its map is steady; a finer one beside it helps where it is not.
        """
        some = [photo for found in photos.values() for photo in found[:STEADY_PHOTOS]]
        best, steadiest = None, -1.0
        for depth in range(1, len(classifier.appearance_layers) + 1):
            vocabulary = self._clustered(classifier, photos, depth)
            vocabulary = self._joined(classifier, vocabulary, photos)
            found, stays = self._stability(classifier, vocabulary, some)
            if len(stays) and stays.mean() > steadiest:
                best, steadiest = replace(vocabulary, presence=calibrated(found, stays)), float(stays.mean())
        if best is None:
            raise VRXError(
                "No visual word covers enough of a discovery photo: lower concepts.min_area or concepts.attention.tau."
            )
        return best

    def _clustered(
        self, classifier: Classifier, photos: Mapping[str, Sequence[DiscoveryPhoto]], depth: int
    ) -> Vocabulary:
        """Words of attended cells of all photos."""
        rng = np.random.default_rng(self.seed)
        cells = []
        for batch in self._batches(classifier, [p for found in photos.values() for p in found], "reading cells"):
            activations, attention = self.extractor.inspect(classifier, batch)
            maps = appearance(classifier, batch, activations, depth)
            grid = (maps.shape[2], maps.shape[3])
            looks = adaptive_avg_pool2d(attention[:, None].float(), grid)[:, 0] >= 0.5
            for values, here in zip(maps.permute(0, 2, 3, 1).cpu().numpy(), looks.cpu().numpy(), strict=True):
                chosen = rng.permutation(np.flatnonzero(here))[: self.cells]
                cells.append(values.reshape(-1, values.shape[-1])[chosen])
        count = max(LEAST_WORDS, self.words_per_class * len(photos))
        pool = np.concatenate(cells)
        if len(pool) < 2 * count:
            raise VRXError(
                f"F looks at {len(pool)} cells of all discovery photos, too few for {count} words: lower "
                "concepts.words_per_class or concepts.attention.tau, or give more discovery photos."
            )
        channels = {layer.name: layer.channels for layer in classifier.layers}
        widths = [channels[name] for name in classifier.appearance_layers[-depth:]]
        return Vocabulary.fit(pool, widths, count, self.seed)

    def _joined(
        self, classifier: Classifier, vocabulary: Vocabulary, photos: Mapping[str, Sequence[DiscoveryPhoto]]
    ) -> Vocabulary:
        """The same clusters, those joined to one word that lie side by side in all classes that show them."""
        every = [self._neighbours(classifier, vocabulary, found[:STEADY_PHOTOS]) for found in photos.values()]
        return replace(vocabulary, member=joined(every, vocabulary.count, LEAST * self.extractor.min_area))

    def _neighbours(
        self, classifier: Classifier, vocabulary: Vocabulary, photos: Sequence[DiscoveryPhoto]
    ) -> list[Neighbours]:
        batches = self._batches(classifier, photos, "joining words")
        regions = (patches for x in batches for patches in self._regions(classifier, vocabulary, x)[0])
        return [Neighbours.of(patches.labels[0], vocabulary.count) for patches in regions]

    def _batches(self, classifier: Classifier, photos: Sequence[DiscoveryPhoto], what: str) -> tqdm[Tensor]:
        parts = [photos[i : i + self.batch_size] for i in range(0, len(photos), self.batch_size)]
        made = (torch.stack([p.x for p in part]).to(classifier.device) for part in parts)
        return tqdm(made, desc=what, total=len(parts), unit="batch", leave=False)

    def _stability(
        self, classifier: Classifier, vocabulary: Vocabulary, photos: Sequence[DiscoveryPhoto]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Traits of each photo's words, and whether each stays when the photo is changed so that nobody sees it."""
        found, stays = [], []
        for batch in self._batches(classifier, photos, "changing photos"):
            clean, clarity, _ = self._regions(classifier, vocabulary, batch)
            for name, change in PERTURBATIONS.items():
                changed, *_ = self._regions(classifier, vocabulary, change(classifier, batch))
                for photo, (before, after) in enumerate(zip(clean, changed, strict=True)):
                    nothing = vocabulary.count
                    areas, overlap = overlaps(before, moved_back(name, after.labels, nothing)[0], nothing)
                    seen = areas >= LEAST * self.extractor.min_area
                    found.append(traits(areas[seen], clarity[photo][seen], self.extractor.min_area))
                    stays.append(overlap[seen] >= SAME_PLACE)
        return np.concatenate(found), np.concatenate(stays)

    def _regions(
        self, classifier: Classifier, vocabulary: Vocabulary, x: Tensor
    ) -> tuple[list[Patches], NDArray[np.float32], Tensor]:
        """Where each word is seen, how clearly (:meth:`Vocabulary.regions`), and F's logits."""
        activations, attention = self.extractor.inspect(classifier, x)
        maps = appearance(classifier, x, activations, int(vocabulary.depth[0]))
        return *vocabulary.regions(maps, attention), activations.logits

    # --- the concepts of a class

    def _collect(
        self, classifier: Classifier, vocabulary: Vocabulary, photos: Sequence[DiscoveryPhoto], index: int
    ) -> ClassPatches:
        """The words that are present in each photo of a class; features: word and clarity."""
        patches, margin, features = [], [], []
        for x in self._batches(classifier, photos, "finding words"):
            found, clarity, logits = self._regions(classifier, vocabulary, x)
            margin.append(margins(logits.double())[:, index].cpu().numpy())
            for regions, clear in zip(found, clarity, strict=True):
                own = clear[regions.ids]
                present = vocabulary.probability(regions.areas, own, self.extractor.min_area) >= EVEN
                patches.append(regions.select(present))
                features.append(np.stack([regions.ids[present], own[present]], axis=1).astype(np.float32))
        return ClassPatches.of(photos, patches, margin, features)

    def _discover(
        self, classifier: Classifier, pool: ClassPatches, vocabulary: Vocabulary, index: int
    ) -> tuple[list[tuple[int, Concept]], str]:
        """The words that F needs for a class, the most needed first, and why there are fewer than N.

        Some photos of each frequent word say which words may matter most; the others test these alone.
        """
        word_of = pool.features[:, 0].astype(np.int64)
        counts = np.bincount(word_of, minlength=vocabulary.count)
        frequent = np.flatnonzero(counts >= max(2, self.frequency * len(pool.photos)))
        rng = np.random.default_rng([self.seed, index])
        members = {int(word): rng.permutation(np.flatnonzero(word_of == word)) for word in frequent}
        wide = {w: np.median([width(pool.mask(m)) for m in some[:STEADY_PHOTOS]]) for w, some in members.items()}
        members = {w: some for w, some in members.items() if wide[w] >= NARROW * self.editor.margin}
        screened = {w: chosen[: min(self.effects, len(chosen) // 2)] for w, chosen in members.items()}
        first = {w: self._falls(classifier, pool, chosen, index).mean() for w, chosen in screened.items()}
        promising = sorted(first, key=lambda w: -first[w])[: self.num_concepts]
        tests = {w: self._tested(classifier, pool, members[w][len(screened[w]) :], index, rng) for w in promising}
        p_values = holm(np.array([above_p_value(own, random) for own, random in tests.values()]))
        needed = []
        for (word, (own, _)), p in zip(tests.items(), p_values, strict=True):
            attainable = len(tests) * 0.5 ** len(own) < SURE
            if p < (SURE if attainable else SIGNIFICANT) and own.mean() > 0:
                typical = members[word][np.argsort(-pool.features[members[word], 1], kind="stable")]
                needed.append((word, Concept(vocabulary.direction(word), 0.0, typical, float(own.mean()), float(p))))
        needed.sort(key=lambda found: -found[1].importance)
        note = (
            f"{len(members)} kinds of regions are seen in at least {self.frequency:.0%} of its photos; deleting "
            f"{len(needed)} of them lowers the class more than deleting as many pixels at random places"
        )
        return needed, note if len(needed) < self.num_concepts else ""

    def _tested(
        self,
        classifier: Classifier,
        pool: ClassPatches,
        members: NDArray[np.int64],
        index: int,
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Fall of the class's margin when the word is deleted, and when as many pixels at a random place are."""
        chosen = members[: 2 * self.effects]
        return self._falls(classifier, pool, chosen, index), self._falls(classifier, pool, chosen, index, rng)

    def _falls(
        self,
        classifier: Classifier,
        pool: ClassPatches,
        members: NDArray[np.int64],
        index: int,
        rng: np.random.Generator | None = None,
    ) -> NDArray[np.float64]:
        """Fall of the class's margin when each member is deleted; with ``rng``, as many pixels at a random place."""

        def mask(member: int) -> NDArray[np.bool_]:
            return pool.mask(member) if rng is None else elsewhere(pool.mask(member), rng)

        return pool.falls(classifier, self.editor, members, mask, index, 4 * self.batch_size)


def overlaps(before: Patches, after: NDArray[np.int16], count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Area (share of the photo) of each of ``count`` words, and its overlap (IoU) with itself in another label map."""
    first, second = before.labels[0].ravel(), after.ravel()
    sizes = np.bincount(first, minlength=count + 1)[:count]
    both = np.bincount(first[first == second], minlength=count + 1)[:count]
    union = sizes + np.bincount(second, minlength=count + 1)[:count] - both
    return (sizes / len(first)).astype(np.float32), (both / np.maximum(union, 1)).astype(np.float32)


def width(mask: NDArray[np.bool_]) -> float:
    """How wide a region is, share of the photo's longer side: twice its pixels for each at its border.

    A deletion is grown by the editor's margin. It takes away more of what lies around a narrower region, the rim of an
    object, than of the region: what F loses then says little of it.
    """
    border = mask & ~binary_erosion(mask, border_value=1)
    return 2 * int(mask.sum()) / max(int(border.sum()), 1) / max(mask.shape)


def elsewhere(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """The same pixels at a random place of the photo; what leaves at one border enters at the other."""
    offset = (int(rng.integers(mask.shape[0])), int(rng.integers(mask.shape[1])))
    return np.roll(mask, offset, axis=(0, 1))
