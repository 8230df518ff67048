"""Does a contribution say what F leans on? Rank agreement with the measured effect of deleting each concept."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vrx.explain.contributions import ContributionMethod, edge_contributions
from vrx.explain.grn_metrics import grn_metrics
from vrx.graphs.scg import BASELINES
from vrx.graphs.variants import Variants, drop_all, measured_effects, shared_nodes
from vrx.models.graph_network import GraphNetwork
from vrx.scores import above_p_value, centred, finite_mean, rank_agreement
from vrx.structures import SCG

Table = Mapping[str, Tensor]
"""All graphs of a split, as the cache holds them."""


def own_scores(grn: GraphNetwork, table: Table, method: ContributionMethod, batch_size: int = 64) -> Tensor:
    """Contribution of each node to the class of its own graph, ``[P, n, N]``, for all P photos of a split."""
    parts = []
    n = table["logits"].shape[1]
    own = torch.arange(n)
    for rows in torch.arange(len(table["label"])).split(batch_size):
        scg = SCG.of(table, rows)
        shared = shared_nodes(table["drop"][rows], table["of_node"][rows])
        parts.append(method(grn, scg, shared)[:, own, own].detach().float())
    return torch.cat(parts)


def mean_relations(grn: GraphNetwork, table: Table, num_concepts: int, batch_size: int = 64) -> NDArray[np.float64]:
    """What the relation from a concept j to a concept i of a class adds to it (Eq. 5-6), ``[n, N (i), N (j)]``.

    The mean over the photos in which both are found; NaN where they never are, and on the diagonal.
    """
    n = table["logits"].shape[1]
    own, (j, i) = torch.arange(n), grn.edge_index.cpu()
    total, count = torch.zeros(n, len(j)), torch.zeros(n, len(j))
    for rows in torch.arange(len(table["label"])).split(batch_size):
        scg = SCG.of(table, rows)
        total += edge_contributions(grn, scg)[:, own, own].float().sum(0)
        count += (scg.detected[..., j] & scg.detected[..., i]).sum(0)
    found = np.full((n, int(i.max()) + 1, int(i.max()) + 1), np.nan)
    found[:, i, j] = (total / count.where(count > 0, torch.nan)).numpy()
    return found[:, :num_concepts, :num_concepts]


def per_photo(scores: Tensor, measured: Tensor, table: Table) -> NDArray[np.float64]:
    """Spearman of each photo over the detected concepts of F's predicted class; NaN with fewer than three.

    Of the scores and the measured falls of each node for the class of its own graph, ``[P, n, N]``.
    """
    predicted = table["logits"].argmax(1)
    rows = torch.arange(len(predicted))
    found = (table["of_node"][rows, predicted] >= 0).numpy()
    ours, truth = scores[rows, predicted].numpy(), measured[rows, predicted].numpy()
    return np.array([rank_agreement(s[d], m[d]) for s, m, d in zip(ours, truth, found, strict=True)])


def measured_falls(table: Table, logits: str = "masked_logits") -> Tensor:
    """Measured fall of the margin of each node's own class, ``[P, n, N]``; ``logits`` names the edits' answers."""
    variants = Variants(table["drop"], table[logits], table["valid"], table["of_node"], [])
    return measured_effects(table["logits"], variants)


def faithfulness(
    grn: GraphNetwork, table: Table, methods: Mapping[str, ContributionMethod], chosen: str, seed: int = 0
) -> dict[str, float]:
    """The ``faithfulness/*`` of one split, as docs/metrics.md has them; ``chosen``: the method that explanations show.

    The table holds F's logits on the edits; ``second_logits`` (another fill) give the ceiling.
    """
    measured = measured_falls(table)
    generator = torch.Generator().manual_seed(seed)
    scores = {"random": torch.rand(measured.shape, generator=generator)}
    scores |= {name: table["baselines"][..., i] for i, name in enumerate(BASELINES)}
    per_method = {name: per_photo(own_scores(grn, table, method), measured, table) for name, method in methods.items()}
    ours = per_method[chosen]
    counted = ~np.isnan(ours)
    result = {"faithfulness/spearman": finite_mean(ours[counted]), "faithfulness/photos": float(counted.sum())}
    result |= {f"faithfulness/spearman_method_{name}": finite_mean(v[counted]) for name, v in per_method.items()}
    for name, values in scores.items():
        baseline = per_photo(values, measured, table)
        result[f"faithfulness/spearman_{name}"] = finite_mean(baseline[counted])
        result[f"faithfulness/p_above_{name}"] = above_p_value(ours[counted], baseline[counted])
    if "second_logits" in table:
        second = measured_falls(table, "second_logits")
        result["faithfulness/ceiling"] = finite_mean(per_photo(second, measured, table)[counted])
    return result


def evaluation(
    grn: GraphNetwork, val: Table, test: Table, methods: Mapping[str, ContributionMethod], seed: int = 0
) -> tuple[str, dict[str, float]]:
    """Choose the contributions that follow the measured effects best on ``val``; measure everything on ``test``.

    Returns:
        The name of the method, and the metrics: those of the validation photos under ``val/``.
    """
    agreement = {
        name: finite_mean(per_photo(own_scores(grn, val, method), measured_falls(val), val))
        for name, method in methods.items()
    }
    chosen = max(agreement, key=lambda name: agreement[name])
    metrics = {f"val/{name}": value for name, value in fidelity(grn, val).items()}
    metrics |= {f"val/faithfulness/spearman_method_{name}": value for name, value in agreement.items()}
    metrics["val/faithfulness/spearman"] = agreement[chosen]
    metrics |= fidelity(grn, test) | faithfulness(grn, test, methods, chosen, seed)
    return chosen, metrics | grn_metrics(grn, test, methods[chosen])


def fidelity(grn: GraphNetwork, table: Table, batch_size: int = 64) -> dict[str, float]:
    """The ``fidelity/*`` and ``surrogate/*`` of one split, as docs/metrics.md has them."""
    grn.eval()
    clean, masked, falls, true_falls = list[Tensor](), list[Tensor](), list[Tensor](), list[Tensor]()
    with torch.inference_mode():
        for rows in torch.arange(len(table["label"])).split(batch_size):
            drop, logits, valid = table["drop"][rows], table["masked_logits"][rows], table["valid"][rows]
            singles = valid
            if "coalition_members" in table:
                members = table["coalition_members"][rows]
                drop = torch.cat([drop, drop_all(members, drop)], 1)
                logits = torch.cat([logits, table["coalition_logits"][rows]], 1)
                valid = torch.cat([valid, members.any(2)], 1)
            before, after = grn.masked(SCG.of(table, rows), drop)
            clean.append(before)
            masked.append(after[:, : singles.shape[1]][singles])
            own = table["logits"][rows].argmax(1)[:, None, None].expand(-1, drop.shape[1], 1)
            for found, whole, without in ((falls, before, after), (true_falls, table["logits"][rows], logits)):
                found.append((centred(whole)[:, None] - centred(without)).gather(2, own)[valid][:, 0])
    pairs = {"": (torch.cat(clean), table["logits"])}
    if table["valid"].any():
        pairs["_masked"] = (torch.cat(masked), table["masked_logits"][table["valid"]])
    result = {}
    for suffix, (ours, truth) in pairs.items():
        result[f"fidelity/agreement{suffix}"] = float((ours.argmax(1) == truth.argmax(1)).double().mean())
        result[f"fidelity/l1{suffix}"] = float((ours.softmax(1) - truth.softmax(1)).abs().sum(1).mean())
    fall, truth = torch.cat(falls), torch.cat(true_falls)
    variance = (truth - truth.mean()).square().sum()
    ranked = [rank_agreement(ours, truth) for ours, truth in zip(*(v.numpy() for v in pairs[""]), strict=True)]
    return result | {
        "surrogate/r2": float(1 - (truth - fall).square().sum() / variance) if variance > 0 else float("nan"),
        "surrogate/emd": result["fidelity/l1"] / 2,
        "surrogate/rank": finite_mean(np.array(ranked)),
    }
