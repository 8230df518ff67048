"""How good are the concepts? Needed by F, complete, stable and, where part masks say so, parts of the object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any, cast

import numpy as np
from tqdm import tqdm

from vrx.concepts.purity import NAMING, main_parts, part_metrics
from vrx.data.images import Photo
from vrx.data.part_masks import seen
from vrx.data.prepared import PreparedPhoto, prepared
from vrx.data.sources import HasPartMasks, PhotoSource, PhotosWithParts
from vrx.errors import VRXError
from vrx.explain.deletion import ConceptFalls, Read, completeness, concept_falls
from vrx.explain.explainer import Explainer
from vrx.explain.stability import stability

TESTS = 8  # times as many photos test single concepts: a paired test of few photos finds nothing
OF_PARTS = ("purity", "recall_own", "precision")  # what is known of each concept where there are part masks


@dataclass(frozen=True)
class ConceptRow:
    """What was measured of one concept; NaN where nothing could be.

    Args:
        class_name: of its class.
        number: as pages show it, from 1.
        name: what it is called; "" without a name.
        effect: mean fall of F's margin for the class when the concept is deleted, logits.
        random_effect: the same for as many pixels at a random place of the same photo.
        p_value: that the first is larger, Holm-corrected within the class.
        significant: whether F needs it more than a random place (p < .05).
        photos: that tested it.
        purity, recall_own, precision: as of :func:`~vrx.concepts.purity.part_metrics`, of this concept alone.
    """

    class_name: str
    number: int
    name: str
    effect: float
    random_effect: float
    p_value: float
    significant: bool
    photos: int
    purity: float = float("nan")
    recall_own: float = float("nan")
    precision: float = float("nan")


@dataclass(frozen=True)
class ConceptQuality:
    """How good the concepts of a run are.

    Args:
        metrics: the ``concepts/*``, ``completeness/*`` and ``stability/*`` of ``metrics.json``.
        concepts: a row for each concept.
    """

    metrics: dict[str, float]
    concepts: tuple[ConceptRow, ...]

    @property
    def table(self) -> list[dict[str, Any]]:
        """The rows as plain dictionaries."""
        return [asdict(row) for row in self.concepts]


def concept_quality(explainer: Explainer, source: PhotoSource, photos: int, seed: int = 0) -> ConceptQuality:
    """Measure how good the concepts of a run are, on test photos.

    Args:
        explainer: of the run.
        source: the photos.
        photos: test photos to explain, from all classes alike; eight times as many test the single concepts.
        seed: of what is drawn at random.

    Raises:
        VRXError: no test photo can be read.
    """
    read = read_photos(explainer, source, sampled(source.photos("test"), TESTS * photos, seed))
    if not read:
        raise VRXError("No test photo can be read: repair them, or set report.quality=0.")
    bar = tqdm(read[:photos], desc="explaining photos", unit="photo", leave=False)
    explanations = [explainer.explain_input(x, regions, relations=False, true_class=label) for x, regions, label in bar]
    falls = concept_falls(explainer, read, seed)
    metrics = falls.metrics | completeness(explainer, explanations, seed) | stability(explainer, explanations)
    known, of_concepts = part_quality(explainer, source, -(-photos // len(source.class_names)))
    return ConceptQuality(metrics | known, tuple(_rows(explainer, falls, of_concepts)))


def sampled(photos: Sequence[Photo], count: int, seed: int) -> list[Photo]:
    """Up to ``count`` photos at random, of every class in turn."""
    order = [photos[i] for i in np.random.default_rng(seed).permutation(len(photos))]
    classes = [[p for p in order if p.label == label] for label in sorted({p.label for p in photos})]
    return [photo for turn in zip_longest(*classes) for photo in turn if photo is not None][:count]


def read_photos(explainer: Explainer, source: PhotoSource, photos: Sequence[Photo]) -> list[Read]:
    """The photos as F reads them; those that cannot be read are left out."""
    classifier = explainer.classifier
    loader: Iterable[list[PreparedPhoto]] = (
        prepared(source, photos, classifier, explainer.builder.extractor.segmenter, 16, 0) if photos else []
    )
    return [
        (item.x.to(classifier.device), item.superpixels, photos[item.index].label)
        for batch in loader
        for item in batch
        if item.x is not None and item.superpixels is not None
    ]


def _rows(
    explainer: Explainer, falls: ConceptFalls, of_concepts: Mapping[tuple[int, int], Mapping[str, float]]
) -> list[ConceptRow]:
    bank = explainer.bank
    return [
        ConceptRow(
            bank.class_names[c],
            k + 1,
            bank.name(c, k),
            float(falls.own[c, k]),
            float(falls.random[c, k]),
            float(falls.p_value[c, k]),
            bool(falls.significant[c, k]),
            int(falls.photos[c, k]),
            **of_concepts.get((c, k), {}),
        )
        for c, k in np.argwhere(bank.present).tolist()
    ]


# --- where there are part masks


def part_quality(
    explainer: Explainer, source: PhotoSource, photos_per_class: int
) -> tuple[dict[str, float], dict[tuple[int, int], dict[str, float]]]:
    """Do concepts show parts? The main part of each by the discovery photos; how well it does on test photos.

    Args:
        explainer: of the run.
        source: the photos; nothing is known of one without part masks.
        photos_per_class: of the test photos, at most; ``NAMING`` discovery photos say which part a concept shows.

    Returns:
        The metrics of :func:`~vrx.concepts.purity.part_metrics`, and for each concept (class, number from 0) some of
        them of this concept alone.
    """
    if not isinstance(source, HasPartMasks):
        return {}, {}
    masked = cast(PhotosWithParts, source)
    discovery = seen(explainer.builder, masked, "discovery", NAMING)
    test = seen(explainer.builder, masked, "test", photos_per_class)
    present, alike = explainer.bank.present, masked.alike
    mains = main_parts(discovery, present)
    of_concepts = {}
    for c, k in np.argwhere(present).tolist():
        alone = np.zeros_like(present)
        alone[c, k] = True
        main = [[part if alone[g, i] else "" for i, part in enumerate(row)] for g, row in enumerate(mains)]
        found = part_metrics(test, main, alone, alike)
        of_concepts[c, k] = {name: found[f"concepts/{name}"] for name in OF_PARTS if f"concepts/{name}" in found}
    return part_metrics(test, mains, present, alike), of_concepts
