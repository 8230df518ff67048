"""A network that is small enough to check by hand, and networks by name with random weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vrx.classifier.classifier import Classifier
from vrx.classifier.loading import load_classifier
from vrx.classifier.preprocessing import Preprocessing

NAMES = ["a", "b", "c"]
INDICES = [5, 0, 9]
SMALL = Preprocessing((64, 64), (73, 73), "bilinear", (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
NAMED = "vrx.classifier.networks.named_network"


def named(name: str, **settings: Any) -> dict[str, Any]:
    """Settings of a network of timm or torchvision with random weights."""
    return {"_target_": NAMED, "name": name, "pretrained": False, **settings}


def random_classifier(name: str, **settings: Any) -> Classifier:
    """F with random weights, its BatchNorms and a zero-initialised head shaken so that nothing is trivially zero."""
    torch.manual_seed(0)
    f = load_classifier(named(name, num_classes=10, input_size=64, **settings), NAMES, INDICES)
    for module in f.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert isinstance(module.running_mean, Tensor)
            module.running_mean.normal_(0, 0.1)
            module.bias.normal_(0, 0.1)
    return f


def photos(count: int = 2, side: int = 64) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


class Toy(nn.Module):
    """Two convolutions with in-place ReLUs and a linear head; small enough to check everything."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 4, 4),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 6, 2, 2),
            nn.ReLU(inplace=True),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.features(x)).flatten(1))


def toy(**kwargs: object) -> Classifier:
    torch.manual_seed(3)
    network = Toy()
    return Classifier(network, NAMES, [2, 0, 3], SMALL, **kwargs)  # type: ignore[arg-type]
