"""F, frozen: Grad-CAM and gradient evidence, against second implementations."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn

from tests.classifier.toy import INDICES, NAMES, SMALL, Toy, photos, random_classifier, toy
from vrx.classifier.activations import class_targets
from vrx.classifier.classifier import Classifier
from vrx.classifier.preprocessing import Preprocessing
from vrx.classifier.responses import maps_alone
from vrx.errors import VRXError
from vrx.models.classification import FitOptions


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


def test_gradient_x_activation_by_hand() -> None:
    f = toy()
    x = photos(3)
    got = f.inspect(x, gradients=True)
    net = f.network
    for b in range(3):  # photo by photo, one full graph, out-of-place
        first = torch.relu(net.features[1](net.features[0](x[b : b + 1]))).requires_grad_()
        second = torch.relu(net.features[3](first))
        logits = net.head(second.mean((2, 3)))[0, [2, 0, 3]]
        for c in range(3):
            others = [k for k in range(3) if k != c]
            value = logits[c] - logits[others].exp().sum().log()
            for name, act in (("features.2", first), ("features", second)):
                (slope,) = torch.autograd.grad(value, act, retain_graph=True)
                product = (slope * act)[0].detach()
                torch.testing.assert_close(got.grad_act[name][b, c], product.sum(0))
                positive = torch.where(product > 0, product, torch.zeros(())).sum(0)
                torch.testing.assert_close(got.grad_act_positive[name][b, c], positive)


def test_gradient_times_difference_by_hand_in_one_backward_pass_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
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
    got = f.inspect(x, gradients=True, gradcam=False, reference=reference)
    assert sum(passes) == 2
    leaf = maps.clone().requires_grad_()
    logits = f.network.head(torch.relu(f.network.features[3](leaf)).mean((2, 3)))[:, [2, 0, 3]]
    for c in range(3):
        margin = logits[:, c] - logits[:, [k for k in range(3) if k != c]].logsumexp(1)
        (slope,) = plain(margin.sum(), leaf, retain_graph=True)
        expected = (slope * (maps - reference["features.2"])).sum(1)
        torch.testing.assert_close(got.grad_diff["features.2"][:, c], expected)
    some = f.inspect(x, gradients=True, gradcam=False, reference={"features.2": reference["features.2"]})
    assert set(some.grad_diff) == {"features.2"} and set(some.grad_act) == set(got.grad_act), "a reference of one layer"
    torch.testing.assert_close(some.grad_diff["features.2"], got.grad_diff["features.2"])


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
    margins = torch.stack([logits[:, c] - logits[:, [k for k in range(3) if k != c]].logsumexp(1) for c in range(3)], 1)
    for name, act in seen.items():
        torch.testing.assert_close(got.maps[name], act.detach())
        for c in range(3):
            (slope,) = torch.autograd.grad(margins[:, c].sum(), act, retain_graph=True)
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


def test_the_target_of_one_class_is_its_logit() -> None:
    logits = torch.tensor([[2.0], [3.0]])
    assert torch.equal(class_targets(logits), logits)
    f = Classifier(Toy(1), ["a"], None, SMALL)
    torch.testing.assert_close(f.inspect(photos(), gradients=True).gradcam, f.gradcam(photos()))
    found = f.inspect(photos(), gradients=["features"])
    product = found.maps["features"] * f.network.head.weight[0, :, None, None] / 64
    torch.testing.assert_close(found.grad_act["features"][:, 0], product.sum(1))


def test_bf16_stays_near_fp32_and_gives_float32(cached: Callable[[str], Classifier]) -> None:
    f = cached("resnet18")
    rough = Classifier(f.network, NAMES, INDICES, f.transform, precision="bf16")
    exact, got = f.inspect(photos(), gradients=True), rough.inspect(photos(), gradients=True)
    for a, b in ((exact.logits, got.logits), (exact.gradcam, got.gradcam), (exact.maps["layer3"], got.maps["layer3"])):
        assert b.dtype == torch.float32
        assert 0 < (a - b).norm() < 0.05 * a.norm()


@pytest.mark.parametrize(
    ("cpu", "gpu", "wanted"),
    [
        ({"avx512_bf16": True}, False, "bf16"),
        ({"amx_bf16": True}, False, "bf16"),
        ({"avx512_bf16": False, "avx512_f": True}, False, "fp32"),
        ({"avx2": True}, True, "bf16"),
        ({}, False, "fp32"),
    ],
)
def test_precision_auto_is_bf16_where_it_is_not_emulated(
    monkeypatch: pytest.MonkeyPatch, cpu: dict[str, bool], gpu: bool, wanted: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    f = Classifier(Toy(2), ["a", "b"], None, SMALL, precision="auto")
    assert f.precision == wanted
    assert f.spec["precision"] == wanted, "a run that is opened on another machine is of the same classifier"
    lightning = {"bf16": "bf16-mixed", "fp32": "32-true"}[wanted]
    assert FitOptions.of({"precision": "auto"}).precision == lightning


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


def test_modules_without_weights_change_the_version() -> None:
    def sequence(activation: nn.Module) -> Classifier:
        torch.manual_seed(2)
        layers = (nn.Conv2d(3, 5, 4, 4), activation, nn.Conv2d(5, 5, 2, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return Classifier(nn.Sequential(*layers, nn.Linear(5, 4)), NAMES, [0, 1, 2], SMALL)

    assert sequence(nn.ReLU()).version == sequence(nn.ReLU()).version != sequence(nn.GELU()).version


def test_the_fingerprint_changes_with_everything_that_matters(tmp_path: Path) -> None:
    one = toy().fingerprint
    assert one == toy().fingerprint
    torch.manual_seed(3)
    same = Toy()
    others = [
        toy(layers=["features.4"]),
        toy(built_by={"_target_": "another"}),
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


def test_compiled_passes_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain passes run compiled, those whose maps are read do not; both give the network's own numbers."""
    calls: list[int] = []

    def compiled(module: nn.Module) -> Callable[[Tensor], Tensor]:
        return lambda x: calls.append(len(x)) or module(x)  # type: ignore[func-returns-value]

    monkeypatch.setattr(torch, "compile", compiled)
    f, plain = toy(compiled=True), toy()
    x = photos(3)
    assert torch.equal(f(x), plain(x)) and calls == [3]
    assert torch.equal(f.inspect(x).gradcam, plain.inspect(x).gradcam) and calls == [3], (
        "maps are read of the network itself"
    )
    assert f.fingerprint == plain.fingerprint and "compile" not in f.spec


