"""F: loading, preprocessing, layers, Grad-CAM and gradient evidence, against second implementations."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from captum.attr import LayerGradCam
from PIL import Image
from torch import Tensor, nn

from vrx.classifier.activations import class_targets
from vrx.classifier.classifier import Classifier, Preprocessing, load_classifier
from vrx.errors import VRXError

NAMES = ["a", "b", "c"]
INDICES = [5, 0, 9]
SMALL = Preprocessing((64, 64), (73, 73), "bilinear", (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def random_classifier(name: str, **kwargs: object) -> Classifier:
    """F with random weights, its BatchNorms and a zero-initialised head shaken so that nothing is trivially zero."""
    torch.manual_seed(0)
    f = load_classifier(name, NAMES, INDICES, pretrained=False, num_classes=10, input_size=64, **kwargs)  # type: ignore[arg-type]
    for module in f.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.bias.normal_(0, 0.1)
    return f


@pytest.fixture(scope="module")
def cached() -> Callable[[str], Classifier]:
    built: dict[str, Classifier] = {}
    return lambda name: built.setdefault(name, built[name] if name in built else random_classifier(name))


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


# --- layers


@pytest.mark.parametrize(
    ("name", "expected", "match"),
    [
        ("resnet18", {"layer1": (4, 64), "layer2": (8, 128), "layer3": (16, 256), "layer4": (32, 512)}, "layer3"),
        (
            "mobilenetv2_100",
            {"blocks.1": (4, 24), "blocks.2": (8, 32), "blocks.4": (16, 96), "bn2": (32, 1280)},
            "blocks.4",
        ),
        (
            "torchvision/googlenet",
            {"conv3": (4, 192), "inception3b": (8, 480), "inception4e": (16, 832), "inception5b": (32, 1024)},
            "inception4e",
        ),
        (
            "legacy_xception",
            {"block1": (4, 128), "block2": (8, 256), "block11": (16, 728), "act4": (32, 2048)},
            "block11",
        ),
        (
            "vit_tiny_patch16_224",
            {"blocks.2": (16, 192), "blocks.5": (16, 192), "blocks.8": (16, 192), "blocks.11.norm1": (16, 192)},
            "blocks.8",
        ),
    ],
)
def test_layers_are_found(
    cached: Callable[[str], Classifier], name: str, expected: dict[str, tuple[int, int]], match: str
) -> None:
    f = cached(name)
    assert {layer.name: (layer.reduction, layer.channels) for layer in f.layers} == expected
    assert list(expected) == [layer.name for layer in f.layers]
    assert f.match_layer == match
    maps = f.inspect(photos(), gradcam=False).maps
    assert {k: (m.shape[1], *m.shape[2:]) for k, m in maps.items()} == {
        layer.name: (layer.channels, *layer.grid) for layer in f.layers
    }


def test_a_skip_around_a_layer_disqualifies_it() -> None:
    class Skipping(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.side = nn.Conv2d(6, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            features = self.features(x)
            return self.head(self.pool(features + self.side(features)).flatten(1))

    f = Classifier(Skipping(), NAMES, [0, 1, 2], SMALL)
    assert [layer.name for layer in f.layers] == ["features.2", "features"]


@pytest.mark.parametrize("name", ["torchvision/vit_b_16", "deit_tiny_distilled_patch16_224"])
def test_the_grid_of_patch_tokens_is_inferred(name: str) -> None:
    f = load_classifier(name, NAMES, INDICES, pretrained=False, num_classes=10, input_size=96)
    assert {layer.grid for layer in f.layers} == {(6, 6)}
    assert {layer.prefix for layer in f.layers} == {2 if name.startswith("deit") else 1}


def test_the_last_layer_of_a_transformer_that_averages_its_patches_is_its_last_block() -> None:
    f = load_classifier(
        "vit_tiny_patch16_224",
        NAMES,
        INDICES,
        pretrained=False,
        num_classes=10,
        input_size=64,
        model_kwargs={"global_pool": "avg", "depth": 4},
    )
    assert [layer.name for layer in f.layers] == ["blocks.0", "blocks.1", "blocks.2", "blocks.3"]


def test_channels_last_maps_are_turned() -> None:
    f = load_classifier("torchvision/swin_t", NAMES, INDICES, pretrained=False, num_classes=10, input_size=64)
    assert [(layer.reduction, layer.channels) for layer in f.layers] == [(4, 96), (8, 192), (16, 384), (32, 768)]
    assert [m.shape[1] for m in f.inspect(photos(1)).maps.values()] == [96, 192, 384, 768]


def test_layers_can_be_named_and_run_in_their_own_order() -> None:
    f = toy(layers=["features.4", "features.1"])
    assert [layer.name for layer in f.layers] == ["features.1", "features.4"]
    with pytest.raises(VRXError, match=r"features\.11.*Did you mean.*features\.1"):
        toy(layers=["features.11"])


def test_too_small_an_input_is_refused() -> None:
    with pytest.raises(VRXError, match="input_size"):
        load_classifier("resnet18", NAMES, INDICES, pretrained=False, num_classes=10, input_size=32)


# --- gradients


class _Tokens(nn.Module):
    """Lets captum see the patch tokens of a transformer as a map."""

    def __init__(self, norm: nn.Module, grid: tuple[int, int]) -> None:
        super().__init__()
        self.norm, self.grid, self.as_map = norm, grid, nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        seen = self.as_map(x[:, 1:].reshape(len(x), *self.grid, -1).permute(0, 3, 1, 2))
        return torch.cat([x[:, :1], seen.flatten(2).transpose(1, 2)], 1)


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenetv2_100", "torchvision/googlenet", "legacy_xception", "vit_tiny_patch16_224"]
)
def test_gradcam_equals_captum(cached: Callable[[str], Classifier], name: str) -> None:
    f = cached(name)
    x = photos()
    ours = f.gradcam(x)
    last = f.layers[-1]
    layer, restore = f.network.get_submodule(last.name), None
    if last.layout == "tokens":
        block = f.network.get_submodule(last.name.rpartition(".")[0])
        restore, block.norm1 = block.norm1, _Tokens(block.norm1, last.grid)
        layer = block.norm1.as_map
    captum = LayerGradCam(f.network, layer)
    theirs = [captum.attribute(x, target=i, relu_attributions=True)[:, 0] for i in INDICES]
    if restore is not None:
        block.norm1 = restore
    expected = torch.stack(theirs, 1).detach()
    assert ours.max() > 0
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(f.inspect(x, gradients=True).gradcam, ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", ["centred", "logit", "margin"])
def test_gradient_x_activation_by_hand(target: str) -> None:
    f = toy()
    x = photos(3)
    got = f.inspect(x, gradients=True, target=target)  # type: ignore[arg-type]
    net = f.network
    for b in range(3):  # photo by photo, one full graph, out-of-place
        first = torch.relu(net.features[1](net.features[0](x[b : b + 1]))).requires_grad_()
        second = torch.relu(net.features[3](first))
        logits = net.head(second.mean((2, 3)))[0, [2, 0, 3]]
        for c in range(3):
            others = [k for k in range(3) if k != c]
            value = {
                "logit": logits[c],
                "centred": logits[c] - logits.sum() / 3,
                "margin": logits[c] - logits[others].exp().sum().log(),
            }[target]
            for name, act in (("features.2", first), ("features", second)):
                (slope,) = torch.autograd.grad(value, act, retain_graph=True)
                product = (slope * act)[0].detach()
                torch.testing.assert_close(got.grad_act[name][b, c], product.sum(0))
                positive = torch.where(product > 0, product, torch.zeros(())).sum(0)
                torch.testing.assert_close(got.grad_act_positive[name][b, c], positive)


@pytest.mark.parametrize("target", ["centred", "logit", "margin"])
def test_gradient_times_difference_by_hand_in_one_backward_pass_fewer(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    f = toy()
    x, base = photos(2), photos(3)[2:]
    reference = {name: m.expand(2, -1, -1, -1) for name, m in f.inspect(base, gradcam=False).maps.items()}
    maps = f.inspect(x, gradcam=False).maps["features.2"]
    passes: list[int] = []
    plain = torch.autograd.grad

    def counted(outputs: Tensor, inputs: object, **kwargs: bool) -> tuple[Tensor, ...]:
        passes.append(isinstance(inputs, list))
        return plain(outputs, inputs, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    got = f.inspect(x, gradients=True, target=target, gradcam=False, reference=reference)  # type: ignore[arg-type]
    assert sum(passes) == (3 if target == "logit" else 2)
    leaf = maps.clone().requires_grad_()
    logits = f.network.head(torch.relu(f.network.features[3](leaf)).mean((2, 3)))[:, [2, 0, 3]]
    values = class_targets(logits, target)  # type: ignore[arg-type]
    for c in range(3):
        (slope,) = plain(values[:, c].sum(), leaf, retain_graph=True)
        expected = (slope * (maps - reference["features.2"])).sum(1)
        torch.testing.assert_close(got.grad_diff["features.2"][:, c], expected)


def out_of_place(network: nn.Module) -> None:
    for module in network.modules():
        if hasattr(module, "inplace"):
            module.inplace = False


def test_inplace_activations_do_not_touch_what_was_captured() -> None:
    f = random_classifier("legacy_xception", layers=["bn1", "block2", "bn3", "act4"])
    x = photos()
    got = f.inspect(x, gradients=True)
    out_of_place(f.network)
    seen: dict[str, Tensor] = {}
    handles = [
        f.network.get_submodule(layer.name).register_forward_hook(lambda m, a, o, n=layer.name: seen.update({n: o}))
        for layer in f.layers
    ]
    logits = f(x.clone().requires_grad_())
    for handle in handles:
        handle.remove()
    assert seen["bn1"].min() < 0  # an in-place ReLU follows: it would have cut this off
    centred = logits - logits.mean(1, keepdim=True)
    for name, act in seen.items():
        torch.testing.assert_close(got.maps[name], act.detach())
        for c in range(3):
            (slope,) = torch.autograd.grad(centred[:, c].sum(), act, retain_graph=True)
            torch.testing.assert_close(got.grad_act[name][:, c], (slope * act).sum(1).detach(), rtol=1e-3, atol=1e-6)


def test_batch_and_single_photo_agree_and_layers_can_be_chosen(cached: Callable[[str], Classifier]) -> None:
    f = cached("resnet18")
    x = photos(3)
    everything = f.inspect(x, gradients=True)
    alone = f.inspect(x[1:2], gradients=["layer3"], layers=["layer2"])
    assert set(alone.maps) == {"layer2", "layer3"}
    assert set(alone.grad_act) == set(alone.grad_act_positive) == {"layer3"}
    torch.testing.assert_close(alone.grad_act["layer3"], everything.grad_act["layer3"][1:2], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(alone.gradcam, everything.gradcam[1:2], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(everything.logits, f(x), rtol=1e-4, atol=1e-5)
    assert f.inspect(x, gradcam=False).gradcam.shape[1] == 0
    with pytest.raises(VRXError, match="layer9"):
        f.inspect(x, layers=["layer9"])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_where_autograd_is_switched_off(mode: Callable[[], torch.no_grad]) -> None:
    f = toy()
    x = photos()
    expected = f.inspect(x, gradients=True)
    with mode():
        got = f.inspect(x * 1, gradients=True)  # x * 1 is an inference tensor in inference_mode
    torch.testing.assert_close(got.grad_act, expected.grad_act)
    assert not any(v.requires_grad for v in (got.logits, got.gradcam, *got.maps.values(), *got.grad_act.values()))
    assert all(p.grad is None for p in f.parameters())


def test_layer_gradient_against_finite_differences() -> None:
    f = toy().double()
    x = photos().double()
    got = f.layer_gradient(x, "features.2", 1)
    net, step = f.network, 1e-5
    base = net.features[:3](x)
    for d in range(4):
        shift = torch.zeros_like(base)
        shift[:, d] = step
        ahead, behind = (net.head(net.features[3:](base + s).mean((2, 3)))[:, 0] for s in (shift, -shift))
        torch.testing.assert_close(got[:, d].double(), (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-5)


def count_hooks(network: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in network.modules())


def test_hooks_are_removed_even_on_error() -> None:
    f = toy()
    f.inspect(photos(), gradients=True)
    f.head_values(torch.zeros(2, 6))
    assert count_hooks(f.network) == 0
    with pytest.raises(RuntimeError):
        f.inspect(torch.zeros(1, 5, 64, 64), gradients=True)
    assert count_hooks(f.network) == 0


def test_margin_of_one_class_is_its_logit() -> None:
    logits = torch.tensor([[2.0], [3.0]])
    for target in ("centred", "logit", "margin"):
        assert torch.equal(class_targets(logits, target), logits)  # type: ignore[arg-type]
    with pytest.raises(VRXError, match="centered"):
        class_targets(logits, "centered")  # type: ignore[arg-type]


def test_bf16_stays_near_fp32_and_gives_float32(cached: Callable[[str], Classifier]) -> None:
    f = cached("resnet18")
    rough = Classifier(f.network, NAMES, INDICES, f.transform, precision="bf16")
    exact, got = f.inspect(photos(), gradients=True), rough.inspect(photos(), gradients=True)
    for a, b in ((exact.logits, got.logits), (exact.gradcam, got.gradcam), (exact.maps["layer3"], got.maps["layer3"])):
        assert b.dtype == torch.float32
        assert 0 < (a - b).norm() < 0.05 * a.norm()


# --- the head


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
    f = load_classifier("convnext_atto", NAMES, INDICES, pretrained=False, num_classes=10, input_size=64)
    flat = torch.randn(1, 320)
    constant = flat[:, :, None, None].expand(-1, -1, 2, 2)
    torch.testing.assert_close(f.head_values(flat), f.network.forward_head(constant)[:, INDICES], rtol=1e-4, atol=1e-5)
    assert f._head is not None and f._head[1] is not None  # without asking the whole network


def test_head_values_of_a_transformer(cached: Callable[[str], Classifier]) -> None:
    f = cached("vit_tiny_patch16_224")
    vectors = torch.randn(4, 192)
    torch.testing.assert_close(f.head_values(vectors), f.network.head(f.network.norm(vectors))[:, INDICES])


# --- what F is


def test_f_is_frozen_and_answers_for_the_classes_of_interest(cached: Callable[[str], Classifier]) -> None:
    f = cached("torchvision/googlenet").train()
    assert not any(m.training for m in f.modules())
    assert not any(p.requires_grad for p in f.parameters())
    torch.testing.assert_close(f(photos()), f.network(photos())[:, INDICES])


@pytest.mark.parametrize(
    ("names", "indices"), [(NAMES, [0, 1, 10]), (NAMES, [0, 1, -1]), (NAMES, [0, 1, 1]), (NAMES, [0, 1]), (NAMES, None)]
)
def test_wrong_class_indices(names: list[str], indices: list[int] | None) -> None:
    with pytest.raises(VRXError, match="class_indices"):
        Classifier(Toy(10), names, indices, SMALL)


def test_no_or_double_class_names() -> None:
    for names in ([], ["a", "a", "b", "c"]):
        with pytest.raises(VRXError, match=r"data\.classes"):
            Classifier(Toy(), names, None, SMALL)


def test_the_fingerprint_changes_with_everything_that_matters(tmp_path: Path) -> None:
    one = toy().fingerprint
    assert one == toy().fingerprint
    torch.manual_seed(3)
    same = Toy()
    others = [
        toy(layers=["features.4"]),
        toy(name="another"),
        toy(precision="bf16"),
        Classifier(same, NAMES, [0, 2, 3], SMALL),
        Classifier(same, NAMES, [2, 0, 3], Preprocessing((64, 64), (73, 73), "bicubic", SMALL.mean, SMALL.std)),
    ]
    touched = toy()
    touched.network.head.bias[1] += 1e-6
    statistics = toy()
    statistics.network.features[1].running_var[0] += 1e-6
    prints = {one, *(f.fingerprint for f in [*others, touched, statistics])}
    assert len(prints) == 8


# --- preprocessing


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


@pytest.mark.parametrize("size", [(90, 130), (301, 200), (224, 224), (50, 40)])
@pytest.mark.parametrize("name", ["legacy_xception", "mobilenetv2_100"])
def test_the_transform_is_timms_own(cached: Callable[[str], Classifier], name: str, size: tuple[int, int]) -> None:
    f = cached(name)
    config = timm.data.resolve_data_config({"input_size": (3, 64, 64)}, model=f.network)
    torch.testing.assert_close(f.transform(picture(*size)), timm.data.create_transform(**config)(picture(*size)))


@pytest.mark.parametrize("size", [(300, 400), (500, 260)])
def test_the_transform_is_torchvisions_own(size: tuple[int, int]) -> None:
    f = load_classifier("torchvision/squeezenet1_1", NAMES, INDICES, pretrained=False)
    theirs = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.transforms()
    torch.testing.assert_close(f.transform(picture(*size)), theirs(picture(*size)))


def test_pixels_undo_the_normalisation() -> None:
    f = Classifier(
        Toy(), NAMES, [0, 1, 2], Preprocessing((64, 64), (64, 64), "bilinear", SMALL.mean, SMALL.std, "none")
    )
    image = picture(64, 64)
    x = f.transform(image)[None]
    assert np.array_equal(f.pixels(x)[0], np.asarray(image))
    torch.testing.assert_close(f.normalize(f.pixels(x)), x)
    with pytest.raises(VRXError, match="64 x 65"):
        f.transform(picture(65, 64))


def test_squashing_keeps_the_whole_photo() -> None:
    squash = Preprocessing((64, 48), (73, 73), "bilinear", (0, 0, 0), (1, 1, 1), "squash")
    image = Image.new("RGB", (400, 100))
    image.paste((255, 0, 0), (0, 0, 200, 100))
    x = squash(image)
    assert x.shape == (3, 64, 48)
    assert x[0, :, :20].min() > 0.99 and x[0, :, 28:].max() < 0.01


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P", "1"])
def test_photos_of_any_mode_and_size(mode: str) -> None:
    for size in ((1, 1), (70, 64), (3, 200)):
        x = SMALL(picture(*size, mode))
        assert x.shape == (3, 64, 64) and x.dtype == torch.float32
    with pytest.raises(VRXError, match="elongated"):
        SMALL(picture(1, 500))


# --- names and weights


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet81", "resnet18"),
        ("gogolenet", "googlenet"),
        ("timm/googlenet", "torchvision/googlenet"),
        ("vit_tiny_patch16", "vit_tiny"),
    ],
)
def test_unknown_names_offer_the_nearest(name: str, near: str) -> None:
    with pytest.raises(VRXError, match=f"Unknown network.*{near}"):
        load_classifier(name, NAMES, INDICES, pretrained=False)


@pytest.mark.parametrize("name", ["timm/resnet10t", "torchvision/squeezenet1_1"])
def test_weights_that_cannot_be_downloaded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(VRXError, match=rf"{name.split('/')[1]}.*classifier\.checkpoint=<file>"):
        load_classifier(name, NAMES, INDICES)


@pytest.mark.parametrize("name", ["torchvision/googlenet", "resnet10t"])
def test_a_saved_classifier_comes_back_the_same(name: str, tmp_path: Path) -> None:
    f = random_classifier(name)
    f.save_weights(tmp_path / "w.safetensors")
    torch.save(f.network.state_dict(), tmp_path / "w.pt")
    fitted = {"network." + k: v for k, v in f.network.state_dict().items()}
    torch.save({"state_dict": {**fitted, "criterion.weight": torch.ones(3)}, "epoch": 3}, tmp_path / "w.ckpt")
    for file in ("w.safetensors", "w.pt", "w.ckpt"):
        again = load_classifier(name, NAMES, INDICES, tmp_path / file, pretrained=True, num_classes=10, input_size=64)
        assert again.fingerprint == f.fingerprint
        assert torch.equal(again(photos()), f(photos()))


class _Evil:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return os.system, ("true",)


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    def load(file: str) -> None:
        load_classifier("resnet10t", NAMES, None, tmp_path / file)

    network = timm.create_model("resnet10t", num_classes=10)
    torch.save(network.state_dict(), tmp_path / "head.pt")
    torch.save({k: v for k, v in network.state_dict().items() if "layer3" not in k}, tmp_path / "part.pt")
    torch.save(timm.create_model("vit_tiny_patch16_224", depth=1).state_dict(), tmp_path / "vit.pt")
    torch.save({"a": _Evil()}, tmp_path / "evil.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    (tmp_path / "noise.safetensors").write_bytes(b"\x00" * 100)
    (tmp_path / "noise.pt").write_bytes(b"no weights at all")
    (tmp_path / "zero.pt").write_bytes(b"")
    for file, message in {
        "head.pt": r"2 of another shape \(fc\.weight \(10, 512\) for \(3, 512\), fc\.bias",
        "part.pt": r"missing \(layer3\.0\.conv1\.weight, .*\.\.\.\)",
        "vit.pt": r"unknown \(cls_token",
        "evil.pt": "cannot be read as weights",
        "empty.pt": "no state dict",
        "noise.safetensors": "cannot be read as weights",
        "noise.pt": "cannot be read as weights",
        "zero.pt": "cannot be read as weights",
        "absent.pt": "no such file",
    }.items():
        with pytest.raises(VRXError, match=message):
            load(file)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"model_kwargs": {"colour": "red"}}, "model_kwargs"),
        ({"precision": "fp8"}, "precision"),
        ({"resize": "stretch"}, "resize"),
        ({"crop_pct": 1.5}, "crop_pct"),
        ({"std": [1, 1, 0]}, "std"),
        ({"source": "keras"}, "source"),
    ],
)
def test_wrong_options(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(VRXError, match=message):
        load_classifier("resnet10t", NAMES, None, pretrained=False, input_size=64, **kwargs)  # type: ignore[arg-type]


# --- real weights, real photos


def imagenette() -> Path:
    root = Path(os.environ.get("VRX_IMAGENETTE", Path(__file__).parents[2] / "shared" / "imagenette"))
    if not (root / "mobilenetv2_100.safetensors").exists():
        pytest.skip("needs real photos and weights: set VRX_IMAGENETTE to their folder")
    return root


@pytest.mark.parametrize(("name", "least"), [("mobilenetv2_100", 0.9), ("mobilenetv1_025", 0.6)])
def test_real_weights_tell_real_photos_apart(name: str, least: float) -> None:
    root = imagenette()
    classes = {
        "n03417042": 569,
        "n03425413": 571,
        "n03028079": 497,
        "n02979186": 482,
        "n03394916": 566,
        "n03000684": 491,
    }
    f = load_classifier(
        name,
        list(classes),
        list(classes.values()),
        root / f"{name}.safetensors",
        input_size=224 if name == "mobilenetv2_100" else 128,
        mean=[0.5] * 3,
        std=[0.5] * 3,
        resize="squash",
        model_kwargs={"pad_type": "same"},
    )
    right = total = 0
    for label, folder in enumerate(classes):
        files = sorted((root / "val" / folder).iterdir())[:10]
        with torch.inference_mode():
            found = f(torch.stack([f.transform(Image.open(file)) for file in files])).argmax(1)
        right, total = right + int((found == label).sum()), total + len(files)
    assert total == 60
    assert right / total > least
