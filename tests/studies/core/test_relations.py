"""What each concept of a class has to do with relations, counted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.studies.planted import PlantedExplainer
from vrx.explanation import Counterfactual, Relations
from vrx.studies.core.relations import by_concept, sums


def test_each_concept_gets_the_relations_of_its_patch() -> None:
    before = PlantedExplainer().explain_input(torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert sums(before, 0) == (pytest.approx(before.node_scores[0, 0].sum()), 0.0)  # relations were not asked for
    labels = np.array([2, 0, 9])  # quarters 2 and 0, and a patch that shows no concept of the class
    pairs = np.array([[0, 1, 5], [1, 0, 7], [5, 7, 0]], float)[..., None] * [1, -1]
    placed = np.array([[np.nan, 2, np.nan], [3, np.nan, np.nan], [4, 6, np.nan]])[..., None] * [1, -1]
    main, nothing = np.array([[10.0, -10], [20, -20], [40, -40]]), np.zeros((3, 3, 2))
    relations = Relations(
        labels, main, main, pairs, nothing, placed, nothing, main, nothing, nothing, main, np.zeros(2)
    )
    gains = [Counterfactual(0, 3, 1, (0, 0), np.array([gain, 0]), np.zeros(2), np.zeros(2)) for gain in (1.5, 0.5, -1)]
    found = by_concept(replace(before, relations=relations, counterfactuals=tuple(gains)), 0)
    np.testing.assert_allclose(found["nodes"], before.node_scores[0, 0])
    assert found["together"].tolist() == [1, 0, 1, 0]
    assert found["placement"].tolist() == [2 + 3, 0, 3 + 2, 0]  # of the other because of it, and of it
    assert found["elsewhere"].tolist() == [0, 0, 0, -1.5]
    np.testing.assert_allclose(found["all"], before.node_scores[0, 0] + [1 + 5, 0, 1 + 5, -1.5])
    assert sums(replace(before, relations=relations), 0) == (30, 1)  # of the two that show concepts of the class
