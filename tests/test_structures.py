"""Patches, graphs, the concept bank and explanations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vrx.bank import ConceptBank
from vrx.errors import VRXError
from vrx.explanation import Explanation
from vrx.structures import EPSILON, NEUTRAL, SCG, UNMATCHED, Patches, edges


def some_patches(height: int = 13, width: int = 17) -> Patches:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 4, (height, width))
    fine = rng.integers(4, 11, (height, width))
    return Patches(np.stack([coarse, fine]).astype(np.int16), np.array([0, 3, 5, 10]))


def test_masks_are_the_pixels_of_each_label() -> None:
    patches = some_patches()
    for mask, label in zip(patches.masks, patches.ids, strict=True):
        for y in range(13):
            for x in range(17):
                assert mask[y, x] == (label in patches.labels[:, y, x])


@pytest.mark.parametrize("grid", [(1, 1), (4, 4), (5, 3), (13, 17)])
def test_cell_counts_and_shares_against_pixels_one_by_one(grid: tuple[int, int]) -> None:
    patches, (rows, columns) = some_patches(), grid
    counts, size = np.zeros((4, rows, columns)), np.zeros((rows, columns))
    for y in range(13):
        for x in range(17):
            cell = (y * rows // 13, x * columns // 17)
            size[cell] += 1
            counts[:, *cell] += patches.masks[:, y, x]
    assert np.array_equal(patches.cell_counts(rows, columns), counts.reshape(4, -1))
    np.testing.assert_allclose(patches.cell_shares(rows, columns), (counts / size).reshape(4, -1), rtol=1e-6)


def test_areas_centroids_and_means_against_masks() -> None:
    patches = some_patches()
    values = np.random.default_rng(1).normal(size=(13, 17))
    for k, mask in enumerate(patches.masks):
        y, x = np.nonzero(mask)
        assert patches.areas[k] == pytest.approx(mask.mean())
        assert patches.centroids[k] == pytest.approx([(x + 0.5).mean() / 17, (y + 0.5).mean() / 13], rel=1e-5)
        assert patches.mean_of(values)[k] == pytest.approx(values[mask].mean())


def test_select_keeps_order_and_no_patch_is_allowed() -> None:
    patches = some_patches()
    assert patches.select(np.array([2, 0])).ids.tolist() == [5, 0]
    assert patches.select(np.array([False, True, False, True])).ids.tolist() == [3, 10]
    none = patches.select(np.zeros(4, bool))
    assert (len(none), none.masks.shape, none.areas.shape) == (0, (0, 13, 17), (0,))
    assert (none.centroids.shape, none.cell_shares(2, 2).shape) == ((0, 2), (0, 4))


def test_patches_check_their_shapes() -> None:
    with pytest.raises(ValueError, match="labels"):
        Patches(np.zeros((3, 3), np.int16), np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="ids"):
        Patches(np.zeros((1, 3, 3), np.int16), np.zeros((1, 1), np.int64))


def test_edges_are_all_ordered_pairs() -> None:
    assert edges(3).T.tolist() == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]
    assert edges(1).shape == (2, 0)


def test_drop_makes_dummies_of_the_given_nodes_and_touches_no_other() -> None:
    graph = SCG(torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 2), torch.rand(2, 3, 4) < 0.7)
    gone = torch.rand(2, 3, 4) < 0.5
    after = graph.drop(gone)
    assert (after.nodes[gone] == EPSILON).all() and (after.centroids[gone] == NEUTRAL).all()
    assert not after.detected[gone].any()
    for name in ("nodes", "centroids", "detected"):
        assert torch.equal(getattr(after, name)[~gone], getattr(graph, name)[~gone])


def test_graphs_check_their_shapes_and_stack() -> None:
    one = SCG(torch.rand(3, 4, 5), torch.rand(3, 4, 2), torch.ones(3, 4, dtype=torch.bool))
    assert SCG.stack([one, one]).nodes.shape == (2, 3, 4, 5)
    with pytest.raises(ValueError, match=r"detected must start with"):
        SCG(one.nodes, one.centroids, one.detected[:, :3])
    with pytest.raises(ValueError, match="nodes must"):
        SCG(torch.rand(4, 5), torch.rand(4, 2), torch.ones(4, dtype=torch.bool))


def some_bank() -> ConceptBank:
    rng = np.random.default_rng(3)
    return ConceptBank(
        ("a", "b"),
        rng.normal(size=(2, 3, 7)).astype(np.float32),
        np.array([[0.5, 0.4, 0.3], [0.5, 0.4, -1]], np.float32),
        rng.normal(size=(2, 3)).astype(np.float32),
        rng.random((2, 3)).astype(np.float32),
        rng.integers(0, 255, (2, 3, 2, 8, 8, 3), dtype=np.uint8),
        [[["p.png", ""]] * 3] * 2,
        {"classifier": "f", "deep": {"x": [1, 2]}},
    )


def test_bank_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    bank = some_bank()
    bank.save(tmp_path / "bank")
    again = ConceptBank.load(tmp_path / "bank")
    for name in ("centroids", "radius", "importance", "p_value", "exemplars"):
        np.testing.assert_array_equal(getattr(again, name), getattr(bank, name))
        assert getattr(again, name).dtype == getattr(bank, name).dtype
    assert (again.class_names, again.exemplar_paths, again.settings) == (("a", "b"), bank.exemplar_paths, bank.settings)
    assert again.digest == bank.digest and not list((tmp_path / "bank").glob("*.part"))
    assert bank.present.tolist() == [[True] * 3, [True, True, False]]


def test_bank_of_some_classes_has_all_that_is_theirs_under_their_new_number() -> None:
    cutouts = {
        f"{c}.{k}.{e}": np.full((2, 2, 4), 100 * c + 10 * k + e, np.uint8)
        for c in (0, 1)
        for k in (0, 2)
        for e in (0, 1)
    }
    more = {"names": [["x", "", ""], ["", "y", ""]], "featureless": {"grey": [0.9, 0.1]}, "cutouts": cutouts}
    bank = replace(some_bank(), **more, state={"word": np.array([[0, 1, 2], [3, 4, -1]]), "scale": np.arange(9)})  # type: ignore[arg-type]
    assert bank.of(("a", "b")) is bank
    swapped = bank.of(["b", "a"])
    assert swapped.class_names == ("b", "a") and swapped.names == [["", "y", ""], ["x", "", ""]]
    for name in ("centroids", "radius", "importance", "p_value", "exemplars"):
        np.testing.assert_array_equal(getattr(swapped, name), getattr(bank, name)[::-1])
    assert swapped.state["word"].tolist() == [[3, 4, -1], [0, 1, 2]] and len(swapped.state["scale"]) == 9
    assert swapped.featureless == {"grey": [0.1, 0.9]} and (bank.fallback, swapped.fallback) == (0, 1)
    alone = bank.of(["b"])
    assert {name: int(v.flat[0]) for name, v in alone.cutouts.items()} == {
        "0.0.0": 100,
        "0.0.1": 101,
        "0.2.0": 120,
        "0.2.1": 121,
    }
    assert alone.of(["b"]) is alone


def test_bank_digest_changes_with_what_decides_detection() -> None:
    bank = some_bank()
    assert replace(bank, radius=bank.radius * 2).digest != bank.digest
    assert replace(bank, centroids=-bank.centroids).digest != bank.digest
    assert replace(bank, class_names=("b", "a")).digest != bank.digest
    assert replace(bank, importance=bank.importance + 1).digest == bank.digest


def test_missing_or_damaged_bank_is_named(tmp_path: Path) -> None:
    with pytest.raises(VRXError, match="No concept bank in"):
        ConceptBank.load(tmp_path)
    some_bank().save(tmp_path)
    for name in ("bank.safetensors", "bank.json"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(VRXError, match="damaged"):
            ConceptBank.load(tmp_path)
        (tmp_path / name).write_bytes(whole)
    whole = (tmp_path / "bank.safetensors").read_bytes()
    bank = some_bank()
    replace(bank, radius=bank.radius * 2).save(tmp_path / "other")
    (tmp_path / "bank.safetensors").write_bytes((tmp_path / "other" / "bank.safetensors").read_bytes())
    with pytest.raises(VRXError, match="do not belong"):
        ConceptBank.load(tmp_path)
    (tmp_path / "bank.safetensors").write_bytes(whole)
    assert ConceptBank.load(tmp_path).digest == bank.digest


def test_bank_checks_its_shapes() -> None:
    bank = some_bank()
    with pytest.raises(ValueError, match="radius"):
        replace(bank, radius=bank.radius[:, :2])
    with pytest.raises(ValueError, match="centroids"):
        replace(bank, centroids=bank.centroids[0, 0])


def some_explanation() -> Explanation:
    n, num = 2, 3
    return Explanation(
        image=np.zeros((6, 8, 3), np.uint8),
        x=torch.zeros(3, 6, 8),
        name="photo.png",
        class_names=("a", "b"),
        logits=np.log([0.2, 0.8]),
        grn_logits=np.log([0.3, 0.7]),
        node_scores=np.ones((n, n, num), np.float32),
        edge_scores=np.ones((n, n, num * (num - 1)), np.float32),
        matched=np.array([[1, 2, 3], [1, 4, UNMATCHED]]),
        centroids=np.full((n, num, 2), 0.5, np.float32),
        superpixels=Patches(np.repeat(np.arange(1, 7), 8).reshape(1, 6, 8).astype(np.int16), np.arange(1, 7)),
        attended=np.arange(1, 5),
        measured=np.array([[1, np.nan, 2], [0, 0, np.inf]], np.float32),
    )


def test_explanation_writes_strict_json_without_pixels() -> None:
    explanation = some_explanation()
    text = explanation.to_json()
    content = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    assert content["predicted"] == "b" and content["trust"] is None
    assert content["measured"] == [[1.0, None, 2.0], [0.0, 0.0, None]]
    assert content["edges"] == edges(3).T.tolist()
    assert content["probabilities"] == pytest.approx([0.2, 0.8]) and content["detected"][1] == [True, True, False]
    assert not {"image", "x", "superpixels"} & set(content)


def test_masks_are_the_pixels_of_the_matched_superpixels() -> None:
    explanation = some_explanation()
    assert [np.flatnonzero(explanation.mask(1, k).all(1)).tolist() for k in range(3)] == [[0], [3], []]
    assert explanation.margin(1) == pytest.approx(np.log(0.8 / 0.2))


@pytest.mark.parametrize("name", ["node_scores", "edge_scores", "measured", "superpixels", "centroids", "logits"])
def test_explanation_checks_its_shapes(name: str) -> None:
    explanation = some_explanation()
    few = np.ones((1, 3, 8), np.int16), np.ones(1, int)
    with pytest.raises(ValueError, match=name):
        replace(explanation, **{name: Patches(*few) if name == "superpixels" else getattr(explanation, name)[:1]})
