"""What is normal for a class against loops over its photos; concepts added and put right, by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vrx.errors import VRXError
from vrx.explain.absence import ALIKE, ALONG, EXAMPLES, LEAST_SEEN, SHRINKAGE, Addition, Typical, densest
from vrx.structures import EPSILON, NEUTRAL, SCG, edges

N, NUM, WIDTH, LINKS, PHOTOS = 2, 3, 4, 2, 24


def table(seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    lead = (PHOTOS, N, NUM)
    whole = SCG(
        torch.randn(*lead, WIDTH, generator=g),
        torch.rand(*lead, 2, generator=g),
        torch.ones(lead, dtype=torch.bool),
        torch.randn(PHOTOS, N, NUM * (NUM - 1), LINKS, generator=g),
    )
    missing = torch.rand(lead, generator=g) < 0.3
    missing[:, 1, 2] = True  # nobody ever saw it
    scg = whole.drop(missing)
    of_node = torch.where(scg.detected, torch.arange(N * NUM).reshape(1, N, NUM), -1)
    drop = torch.eye(N * NUM, dtype=torch.bool).reshape(1, N * NUM, N, NUM).repeat(PHOTOS, 1, 1, 1)
    drop[:, 0, 1, 0] = torch.rand(PHOTOS, generator=g) < 0.8  # node (1, 0) mostly comes with node (0, 0)
    labels = torch.arange(PHOTOS) % N
    logits = torch.nn.functional.one_hot(labels, N).float()
    logits[0] = logits[0].flip(0)  # a photo that the classifier gets wrong
    parts = {"nodes": scg.nodes, "centroids": scg.centroids, "detected": scg.detected, "links": scg.links}
    return parts | {"label": labels, "logits": logits, "drop": drop, "of_node": of_node}


def test_typical_values_against_loops() -> None:
    rows = table()
    typical = Typical.of(rows, NUM, N)
    j, i = edges(NUM).tolist()
    for c in range(N):
        photos = [p for p in range(PHOTOS) if rows["label"][p] == c and p != 0]
        for g in range(N):
            for k in range(NUM):
                seen = [p for p in photos if rows["detected"][p, g, k]]
                assert bool(typical.known[c, g, k]) == (len(seen) >= LEAST_SEEN)
                if seen:
                    torch.testing.assert_close(typical.nodes[c, g, k], rows["nodes"][seen, g, k].mean(0))
            for e, (a, b) in enumerate(zip(j, i, strict=True)):
                both = [p for p in photos if rows["detected"][p, g, a] and rows["detected"][p, g, b]]
                if both:
                    torch.testing.assert_close(typical.links[c, g, e], rows["links"][both, g, e].mean(0))
        for k in range(NUM):
            for other in range(NUM):
                both = [p for p in photos if rows["detected"][p, c, k] and rows["detected"][p, c, other]]
                got = typical.offsets[c, k, other]
                if len(both) < LEAST_SEEN:
                    assert got.isnan().all()
                    continue
                ways = rows["centroids"][both, c, k] - rows["centroids"][both, c, other]
                chosen = [int(m * len(both) / EXAMPLES) for m in range(EXAMPLES)]
                torch.testing.assert_close(got, ways[chosen])
    assert bool(typical.along[0, 0, 1, 0]) and ALONG == 0.5 and not typical.along[0, 1, 1, 0]


def test_a_concept_is_added_where_it_belongs() -> None:
    typical = Typical.of(table(), NUM, N)
    scg = SCG.of(table(1))[0]
    gone = torch.zeros(N, NUM, dtype=torch.bool)
    gone[0, 0] = gone[1, 0] = True
    scg = SCG(scg.nodes, scg.centroids, torch.ones_like(scg.detected), scg.links).drop(gone)
    place = typical.place(scg, 0, 0)
    ways = [
        scg.centroids[0, k] + way for k in range(1, NUM) for way in typical.offsets[0, 0, k] if not way.isnan().any()
    ]
    np.testing.assert_allclose(place, densest_slowly(ways).clip(0, 1), rtol=1e-5)
    added = typical.added(scg, 0, 0, place)
    assert added.detected[0, 0] and added.detected[1, 0], "and what comes with it"
    torch.testing.assert_close(added.nodes[0, 0], typical.nodes[0, 0, 0])
    torch.testing.assert_close(added.centroids[1, 0], place)
    assert torch.equal(added.nodes[0, 1:], scg.nodes[0, 1:])
    j, i = edges(NUM)
    fresh = (j == 0) | (i == 0)
    torch.testing.assert_close(added.links[0, fresh], typical.links[0, 0, fresh])
    assert torch.equal(added.links[0, ~fresh], scg.links[0, ~fresh])
    lonely = scg.drop(torch.ones_like(gone))
    torch.testing.assert_close(typical.place(lonely, 0, 0), typical.places[0, 0])


def densest_slowly(points: list[Tensor]) -> np.ndarray:
    """The kernel-weighted mean around the point with the largest kernel density."""
    places = np.array([p.tolist() for p in points])
    kernel = [[math.exp(-(math.dist(p, q) ** 2) / (2 * ALIKE**2)) for q in places] for p in places]
    weight = np.array(max(kernel, key=sum))
    return (weight[:, None] * places).sum(0) / weight.sum()


def test_what_lies_left_or_right_belongs_to_one_side_not_between() -> None:
    generator = torch.Generator().manual_seed(0)
    side = torch.where(torch.arange(16) < 9, -0.3, 0.3)
    points = torch.stack([side, torch.zeros(16)], 1) + 0.01 * torch.randn(16, 2, generator=generator)
    place = densest(points)
    np.testing.assert_allclose(place, [-0.3, 0], atol=0.02)  # the median of both sides is near it only by chance
    np.testing.assert_allclose(place, densest_slowly(list(points)), atol=1e-6)
    assert densest(points.masked_fill(torch.ones(16, 1, dtype=torch.bool), torch.nan)).isnan().all()


def test_a_concept_lies_elsewhere_where_it_lies_far_from_most_examples() -> None:
    typical = Typical.of(table(), NUM, N)
    typical.offsets[0, 1, 0] = torch.tensor([[-0.3, 0.0]] * (EXAMPLES - 3) + [[0.3, 0.0]] * 3)
    scg = SCG.of(table(1))[0]

    def at(x: float) -> Tensor | None:
        places = scg.centroids.clone()
        places[0, 0], places[0, 1] = torch.tensor([0.5, 0.5]), torch.tensor([x, 0.5])
        return typical.elsewhere(scg.move(places), 0, 1, 0)

    assert at(0.2) is None and at(0.25) is None
    for x in (0.27, 0.5, 0.8):
        torch.testing.assert_close(at(x), torch.tensor([0.2, 0.5]))
    typical.offsets[0, 1, 0] = torch.nan
    assert at(0.5) is None, "too few photos show both"


def test_what_is_put_right_keeps_what_it_shows() -> None:
    typical = Typical.of(table(), NUM, N)
    scg = SCG.of(table(1))[0]
    scg = SCG(scg.nodes, scg.centroids, torch.ones_like(scg.detected), scg.links)
    right = typical.put_right(scg, 0, 1, torch.tensor([0.1, 0.9]))
    assert torch.equal(right.nodes, scg.nodes) and torch.equal(right.detected, scg.detected)
    torch.testing.assert_close(right.centroids[0, 1], torch.tensor([0.1, 0.9]))
    assert torch.equal(right.centroids[0, 0], scg.centroids[0, 0]) and NEUTRAL == 0.5 and EPSILON < 0.01


def test_a_class_that_the_classifier_never_gets_right_has_nothing_typical() -> None:
    rows = table()
    rows["logits"][rows["label"] == 1] = torch.tensor([1.0, 0.0])
    typical = Typical.of(rows, NUM, N)
    assert not typical.known[1].any() and typical.offsets[1].isnan().all()
    assert (typical.places[1] == NEUTRAL).all() and typical.known[0].any()


def test_it_is_kept_in_a_file(tmp_path: Path) -> None:
    typical = Typical.of(table(), NUM, N)
    typical.save(tmp_path / "typical.safetensors")
    again = Typical.load(tmp_path / "typical.safetensors")
    torch.testing.assert_close(again.offsets, typical.offsets, equal_nan=True)
    assert torch.equal(again.along, typical.along)
    tensors = load_file(tmp_path / "typical.safetensors")
    of_another_version = tensors | {"offsets": tensors["offsets"][..., 0, :].contiguous()}
    save_file(of_another_version, tmp_path / "old.safetensors")
    with pytest.raises(VRXError, match=r"offsets.*rerun train\.py"):
        Typical.load(tmp_path / "old.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(VRXError, match=r"rerun train\.py"):
        Typical.load(tmp_path / "bad.safetensors")


def planted_additions(typical: Typical, slopes: tuple[Tensor, Tensor], intercepts: Tensor) -> list[Addition]:
    """Concepts added to made-up photos: gains are exactly linear, with an intercept per concept and class."""
    g = torch.Generator().manual_seed(1)
    found = []
    for row in range(60):
        graph, concept = row % N, (row // N) % (NUM - 1)  # the last concept is never added
        evidence = torch.randn(N, 2, generator=g).double()
        slope = torch.stack([slopes[0] if c == graph else slopes[1] for c in range(N)])
        gains = intercepts[graph, concept] + (evidence * slope).sum(1)
        found.append(Addition(graph, concept, evidence[:, 0], evidence[:, 1], gains))
    return found


def test_calibrated_gains_find_planted_slopes_and_intercepts() -> None:
    typical = Typical.of(table(), NUM, N)
    slopes = (torch.tensor([-0.4, 2.0]).double(), torch.tensor([0.3, 0.5]).double())
    intercepts = torch.randn(N, NUM, N, generator=torch.Generator().manual_seed(2)).double()
    rows = planted_additions(typical, slopes, intercepts)
    found = typical.calibrated(rows)
    torch.testing.assert_close(found.slopes.double(), torch.stack(slopes), atol=1e-3, rtol=0)
    for graph in range(N):
        for c in range(N):
            same = [a for a in rows if (a.graph == c) == (graph == c)]
            left = [
                float(intercepts[a.graph, a.concept, k])
                for a in rows
                for k in range(N)
                if (a.graph == k) == (graph == c)
            ]
            usual = sum(left) / len(left)
            assert same
            for concept in range(NUM):
                mine = [a for a in rows if (a.graph, a.concept) == (graph, concept)]
                expected = (len(mine) * float(intercepts[graph, concept, c]) + SHRINKAGE * usual) / (
                    len(mine) + SHRINKAGE
                )
                assert float(found.gains[graph, concept, c]) == pytest.approx(expected, abs=2e-3)


def test_what_is_expected_of_an_addition_is_near_what_was_planted_and_the_grns_gain_before() -> None:
    typical = Typical.of(table(), NUM, N)
    slopes = (torch.tensor([-0.4, 2.0]).double(), torch.tensor([0.3, 0.5]).double())
    intercepts = torch.full((N, NUM, N), 1.5).double()
    rows = planted_additions(typical, slopes, intercepts)
    for addition in rows[:6]:
        torch.testing.assert_close(typical.expected(addition), addition.predicted.float())
        torch.testing.assert_close(
            typical.calibrated(rows).expected(addition), addition.measured.float(), atol=1e-2, rtol=0
        )
    assert typical.calibrated([]) is typical
