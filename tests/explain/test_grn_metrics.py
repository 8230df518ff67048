"""PyTorch Geometric's metrics of the GRN's contributions against loops over photos and nodes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests import planted
from vrx.bank import ConceptBank
from vrx.data.images import PhotoFolder
from vrx.explain import grn_metrics as module
from vrx.explain.contributions import ContributionMethod, GradientTimesEmbedding, Knockout
from vrx.explain.grn_metrics import grn_metrics
from vrx.graphs.variants import shared_nodes
from vrx.models.grn import GRN
from vrx.structures import SCG


@pytest.fixture(scope="module")
def table(source: PhotoFolder, bank: ConceptBank, tmp_path_factory: pytest.TempPathFactory) -> Any:
    data = planted.make_data(source, bank, tmp_path_factory.mktemp("cache"), variants=0, rest=True)
    data.setup()
    return data.tables["train"]


@pytest.fixture(scope="module")
def grn(table: Any) -> GRN:
    torch.manual_seed(3)
    made = GRN(*table["nodes"].shape[1:], dropout=0.5)
    torch.nn.init.normal_(made.embedding.weight, std=0.3)  # predictions that masking changes
    return made


def by_hand(grn: GRN, table: Any, method: ContributionMethod, photos: list[int]) -> dict[str, float]:
    plus, minus, divergence, size = 0, 0, 0.0, 0.0
    for b in photos:
        scg = SCG(*(table[name][b : b + 1] for name in ("nodes", "centroids", "detected")))
        probabilities = grn(scg)[0].double().softmax(0)
        predicted = int(probabilities.argmax())
        shared = shared_nodes(table["drop"][b : b + 1], table["of_node"][b : b + 1])
        scores = method(grn, scg, shared)[0, predicted]
        speaks_for = torch.zeros_like(scg.detected)
        for g, k in scg.detected[0].nonzero().tolist():
            speaks_for[0, g, k] = scores[g, k] > 0
        alone = grn(scg.drop(~speaks_for))[0].double().softmax(0)
        plus += int(grn(scg.drop(speaks_for))[0].argmax()) != predicted
        minus += int(alone.argmax()) != predicted
        divergence += sum(float(q * math.log(q / p)) for q, p in zip(alone, probabilities, strict=True))
        size += int(speaks_for.sum()) / int(scg.detected.sum())
    count = len(photos)
    up, down = plus / count, minus / count
    return {
        "grn/fidelity_plus": up,
        "grn/fidelity_minus": down,
        "grn/characterization": 0.0 if up == 0 or down == 1 else 2 / (1 / up + 1 / (1 - down)),
        "grn/unfaithfulness": 1 - math.exp(-divergence / count),
        "grn/explanation_size": size / count,
    }


@pytest.mark.parametrize("method", [GradientTimesEmbedding(), Knockout()])
def test_metrics_against_loops(grn: GRN, table: Any, method: ContributionMethod) -> None:
    grn.train()
    found = grn_metrics(grn, table, method)
    assert grn.training and grn.dropout.training, "the GRN is explained in eval mode and left as it was"
    with torch.no_grad():
        expected = by_hand(grn.eval(), table, method, list(range(len(table["label"]))))
    assert found == pytest.approx(expected, abs=1e-5)
    assert found["grn/fidelity_plus"] > 0 and found["grn/unfaithfulness"] > 0 and 0 < found["grn/explanation_size"] < 1


def test_a_large_split_is_thinned_evenly(grn: GRN, table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PHOTOS", 3)
    with torch.no_grad():
        assert grn_metrics(grn, table, GradientTimesEmbedding()) == pytest.approx(
            by_hand(grn.eval(), table, GradientTimesEmbedding(), [0, 7, 14]), abs=1e-5
        )
