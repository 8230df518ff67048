"""Fidelity and faithfulness against loops over photos."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from tests import planted
from vrx.bank import ConceptBank
from vrx.data.images import PhotoFolder
from vrx.edits import Editor
from vrx.explain.explainer import METHODS
from vrx.explain.faithfulness import faithfulness, fidelity, mean_relations, measured_falls, own_scores, per_photo
from vrx.graphs.scg import BASELINES
from vrx.graphs.variants import shared_nodes
from vrx.models.grn import GRN
from vrx.scores import rank_agreement
from vrx.structures import SCG


@pytest.fixture(scope="module")
def data(source: PhotoFolder, bank: ConceptBank, tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = planted.make_data(
        source, bank, tmp_path_factory.mktemp("cache"), second_editor=Editor("grey"), variants=0, rest=True
    )
    made.setup()
    return made


@pytest.fixture(scope="module")
def grn(data: Any) -> GRN:
    torch.manual_seed(0)
    return GRN(3, data.builder.num_nodes, data.builder.node_features).eval()


def test_measured_falls_against_a_loop(data: Any) -> None:
    table = data.tables["test"]
    falls = measured_falls(table)
    for b in range(len(table["label"])):
        for c in range(3):
            for k in range(4):
                v = int(table["of_node"][b, c, k])
                if v < 0:
                    assert falls[b, c, k].isnan()
                    continue
                clean, edited = (
                    float(z[c] - torch.cat([z[:c], z[c + 1 :]]).logsumexp(0))
                    for z in (table["logits"][b].double(), table["masked_logits"][b, v].double())
                )
                assert float(falls[b, c, k]) == pytest.approx(clean - edited, abs=1e-4)
    assert (falls[..., -1].isnan()).all(), "the rest is never edited away"


def test_mean_relations_against_a_loop(data: Any, grn: GRN) -> None:
    """One photo at a time, one class at a time: gradient times embedding of each edge."""
    table, sums = data.tables["test"], dict[tuple[int, int, int], list[float]]()
    for b in range(len(table["label"])):
        scg = SCG.of(table, [b])
        nodes, links = grn.embed(scg)
        links = links.detach().requires_grad_()
        for c in range(3):
            (slope,) = torch.autograd.grad(grn.read_out(nodes.detach(), links)[0, c], links)
            for e, (j, i) in enumerate(grn.edge_index.T.tolist()):
                if scg.detected[0, c, j] and scg.detected[0, c, i] and max(i, j) < 4:
                    value = float((slope * links.detach())[0, c, e].sum())
                    sums.setdefault((c, i, j), []).append(value)
    found = mean_relations(grn, table, 4)
    assert found.shape == (3, 4, 4) and np.isfinite(found).sum() == len(sums) > 0
    for place, values in sums.items():
        assert found[place] == pytest.approx(np.mean(values), abs=1e-5)


def test_shared_nodes_against_a_loop(data: Any) -> None:
    table = data.tables["test"]
    shared = shared_nodes(table["drop"], table["of_node"])
    for b, c, k in np.ndindex(*table["of_node"].shape):
        v = int(table["of_node"][b, c, k])
        expected = table["drop"][b, v] if v >= 0 else torch.zeros(3, 4, dtype=torch.bool)
        assert torch.equal(shared[b, c, k], expected)


@pytest.mark.parametrize("method", ["knockout", "gradient"])
def test_own_scores_are_the_diagonal_of_the_contributions(data: Any, grn: GRN, method: str) -> None:
    table = data.tables["test"]
    scores = own_scores(grn, table, METHODS[method], batch_size=3)
    for b in range(len(table["label"])):
        scg = SCG(table["nodes"][b : b + 1], table["centroids"][b : b + 1], table["detected"][b : b + 1])
        shared = shared_nodes(table["drop"][b : b + 1], table["of_node"][b : b + 1])
        nodes = METHODS[method](grn, scg, shared)
        for c in range(3):
            torch.testing.assert_close(scores[b, c], nodes[0, c, c], atol=1e-5, rtol=1e-4)


def spearmans_slowly(scores: torch.Tensor, table: Any, falls: torch.Tensor) -> list[float]:
    out = []
    for b in range(len(table["label"])):
        c = int(table["logits"][b].argmax())
        nodes = [k for k in range(4) if table["of_node"][b, c, k] >= 0]
        ours, truth = [float(scores[b, c, k]) for k in nodes], [float(falls[b, c, k]) for k in nodes]
        if len(nodes) < 3:
            out.append(math.nan)
        elif len(set(ours)) == 1 or len(set(truth)) == 1:
            out.append(0.0)
        else:
            out.append(float(np.corrcoef(stats.rankdata(ours), stats.rankdata(truth))[0, 1]))
    return out


def test_faithfulness_against_loops(data: Any, grn: GRN) -> None:
    table = data.tables["test"]
    falls = measured_falls(table)
    result = faithfulness(grn, table, METHODS, "knockout", seed=3)
    ours = np.array(spearmans_slowly(own_scores(grn, table, METHODS["knockout"]), table, falls))
    counted = ~np.isnan(ours)
    assert result["faithfulness/photos"] == counted.sum() >= 3
    assert result["faithfulness/spearman"] == pytest.approx(ours[counted].mean())
    assert result["faithfulness/spearman_method_knockout"] == result["faithfulness/spearman"]
    for i, name in enumerate(BASELINES):
        baseline = np.array(spearmans_slowly(table["baselines"][..., i], table, falls))
        assert result[f"faithfulness/spearman_{name}"] == pytest.approx(baseline[counted].mean())
        difference = (ours - baseline)[counted]
        expected = stats.wilcoxon(difference, alternative="greater").pvalue if (difference != 0).any() else 1.0
        assert result[f"faithfulness/p_above_{name}"] == pytest.approx(expected)
    ceiling = np.array(spearmans_slowly(measured_falls(table, "second_logits"), table, falls))
    assert result["faithfulness/ceiling"] == pytest.approx(ceiling[counted].mean())
    without = {name: value for name, value in table.items() if name != "second_logits"}
    assert "faithfulness/ceiling" not in faithfulness(grn, without, METHODS, "knockout")


def test_perfect_and_reversed_scores(data: Any) -> None:
    table = data.tables["test"]
    falls = measured_falls(table)
    assert np.nanmax(np.abs(per_photo(falls, falls, table) - 1)) < 1e-9
    assert np.nanmax(np.abs(per_photo(-falls, falls, table) + 1)) < 1e-9


def test_rank_agreement_by_hand() -> None:
    assert rank_agreement(np.array([1.0, 2, 3]), np.array([10.0, 20, 15])) == pytest.approx(0.5)
    assert math.isnan(rank_agreement(np.array([1.0, 2]), np.array([1.0, 2])))
    assert rank_agreement(np.array([1.0, 1, 1]), np.array([1.0, 2, 3])) == 0.0


def test_fidelity_against_loops(data: Any, grn: GRN) -> None:
    table = data.tables["val"]
    result = fidelity(grn, table, batch_size=4)
    clean, masked = [], []
    with torch.no_grad():
        for b in range(len(table["label"])):
            scg = SCG(*(table[k][b : b + 1] for k in ("nodes", "centroids", "detected")))
            clean.append((grn(scg)[0], table["logits"][b]))
            for v in range(table["valid"].shape[1]):
                if table["valid"][b, v]:
                    edited = scg.drop(table["drop"][b : b + 1, v])
                    masked.append((grn(edited)[0], table["masked_logits"][b, v]))
    for suffix, pairs in (("", clean), ("_masked", masked)):
        agree = np.mean([int(a.argmax()) == int(t.argmax()) for a, t in pairs])
        l1 = np.mean([float((a.softmax(0) - t.softmax(0)).abs().sum()) for a, t in pairs])
        assert result[f"fidelity/agreement{suffix}"] == pytest.approx(agree)
        assert result[f"fidelity/l1{suffix}"] == pytest.approx(l1, abs=1e-5)


def test_what_stands_in_for_the_classifier_against_loops(data: Any, grn: GRN) -> None:
    table = data.tables["val"]
    result = fidelity(grn, table, batch_size=4)
    falls: list[tuple[float, float]] = []
    with torch.no_grad():
        for b, v in table["valid"].nonzero().tolist():
            scg = SCG.of(table, slice(b, b + 1))
            ours = grn(scg)[0] - grn(scg.drop(table["drop"][b : b + 1, v]))[0]
            theirs, c = table["logits"][b] - table["masked_logits"][b, v], int(table["logits"][b].argmax())
            falls.append((float(ours[c] - ours.mean()), float(theirs[c] - theirs.mean())))
    expected, measured = np.array(falls).T
    r2 = 1 - ((measured - expected) ** 2).sum() / ((measured - measured.mean()) ** 2).sum()
    assert result["surrogate/r2"] == pytest.approx(r2, rel=1e-4)
    assert result["surrogate/emd"] == pytest.approx(result["fidelity/l1"] / 2)
    assert -1 <= result["surrogate/rank"] <= 1
