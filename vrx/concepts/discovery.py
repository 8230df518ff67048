"""The Visual Concept Extractor (3.1): cluster the patches of a class, keep what is popular, rank by importance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from vrx.bank import ConceptBank
from vrx.classifier.classifier import Classifier
from vrx.concepts.assembly import ClassPatches, Concept, DiscoveryPhoto, featureless, make_bank
from vrx.concepts.attention import Attention
from vrx.concepts.candidates import CandidateExtractor
from vrx.concepts.encoders import PatchEncoder
from vrx.concepts.matching import kmeans
from vrx.concepts.patches import Segmenter
from vrx.edits import Editor
from vrx.errors import VRXError
from vrx.scores import above_p_value, holm, margins
from vrx.specs import describe


def is_popular(photo_of_member: NDArray[np.int64], num_photos: int, min_patches: int) -> bool:
    """ACE's popularity rules for one cluster (Ghorbani et al. 2019).

    Args:
        photo_of_member: the photo of each patch of the cluster, ``[M]``.
        num_photos: discovery photos of the class.
        min_patches: a cluster needs more patches than this.
    """
    size, spread = len(photo_of_member), len(np.unique(photo_of_member))
    if size <= min_patches:
        return False
    from_many = spread > 0.5 * size
    from_some = spread > 0.25 * size and spread > 0.25 * num_photos
    in_most_photos = spread > 0.1 * size and spread > 0.5 * num_photos
    return from_many or from_some or in_most_photos


class ConceptDiscovery:
    """Finds the top-N concepts of every class of interest.

    Args:
        segmenter: photo -> superpixels.
        attention: which superpixels may be concepts.
        encoder: patches -> matching features.
        editor: how a concept is deleted.
        num_concepts: N, concepts per class.
        clusters: k of k-means, per class.
        min_patches: smallest cluster that can be a concept (ACE: 20).
        max_exemplars: most typical patches, at most one per photo, on which importance is measured.
        shown_exemplars: of these, how many the bank keeps for galleries and reports.
        radius_quantile: a patch is a detection when it is nearer than this quantile of the cluster's members.
        batch_size: photos per pass.
        seed: of k-means and of the random patches.
        hypotheses: so many of a photo's most probable classes say where F looks; None: all.

    Raises:
        VRXError: a setting out of range.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        attention: Attention,
        encoder: PatchEncoder,
        editor: Editor,
        num_concepts: int = 8,
        clusters: int = 25,
        min_patches: int = 20,
        max_exemplars: int = 15,
        shown_exemplars: int = 6,
        radius_quantile: float = 0.85,
        batch_size: int = 16,
        seed: int = 0,
        hypotheses: int | None = None,
    ) -> None:
        if not 0 < radius_quantile <= 1:
            raise VRXError(f"concepts.radius_quantile={radius_quantile} is out of range: use (0, 1].")
        if clusters < num_concepts:
            raise VRXError(f"concepts.clusters={clusters} cannot give {num_concepts} concepts: raise it.")
        self.extractor, self.editor = CandidateExtractor(segmenter, attention, encoder, hypotheses), editor
        self.num_concepts, self.clusters, self.min_patches = num_concepts, clusters, min_patches
        self.max_exemplars, self.shown_exemplars = max_exemplars, shown_exemplars
        self.radius_quantile, self.batch_size, self.seed = radius_quantile, batch_size, seed

    def settings(self) -> dict[str, object]:
        plain = {k: v for k, v in vars(self).items() if k != "extractor"}
        return {**self.extractor.settings(), **plain}

    def __call__(self, classifier: Classifier, photos: Mapping[str, Sequence[DiscoveryPhoto]]) -> ConceptBank:
        """Discover the concepts of every class.

        Args:
            classifier: F.
            photos: the discovery photos of each class of interest.

        Raises:
            VRXError: a class has too few patches, or none of its clusters survives.
        """
        concepts, sources = [], []
        bar = tqdm(classifier.class_names, desc="discovering concepts", unit="class")
        for index, name in enumerate(bar):
            bar.set_postfix_str(name)
            patches = self._collect(classifier, photos[name], index)
            concepts.append(self._discover(classifier, patches, name, index))
            sources.append(patches)
        settings = {"classifier": classifier.fingerprint, "discovery": describe(self)}
        every = torch.stack([p.x for found in photos.values() for p in found[:10]])
        blank = featureless(classifier, self.editor.margin, every, self.batch_size)
        return make_bank(classifier, concepts, sources, self.num_concepts, self.shown_exemplars, settings, blank=blank)

    def _collect(self, classifier: Classifier, photos: Sequence[DiscoveryPhoto], index: int) -> ClassPatches:
        if not photos:
            raise VRXError(
                f"Class {classifier.class_names[index]!r} has no readable discovery photo: give some, "
                "or leave it out of data.classes."
            )
        features, patches, margin = [], [], []
        for start in range(0, len(photos), self.batch_size):
            part = photos[start : start + self.batch_size]
            batch = torch.stack([p.x for p in part]).to(classifier.device)
            found = self.extractor(classifier, batch, [p.superpixels for p in part])
            features.append(found.features.cpu().numpy())
            patches += found.patches
            margin.append(margins(found.activations.logits.double())[:, index].cpu().numpy())
        return ClassPatches.of(photos, patches, margin, features)

    def _discover(self, classifier: Classifier, pool: ClassPatches, name: str, index: int) -> list[Concept]:
        if len(pool.features) < self.clusters:
            raise VRXError(
                f"Class {name!r} has {len(pool.features)} patches for {self.clusters} clusters: lower "
                f"concepts.clusters or concepts.attention.tau, or give more discovery photos (now {len(pool.photos)})."
            )
        centroids, member_of, distance = self._cluster(pool.features)
        popular = [
            k
            for k in range(self.clusters)
            if is_popular(pool.photo[member_of == k], len(pool.photos), self.min_patches)
        ]
        if not popular:
            raise VRXError(
                f"No concept of class {name!r} survives: none of its {self.clusters} clusters has more than "
                f"{self.min_patches} patches from enough photos. Lower concepts.min_patches or concepts.clusters, "
                f"use another concepts/encoder, or give more discovery photos (now {len(pool.photos)})."
            )
        exemplars = {k: self._exemplars(pool, np.flatnonzero(member_of == k), distance) for k in popular}
        values, p_values = self._effects(classifier, pool, member_of, exemplars, index)
        corrected = holm(np.asarray(p_values))
        found = []
        for i in sorted(range(len(popular)), key=lambda i: -values[i])[: self.num_concepts]:
            k = popular[i]
            radius = float(np.quantile(distance[member_of == k], self.radius_quantile))
            found.append(Concept(centroids[k], radius, exemplars[k], values[i], float(corrected[i])))
        return found

    def _cluster(
        self, features: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """k-means: centroids ``[k, Dm]``, cluster of each patch ``[M]``, distance to its centroid ``[M]``."""
        means = kmeans(features, self.clusters, self.seed)
        squared, nearest = means.index.search(np.ascontiguousarray(features), 1)
        return np.asarray(means.centroids), nearest[:, 0], np.sqrt(np.maximum(squared[:, 0], 0))

    def _exemplars(
        self, pool: ClassPatches, members: NDArray[np.int64], distance: NDArray[np.float32]
    ) -> NDArray[np.int64]:
        """The most typical members, nearest first, at most one per photo."""
        nearest = members[np.argsort(distance[members], kind="stable")]
        _, first = np.unique(pool.photo[nearest], return_index=True)
        return nearest[np.sort(first)][: self.max_exemplars]

    def _effects(
        self,
        classifier: Classifier,
        pool: ClassPatches,
        member_of: NDArray[np.int64],
        exemplars: Mapping[int, NDArray[np.int64]],
        index: int,
    ) -> tuple[list[float], list[float]]:
        """Mean fall of the class' margin, and p-value against area-matched random patches of the same photos."""
        rng = np.random.default_rng([self.seed, index])
        pairs = {k: _with_controls(pool, member_of, k, chosen, rng) for k, chosen in exemplars.items()}
        asked = [*exemplars.values(), *(np.ravel(pair) for pair in pairs.values())]
        wanted = np.unique(np.concatenate(asked).astype(np.int64))
        falls = pool.falls(classifier, self.editor, wanted, pool.mask, index, 4 * self.batch_size)
        fall = dict(zip(wanted.tolist(), falls, strict=True))
        values = [float(np.mean([fall[int(m)] for m in chosen])) for chosen in exemplars.values()]
        p_values = [
            above_p_value(np.array([fall[int(m)] for m, _ in pair]), np.array([fall[int(c)] for _, c in pair]))
            for pair in pairs.values()
        ]
        return values, p_values


def _with_controls(
    pool: ClassPatches,
    member_of: NDArray[np.int64],
    cluster: int,
    exemplars: NDArray[np.int64],
    rng: np.random.Generator,
) -> list[tuple[int, int]]:
    """Each exemplar with a random, area-matched patch of its own photo that is not of its cluster."""
    pairs = []
    for member in exemplars:
        photo = pool.photo[member]
        here = np.flatnonzero(pool.photo == photo)
        control = area_matched(pool.patches[photo].areas, int(pool.patch[member]), member_of[here] == cluster, rng)
        if control >= 0:
            pairs.append((int(member), int(here[control])))
    return pairs


def area_matched(
    areas: NDArray[np.float32], patch: int, forbidden: NDArray[np.bool_], rng: np.random.Generator, among: int = 5
) -> int:
    """A random patch of the same photo with about the same area: one of the ``among`` nearest, -1 if there is none.

    Args:
        areas: of the photo's patches, ``[K]``.
        patch: the one to match.
        forbidden: patches that may not serve, e.g. those of the same concept, ``[K]``.
    """
    gap = np.abs(np.log(areas / areas[patch]))
    gap[forbidden] = np.inf
    gap[patch] = np.inf
    nearest = np.argsort(gap)[:among]
    nearest = nearest[np.isfinite(gap[nearest])]
    return int(rng.choice(nearest)) if len(nearest) else -1
