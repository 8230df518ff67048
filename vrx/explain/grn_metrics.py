"""PyTorch Geometric's own explanation metrics for the contributions of the GRN's nodes (3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.explain import Explainer, ExplainerAlgorithm, Explanation
from torch_geometric.explain.metric import characterization_score, fidelity, unfaithfulness

from vrx.explain.contributions import ContributionMethod, evaluating
from vrx.graphs.geometric import to_geometric
from vrx.graphs.variants import shared_nodes
from vrx.models.graph_network import GraphNetwork
from vrx.structures import SCG

MOST_PHOTOS = 500


class GRNOnData(nn.Module):
    """The GRN as PyTorch Geometric calls a network: on a batch of :func:`to_geometric`.

    A node whose features are all 0, which is how PyTorch Geometric masks it, is read as a concept that was not found.
    """

    def __init__(self, grn: GraphNetwork) -> None:
        super().__init__()
        self.grn = grn

    def graphs(
        self,
        x: Tensor,
        pos: Tensor,
        detected: Tensor,
        edge_attr: Tensor,
        hypothesis: Tensor,
        patch: Tensor | None = None,
        pairs: Tensor | None = None,
    ) -> SCG:
        """The graphs of B photos: ``x`` ``[BnN, D]``, ``pairs`` ``[B, T, n]``; others ``[BnN]``."""
        lead = (-1, self.grn.num_classes, self.grn.num_nodes)
        links = edge_attr[:, 4:].unflatten(0, (-1, lead[1], self.grn.num_edges))
        nodes, centroids, found = (value.reshape(*lead, *value.shape[1:]) for value in (x, pos, detected))
        few = self.grn.all_classes != self.grn.num_classes
        patch = None if patch is None else patch.reshape(lead)
        scg = SCG(nodes, centroids, found, links, hypothesis.reshape(lead)[..., 0] if few else None, patch, pairs)
        return scg.drop((scg.nodes == 0).all(-1))

    def forward(self, x: Tensor, edge_index: Tensor, **given: Tensor) -> Tensor:
        """Class scores ``[B, n]``; ``edge_index`` is that of complete graphs, which the GRN knows."""
        return self.grn(self.graphs(x, **given))


class NodeContributions(ExplainerAlgorithm):
    """Contributions as an algorithm of :class:`torch_geometric.explain.Explainer`.

    The mask of a node, ``[BnN, 1]``, is its contribution to the explained class (``target``) of its photo, in logits.
    ``shared``: which nodes go together in a knockout, bool ``[B, n, N, n, N]``; None: each alone.
    """

    def __init__(self, method: ContributionMethod, shared: Tensor | None = None) -> None:
        super().__init__()
        self.method, self.shared = method, shared

    def supports(self) -> bool:
        """Whatever the explainer: the scores do not depend on its settings."""
        return True

    def forward(
        self,
        model: GRNOnData,
        x: Tensor,
        edge_index: Tensor,
        *,
        target: Tensor,
        index: Any = None,
        **given: Tensor,
    ) -> Explanation:
        """One mask of all nodes of the batch."""
        scg = model.graphs(x, **given)
        nodes = self.method(model.grn, scg, self.shared)
        return Explanation(node_mask=nodes[torch.arange(len(target)), target].reshape(-1, 1).detach())


def grn_metrics(grn: GraphNetwork, table: Mapping[str, Tensor], method: ContributionMethod) -> dict[str, float]:
    """How well the nodes that a contribution method names explain the GRN itself, by PyTorch Geometric's metrics.

    The explanation of a photo is the set of nodes (the rest of the photo counts as one) with a positive contribution to
    the class that the GRN predicts. Of a split (``table``) with more than ``MOST_PHOTOS`` photos that many, evenly
    spread, are used. docs/metrics.md says what each of the ``grn/*`` means; all are in [0, 1].
    """
    count = len(table["label"])
    rows = torch.linspace(0, count - 1, min(count, MOST_PHOTOS)).round().long()
    scg = SCG.of(table, rows)
    data = Batch.from_data_list(to_geometric(scg))
    explainer = Explainer(
        GRNOnData(grn),
        NodeContributions(method, shared_nodes(table["drop"][rows], table["of_node"][rows])),
        explanation_type="model",
        model_config={"mode": "multiclass_classification", "task_level": "graph", "return_type": "raw"},
        node_mask_type="object",
        threshold_config=("hard", 0.0),
    )
    with evaluating(grn):
        names = ("pos", "detected", "edge_attr", "hypothesis", "patch", "pairs")
        given = {name: data[name] for name in names if name in data}
        explanation = explainer(data.x, data.edge_index, **given)
        plus, minus = fidelity(explainer, explanation)
        unfaithful = unfaithfulness(explainer, explanation)
    chosen = explanation.node_mask.reshape(scg.detected.shape) * scg.detected
    size = chosen.sum((1, 2)) / scg.detected.sum((1, 2)).clamp(min=1)
    return {
        "grn/fidelity_plus": plus,
        "grn/fidelity_minus": minus,
        "grn/characterization": float(characterization_score(torch.tensor(plus), torch.tensor(minus))),
        "grn/unfaithfulness": unfaithful,
        "grn/explanation_size": float(size.mean()),
    }
