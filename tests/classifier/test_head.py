"""Logits of one feature vector."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tests.classifier.toy import INDICES, NAMES, SMALL, Toy, named, photos
from vrx.classifier.classifier import Classifier
from vrx.classifier.loading import load_classifier


def test_head_values_of_a_pooled_linear_head(cached: Callable[[str], Classifier]) -> None:
    f = cached("mobilenetv2_100")
    pooled = f.inspect(photos()).maps["bn2"].mean((2, 3))
    torch.testing.assert_close(f.head_values(pooled), f(photos()), rtol=1e-4, atol=1e-5)
    assert f.head_values(pooled[:0]).shape == (0, 3)


def test_head_values_where_the_head_is_more_than_linear() -> None:
    class Curved(Toy):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.pool(self.features(x)).flatten(1).tanh())

    f = Classifier(Curved(), NAMES, [0, 1, 2], SMALL)
    vectors = torch.randn(70, 6)
    torch.testing.assert_close(f.head_values(vectors), f.network.head(vectors.tanh())[:, :3])


def test_head_values_through_a_norm() -> None:
    f = load_classifier(named("convnext_atto", num_classes=10, input_size=64), NAMES, INDICES)
    flat = torch.randn(1, 320)
    constant = flat[:, :, None, None].expand(-1, -1, 2, 2)
    torch.testing.assert_close(f.head_values(flat), f.network.forward_head(constant)[:, INDICES], rtol=1e-4, atol=1e-5)
    assert f._head.linear is not None and f._head.linear[1] is not None  # without asking the whole network


def test_a_linear_head_is_one_in_bf16_too() -> None:
    settings = named("resnet10t", num_classes=10, input_size=64)
    f = load_classifier({**settings, "precision": "bf16"}, NAMES, INDICES)
    assert f._head.linear is not None, "every call would run the network otherwise"
    features = torch.randn(3, 512)
    torch.testing.assert_close(f.head_values(features), f.network.fc(features)[:, INDICES])


def test_head_values_of_a_transformer(cached: Callable[[str], Classifier]) -> None:
    f = cached("vit_tiny_patch16_224")
    vectors = torch.randn(4, 192)
    torch.testing.assert_close(f.head_values(vectors), f.network.head(f.network.norm(vectors))[:, INDICES])
