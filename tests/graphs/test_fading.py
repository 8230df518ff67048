"""What F says without one patch and without two, against asking about each set alone."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from tests.classifier.test_responses import regions
from tests.classifier.toy import photos, toy
from vrx.classifier.responses import faded_logits
from vrx.graphs.fading import MOST_PATCHES, Fades, asked_in_pairs, fades
from vrx.structures import UNMATCHED, patch_pairs


@pytest.fixture(scope="module")
def found() -> list[Fades]:
    x = photos(4)
    asked = [np.array([3, 0, 1]), np.array([], np.int64)]
    return fades(toy(), x[:2], x[2:], "features.2", [regions(4, 1), torch.zeros(0, 16, 16)], asked)


def test_falls_and_pairs_are_differences_of_what_f_says(found: list[Fades]) -> None:
    x = photos(4)

    def value(gone: set[int]) -> torch.Tensor:
        chosen = torch.tensor([[k in gone for k in range(4)]])
        return faded_logits(toy(), x[:1], x[2:3], "features.2", [regions(4, 1)], [chosen])[0][0]

    first, chosen = found[0], {3, 0, 1}
    for i in range(4):
        torch.testing.assert_close(first.falls[i], value(set()) - value({i}))
    assert first.among.tolist() == [1, 2, UNMATCHED, 0]
    matrix = first.matrix
    assert torch.equal(matrix, matrix.transpose(1, 2)) and matrix.abs().sum() > 0
    for i, j in combinations(range(4), 2):
        both = torch.zeros(3)
        for others in (set(), chosen - {i, j}):  # gone
            both += value(others) - value(others | {i}) - value(others | {j}) + value(others | {i, j})
        known = {i, j} <= chosen
        torch.testing.assert_close(matrix[:, i, j], both / 2 if known else torch.zeros(3), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(first.alone, first.falls - matrix.sum(2).T)


def test_alone_and_pairs_add_up_where_no_three_count_together() -> None:
    """Then a patch alone is worth what it adds to nothing."""
    main, both = torch.tensor([1.0, -2.0, 0.5]), {(0, 1): 0.7, (0, 2): -0.3, (1, 2): 0.2}

    def value(here: set[int]) -> float:
        return sum(main[i].item() for i in here) + sum(v for pair, v in both.items() if here >= set(pair))

    whole = {0, 1, 2}
    falls = torch.tensor([[value(whole) - value(whole - {i})] for i in range(3)])
    pairs = torch.zeros(MOST_PATCHES * (MOST_PATCHES - 1) // 2, 1)
    for place, pair in enumerate(patch_pairs(MOST_PATCHES).T.tolist()):
        pairs[place] = both.get(tuple(pair), 0.0)
    torch.testing.assert_close(Fades(falls, pairs, torch.arange(3)).alone[:, 0], main)


def test_a_photo_without_patches_has_nothing(found: list[Fades]) -> None:
    nothing = found[1]
    assert nothing.falls.shape == (0, 3) and nothing.matrix.shape == (3, 0, 0) and not nothing.pairs.any()


def test_patches_of_the_predicted_class_are_asked_first_and_large_ones() -> None:
    matched = np.array([[0, UNMATCHED, 4], [1, 2, 3]])
    assert asked_in_pairs(matched, 0, np.array([0.1, 0.2, 0.5, 0.3, 0.4])).tolist() == [4, 0, 2, 3, 1]
    many = np.arange(2 * MOST_PATCHES)
    assert len(asked_in_pairs(many[None], 0, np.ones(len(many)))) == MOST_PATCHES
