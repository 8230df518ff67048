"""Pair evidence against a network that is cut in two by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.classifier.toy import photos, random_classifier, toy
from vrx.classifier.classifier import Classifier
from vrx.classifier.responses import pair_evidence


def regions(count: int, seed: int, side: int = 16) -> torch.Tensor:
    """A random partition of a grid, softened by nothing."""
    labels = torch.randint(count, (side // 4, side // 4), generator=torch.Generator().manual_seed(seed))
    labels = labels.repeat_interleave(4, 0).repeat_interleave(4, 1)
    return torch.stack([(labels == k).float() for k in range(count)])


def test_against_the_network_cut_by_hand() -> None:
    f, x = toy(), photos(2)
    given = [regions(3, 1), regions(2, 2)]
    found = pair_evidence(f, x, "features.2", given)
    net = f.network
    for b in range(2):
        first = torch.relu(net.features[1](net.features[0](x[b : b + 1]))).detach()
        second = torch.relu(net.features[3](first)).detach().requires_grad_()
        logits = net.head(second.mean((2, 3)))[0, [2, 0, 3]]
        assert found[b].shape == (3, len(given[b]), len(given[b]))
        for c in range(3):
            (slope,) = torch.autograd.grad(logits[c] - logits.mean(), second, retain_graph=True)
            for j, faded in enumerate(given[b]):
                share = nn.functional.adaptive_avg_pool2d(faded[None], first.shape[2:])
                changed = torch.relu(net.features[3](first * (1 - share)))
                product = (slope * (second - changed))[0].detach().sum(0)
                for i, read in enumerate(given[b]):
                    seen = nn.functional.adaptive_avg_pool2d(read[None], product.shape)[0]
                    assert found[b][c, i, j].item() == pytest.approx(float((product * seen).sum()), abs=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_all_regions_together_take_all_evidence(name: str) -> None:
    """The whole photo faded away changes each class by what all regions of a partition read."""
    f: Classifier = random_classifier(name)
    x = photos(1)
    (whole,) = pair_evidence(f, x, f.part_layer, [torch.ones(1, 16, 16)])
    parts = torch.cat([torch.ones(1, 16, 16), regions(3, 5)])
    (found,) = pair_evidence(f, x, f.part_layer, [parts])
    torch.testing.assert_close(found[:, 1:, 0].sum(1), whole[:, 0, 0], atol=1e-4, rtol=1e-3)
    assert whole.sum().abs() < 1e-3 * whole.abs().sum() + 1e-5, "centred over the classes"


def test_no_regions_no_evidence() -> None:
    f, x = toy(), photos(2)
    empty, some = pair_evidence(f, x, "features.2", [torch.zeros(0, 16, 16), regions(2, 0)])
    assert empty.shape == (3, 0, 0) and some.shape == (3, 2, 2)
    with torch.inference_mode():
        again = pair_evidence(f, x.clone(), "features.2", [torch.zeros(0, 16, 16), regions(2, 0)])[1]
    torch.testing.assert_close(again, some)
