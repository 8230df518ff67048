"""Explaining an edited photo with the patches and concepts of the clean one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests import planted
from tests.explain.test_explainer import make_explainer
from vrx.data.images import PhotoFolder
from vrx.explain.explainer import Explainer, relocated
from vrx.explanation import Explanation
from vrx.graphs.scg import SCGBuilder
from vrx.scores import margins
from vrx.structures import UNMATCHED

COMPARED = ("image", "logits", "grn_logits", "node_scores", "edge_scores", "matched", "centroids")


@pytest.fixture(scope="module")
def explainer(builder: SCGBuilder) -> Explainer:
    return make_explainer(builder)


@pytest.fixture(scope="module")
def explained(explainer: Explainer, source: PhotoFolder) -> list[Explanation]:
    photos = source.photos("test")[::4]
    return [explainer.explain_input(explainer.read(source.read(p)), name=p.path, true_class=p.label) for p in photos]


def test_following_an_unedited_photo_is_explaining_it(explainer: Explainer, explained: list[Explanation]) -> None:
    for before in explained:
        after = explainer.follow(before, before.x)
        for name in COMPARED:
            np.testing.assert_allclose(getattr(after, name), getattr(before, name), atol=1e-4, err_msg=name)
        assert after.name == before.name and np.isnan(after.measured).all()
        for c, k in np.ndindex(*before.detected.shape):
            np.testing.assert_array_equal(after.mask(c, k), before.mask(c, k))


def own_concept(before: Explanation) -> tuple[int, int]:
    """A detected concept of the photo's class; its first if it is detected."""
    label = before.true_class
    assert label is not None
    return label, int(np.flatnonzero(before.detected[label])[0])


def slow_node_scores(explainer: Explainer, after: Explanation) -> NDArray[np.float64]:
    """Knockouts one by one: a node goes together with all nodes of which its patch covers half."""
    patches = relocated(after, {})
    ids = patches.ids.tolist()
    matched = np.array([[ids.index(m) if m in ids else UNMATCHED for m in row] for row in after.matched.tolist()])
    scg = explainer.builder.rebuild(after.x[None], [patches], matched[None]).scg
    clean = margins(explainer.grn(scg).double())[0]
    scores = np.zeros_like(after.node_scores)
    for g, k in np.argwhere(after.detected).tolist():
        gone = torch.zeros_like(scg.detected)
        for h, m in np.argwhere(after.detected).tolist():
            theirs = after.mask(h, m)
            gone[0, h, m] = bool(2 * (theirs & after.mask(g, k)).sum() >= theirs.sum())
        scores[:, g, k] = clean - margins(explainer.grn(scg.drop(gone)).double())[0]
    return scores


def test_after_an_edit_the_contributions_are_those_of_the_edited_photo(
    explainer: Explainer, explained: list[Explanation]
) -> None:
    for before in explained:
        mask = torch.from_numpy(before.mask(*own_concept(before)))[None]
        x = explainer.editor.delete(before.x[None], mask)[0]
        after = explainer.follow(before, x)
        np.testing.assert_array_equal(after.matched, before.matched)
        np.testing.assert_allclose(after.logits, explainer.logits(x[None])[0], atol=1e-4)
        np.testing.assert_array_equal(after.image, explainer.pixels(x))
        with torch.inference_mode():
            np.testing.assert_allclose(after.node_scores, slow_node_scores(explainer, after), atol=1e-4)
        assert not np.allclose(after.node_scores, before.node_scores, atol=1e-3)


def test_a_moved_patch_takes_its_concepts_along(explainer: Explainer, explained: list[Explanation]) -> None:
    place = np.zeros((planted.SIDE, planted.SIDE), bool)
    place[40:60, 2:12] = True
    for before in explained:
        label = int(before.matched[own_concept(before)])
        after = explainer.follow(before, before.x, {label: place})
        for c, k in np.argwhere(before.detected).tolist():
            own = before.matched[c, k] == label
            np.testing.assert_array_equal(after.mask(c, k), place if own else before.mask(c, k))
            expected = (np.array([7, 50]) / planted.SIDE) if own else before.centroids[c, k]
            np.testing.assert_allclose(after.centroids[c, k], expected, atol=1e-6)
        with torch.inference_mode():
            np.testing.assert_allclose(after.node_scores, slow_node_scores(explainer, after), atol=1e-4)


def test_relocated_patches_are_those_of_the_found_concepts(explained: list[Explanation]) -> None:
    before = explained[0]
    label = int(before.matched[own_concept(before)])
    place = np.zeros(before.superpixels.shape, bool)
    place[:5, :5] = True
    patches = relocated(before, {label: place})
    assert set(patches.ids.tolist()) == set(before.matched[before.detected].tolist())
    for one, mask in zip(patches.ids.tolist(), patches.masks, strict=True):
        np.testing.assert_array_equal(mask, place if one == label else before.label_mask(one))
