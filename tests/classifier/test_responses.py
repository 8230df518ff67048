"""Faded regions against a network that is cut in two by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.classifier.toy import photos, random_classifier, toy
from vrx.classifier import responses
from vrx.classifier.responses import faded_logits
from vrx.scores import centred


def regions(count: int, seed: int, side: int = 16) -> torch.Tensor:
    """A random partition of a grid, softened by nothing."""
    labels = torch.randint(count, (side // 4, side // 4), generator=torch.Generator().manual_seed(seed))
    labels = labels.repeat_interleave(4, 0).repeat_interleave(4, 1)
    return torch.stack([(labels == k).float() for k in range(count)])


def sets(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows).bool()


def test_against_the_network_cut_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "COPIES", 5)  # the two photos run on apart
    f, x = toy(), photos(4)
    x, empty = x[:2], x[2:]
    given, asked = [regions(3, 1), regions(2, 2)], [sets([0, 0, 0], [0, 1, 0], [1, 0, 1]), sets([1, 0], [0, 1], [1, 1])]
    found = faded_logits(f, x, empty, "features.2", given, asked)
    net = f.network
    for b in range(2):
        whole, without = (torch.relu(net.features[1](net.features[0](photo[b : b + 1]))) for photo in (x, empty))
        assert found[b].shape == (3, 3)
        for q, chosen in enumerate(asked[b]):
            gone = sum((given[b][k] for k in range(len(chosen)) if chosen[k]), torch.zeros(16, 16))
            share = nn.functional.adaptive_avg_pool2d(gone[None], whole.shape[2:])
            last = torch.relu(net.features[3](whole * (1 - share) + without * share))
            logits = net.head(last.mean((2, 3)))[:, [2, 0, 3]]
            torch.testing.assert_close(found[b][q], centred(logits)[0].detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_nothing_faded_is_the_photo_and_everything_faded_the_photo_without_it(name: str) -> None:
    f = random_classifier(name)
    x = photos(2)
    x, empty = x[:1], x[1:]
    (found,) = faded_logits(f, x, empty, f.part_layer, [regions(3, 5)], [sets([0, 0, 0], [1, 1, 1], [1, 0, 0])])
    with torch.no_grad():
        torch.testing.assert_close(found[:1], centred(f(x)), atol=1e-4, rtol=1e-4)
        if name == "resnet18":  # of a transformer the class token, which no region holds, stays
            torch.testing.assert_close(found[1:2], centred(f(empty)), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found[2], found[0])


def test_a_photo_without_regions_is_asked_about_as_it_is() -> None:
    f, x = toy(), photos(2)
    asked = [torch.zeros(1, 0, dtype=torch.bool), torch.zeros(0, 2, dtype=torch.bool)]
    plain, nothing = faded_logits(f, x, x, "features.2", [torch.zeros(0, 16, 16), regions(2, 0)], asked)
    with torch.no_grad():
        torch.testing.assert_close(plain, centred(f(x[:1])))
    assert nothing.shape == (0, 3)