def test_without_a_compiler_it_runs_as_it_is(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fails(module: nn.Module) -> Callable[[Tensor], Tensor]:
        def call(x: Tensor) -> Tensor:
            raise RuntimeError("No working C++ compiler found\nmore")

        return call

    monkeypatch.setattr(torch, "compile", fails)
    f, plain = toy(compiled=True), toy()
    assert torch.equal(f(photos(2)), plain(photos(2))) and torch.equal(f(photos(1)), plain(photos(1)))
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.startswith("classifier.compile=true") and "No working C++ compiler found" in line


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_torch_compile_itself(caplog: pytest.LogCaptureFixture) -> None:
    assert random_classifier("resnet10t", compile=True)._compiled.works
    f, plain = toy(compiled=True), toy()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of the compiler
        for size in (1, 3):
            torch.testing.assert_close(f(photos(size)), plain(photos(size)), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(f.gradcam(photos()), plain.gradcam(photos()))
    assert f._compiled.works and not [r for r in caplog.records if "classifier.compile" in r.getMessage()]


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_maps_alone_are_those_of_inspect_and_nothing_later_runs(cached: Callable[[str], Classifier], name: str) -> None:
    f, x = cached(name), photos()
    layers = [layer.name for layer in f.layers][:2]
    ran = []
    handle = f.network.get_submodule(f.layers[-1].name).register_forward_hook(lambda *_: ran.append(1))
    found = maps_alone(f, x, layers)
    handle.remove()
    assert not ran and list(found) == layers
    for layer, values in f.inspect(x, layers=layers).maps.items():
        torch.testing.assert_close(found[layer], values)
    assert f(x).shape == (len(x), len(INDICES)), "it still runs to its end"
    with pytest.raises(VRXError, match="no layer nowhere"):
        maps_alone(f, x, ["nowhere"])
