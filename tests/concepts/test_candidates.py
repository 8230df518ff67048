"""Concept candidates: attention that is the same for every hypothesis."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import planted
from vrx.classifier.classifier import Classifier
from vrx.concepts.attention import GradCAMAttention, attended
from vrx.data.images import PhotoFolder
from vrx.errors import VRXError


def test_candidates_lie_on_the_maximum_of_gradcam_over_the_classes(colour_f: Classifier, source: PhotoFolder) -> None:
    extractor = planted.make_extractor(tau=0.3)
    x, superpixels = planted.inputs(colour_f, source, extractor.segmenter, "val")
    found = extractor(colour_f, x, superpixels)
    cam = colour_f.gradcam(x).amax(1)
    for patches, before, attention in zip(found.patches, superpixels, cam, strict=True):
        assert patches.ids.tolist() == attended(before, attention, 0.3).ids.tolist()
    for patches, photo in zip(found.patches, source.photos("val"), strict=True):
        on_part = [(mask & planted.part_of(photo.path)).sum() / mask.sum() for mask in patches.masks]
        assert len(on_part) and min(on_part) > 0.2, "F looks at the part and at nothing else"


def test_features_are_split_photo_by_photo(colour_f: Classifier, source: PhotoFolder) -> None:
    extractor = planted.make_extractor()
    x, superpixels = planted.inputs(colour_f, source, extractor.segmenter, "val")
    superpixels[1] = superpixels[1].select(np.zeros(len(superpixels[1]), bool))
    found = extractor(colour_f, x, superpixels)
    parts = found.split(found.features.numpy())
    assert [len(p) for p in parts] == [len(p) for p in found.patches] and len(parts[1]) == 0
    alone = extractor(colour_f, x[2:3], superpixels[2:3])
    np.testing.assert_allclose(parts[2], alone.features, atol=1e-5)
    assert torch.equal(found.activations.logits.argmax(1), torch.tensor([p.label for p in source.photos("val")]))


def test_tau_out_of_range() -> None:
    with pytest.raises(VRXError, match=r"concepts\.attention\.tau=1\.5"):
        GradCAMAttention(1.5)
