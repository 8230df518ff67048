"""Loss terms by hand, ranks against scipy, planted truth, batches of both kinds, resume."""

import functools
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from scipy import stats
from torch import Tensor
from torch.utils.data import DataLoader

from vrx.errors import VRXError
from vrx.explain.contributions import Knockout
from vrx.models.additive import AdditiveGRN
from vrx.models.distillation import TERMS, Distillation, distillation_terms, falls, grn_of_checkpoint
from vrx.models.grn import GRN
from vrx.scores import pearson, spearman
from vrx.structures import SCG

N_CLASSES, NUM, WIDTH = 3, 2, 4
VARIANTS = N_CLASSES * NUM


def problem(photos: int, seed: int) -> dict[str, Any]:
    """A table of photos whose F adds up evidence: what F loses with a node is known exactly.

    Feature c of a node of any graph is its evidence for class c; feature 3 says nothing.
    """
    g = torch.Generator().manual_seed(seed)
    detected = torch.rand(photos, N_CLASSES, NUM, generator=g) < 0.8
    nodes = torch.randn(photos, N_CLASSES, NUM, WIDTH, generator=g)
    places = torch.rand(photos, N_CLASSES, NUM, 2, generator=g)
    scg = SCG(nodes, places, torch.ones_like(detected)).drop(~detected)
    evidence = torch.where(detected.unsqueeze(-1), nodes[..., :N_CLASSES], 0)
    logits = evidence.sum((1, 2))
    lost = evidence.reshape(photos, VARIANTS, N_CLASSES)
    drop = torch.eye(VARIANTS, dtype=torch.bool).reshape(1, VARIANTS, N_CLASSES, NUM).repeat(photos, 1, 1, 1)
    return {
        "scg": scg,
        "logits": logits,
        "drop": drop,
        "masked_logits": logits[:, None] - lost,
        "valid": detected.reshape(photos, VARIANTS),
    }


def pick(table: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    return {k: v[rows] for k, v in table.items()}


def loader(table: dict[str, Any], size: int, shuffle: bool = False) -> DataLoader[Any]:
    rows: Any = range(len(table["logits"]))
    return DataLoader(rows, size, shuffle=shuffle, collate_fn=functools.partial(pick, table))


def student(**kwargs: Any) -> Distillation:
    """Small, with every loss term on unless told otherwise."""
    torch.manual_seed(kwargs.pop("seed", 0))
    optimizer = functools.partial(torch.optim.Adam, lr=kwargs.pop("lr", 0.01))
    kwargs = {"weights": dict.fromkeys(TERMS, 1.0), **kwargs}
    return Distillation(GRN(N_CLASSES, NUM, WIDTH, (16, 16), (5, 5)), optimizer, **kwargs)


def trainer(folder: Path, epochs: int, *callbacks: Callback, precision: Any = None) -> Trainer:
    return Trainer(
        precision=precision,
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        callbacks=list(callbacks),
        num_sanity_val_steps=0,
        default_root_dir=str(folder),
    )


def test_spearman_is_scipys_with_ties_and_gaps() -> None:
    rng = random.Random(0)
    a = torch.tensor([[rng.randint(0, 4) / 4 for _ in range(9)] for _ in range(60)])
    b = torch.tensor([[rng.randint(0, 4) / 4 for _ in range(9)] for _ in range(60)])
    valid = torch.tensor([[rng.random() < 0.8 for _ in range(9)] for _ in range(60)])
    valid[:, :3] = True
    ours = spearman(a, b, valid)
    counted = 0
    for x, y, keep, value in zip(a, b, valid, ours, strict=True):
        if x[keep].unique().numel() > 1 and y[keep].unique().numel() > 1:
            assert value.item() == pytest.approx(stats.spearmanr(x[keep], y[keep]).statistic, abs=1e-5)
            counted += 1
        else:
            assert value.item() == 0.0
    assert counted > 40


@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_pearson_is_scipys_at_any_scale(scale: float) -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 20, 6, generator=g)
    a, b = a * scale, b * scale
    valid = torch.rand(20, 6, generator=g) < 0.8
    valid[:, :3] = True
    expected = [stats.pearsonr(x[k], y[k]).statistic for x, y, k in zip(a, b, valid, strict=True)]
    torch.testing.assert_close(pearson(a, b, valid), torch.tensor(expected).float(), atol=1e-3, rtol=0)


def test_pearson_of_a_constant_has_a_gradient_without_nan() -> None:
    a = torch.zeros(1, 4, requires_grad=True)
    value = pearson(a, torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.ones(1, 4, dtype=torch.bool))
    value.sum().backward()
    assert value.item() == 0.0
    assert a.grad is not None
    assert a.grad.isfinite().all()


def slow_terms(clean: Tensor, masked: Tensor, f: Tensor, f_masked: Tensor, valid: Tensor) -> dict[str, float]:
    """The four terms photo by photo in plain Python."""

    def softmax(v: list[float]) -> list[float]:
        total = sum(math.exp(x) for x in v)
        return [math.exp(x) / total for x in v]

    def l1(a: list[float], b: list[float]) -> float:
        return sum(abs(x - y) for x, y in zip(softmax(a), softmax(b), strict=True))

    def even(v: list[float]) -> list[float]:
        return [x - sum(v) / len(v) for x in v]

    def smooth(a: list[float], b: list[float]) -> float:
        gaps = [abs(x - y) for x, y in zip(even(a), even(b), strict=True)]
        return sum(0.5 * d * d if d < 1 else d - 0.5 for d in gaps) / len(gaps)

    def margin(v: list[float], c: int) -> float:
        return v[c] - math.log(sum(math.exp(x) for i, x in enumerate(v) if i != c))

    def less(a: list[float], b: list[float]) -> list[float]:
        return [x - y for x, y in zip(a, b, strict=True)]

    photos, variants = valid.shape
    g, f_, m, fm = clean.tolist(), f.tolist(), masked.tolist(), f_masked.tolist()
    pairs = [(p, v) for p in range(photos) for v in range(variants) if valid[p, v]]
    correlations = []
    for p in range(photos):
        kept = [v for v in range(variants) if valid[p, v]]
        if len(kept) >= 3:
            c = f_[p].index(max(f_[p]))
            ours = [margin(g[p], c) - margin(m[p][v], c) for v in kept]
            theirs = [margin(f_[p], c) - margin(fm[p][v], c) for v in kept]
            correlations.append(1 - stats.pearsonr(ours, theirs).statistic)

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    return {
        "softmax_l1": mean([l1(a, b) for a, b in zip(g, f_, strict=True)])
        + mean([l1(m[p][v], fm[p][v]) for p, v in pairs]),
        "logits": mean([smooth(a, b) for a, b in zip(g, f_, strict=True)])
        + mean([smooth(m[p][v], fm[p][v]) for p, v in pairs]),
        "difference": mean([smooth(less(g[p], m[p][v]), less(f_[p], fm[p][v])) for p, v in pairs]),
        "correlation": mean(correlations),
    }


def random_answers() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    clean, f = (torch.randn(4, 3, generator=g) * 2 for _ in range(2))
    masked, f_masked = (torch.randn(4, 5, 3, generator=g) * 2 for _ in range(2))
    valid = torch.tensor([[1, 1, 1, 0, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
    return clean, masked, f, f_masked, valid


def test_loss_terms_are_those_of_a_slow_loop() -> None:
    answers = random_answers()
    terms = distillation_terms(*answers)
    expected = slow_terms(*answers)
    assert set(terms) == set(TERMS)
    for name, value in terms.items():
        assert value.item() == pytest.approx(expected[name], rel=1e-4), name


def test_what_is_not_valid_does_not_matter() -> None:
    clean, masked, f, f_masked, valid = random_answers()
    expected = distillation_terms(clean, masked, f, f_masked, valid)
    f_masked = f_masked.masked_fill(~valid.unsqueeze(-1), 1e6)
    for name, value in distillation_terms(clean, masked, f, f_masked, valid).items():
        assert value.item() == pytest.approx(expected[name].item()), name


def test_a_perfect_student_loses_nothing() -> None:
    _, _, f, f_masked, valid = random_answers()
    terms = distillation_terms(f, f_masked, f, f_masked, valid)
    assert all(abs(value.item()) < 1e-5 for value in terms.values())


def test_falls_are_of_the_class_that_f_predicts() -> None:
    clean, masked = torch.tensor([[1.0, 3.0]]), torch.tensor([[[0.0, 0.5]]])
    by_f = torch.tensor([[5.0, 0.0]])  # two classes: margin 0 = logit 0 - logit 1
    assert falls(clean, masked, by_f).item() == pytest.approx((1 - 3) - (0 - 0.5))


@pytest.mark.slow
def test_recovers_planted_importance(tmp_path: Path) -> None:
    """Held-out photos: knockout ranks the nodes as F's additive truth does."""
    train, val = problem(400, 0), problem(100, 1)
    module = student(scheduler=functools.partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=25))
    fit = trainer(tmp_path, 25)
    seed_everything(0, verbose=False)
    fit.fit(module, loader(train, 50, shuffle=True), loader(val, 64))
    logged = {k: float(v) for k, v in fit.callback_metrics.items()}
    assert logged["val/agreement"] > 0.85
    assert logged["val/spearman"] > 0.9
    scores = Knockout()(module.grn, val["scg"])
    predicted = val["logits"].argmax(1)
    truth = falls(val["logits"], val["masked_logits"], val["logits"])
    ours = scores[torch.arange(100), predicted].flatten(1)
    each = [
        stats.spearmanr(a[k], b[k]).statistic for a, b, k in zip(ours, truth, val["valid"], strict=True) if k.sum() >= 3
    ]
    assert sum(each) / len(each) > 0.9
    # the logged score is the same question asked through the training batches
    assert logged["val/spearman"] == pytest.approx(sum(each) / len(each), abs=1e-3)


def test_scores_are_exact_and_do_not_depend_on_the_batches(tmp_path: Path) -> None:
    val = problem(21, 2)
    val["valid"][:4, 2:] = False  # fewer than three variants
    module = student()
    found = [trainer(tmp_path, 1).validate(module, loader(val, size), verbose=False)[0] for size in (1, 8, 21)]
    for other in found[1:]:
        assert other == pytest.approx(found[0], abs=1e-4)
    grn, valid = module.grn.eval(), val["valid"]
    with torch.no_grad():
        clean = grn(val["scg"])
        masked = torch.stack([grn(val["scg"].drop(val["drop"][:, v])) for v in range(VARIANTS)], 1)
    agreement = (clean.argmax(1) == val["logits"].argmax(1)).double().mean().item()
    same = (masked.argmax(2) == val["masked_logits"].argmax(2))[valid].double().mean().item()
    far = (masked.softmax(2) - val["masked_logits"].softmax(2)).abs().sum(2)[valid].mean().item()
    ours, theirs = (falls(c, m, val["logits"]) for c, m in ((clean, masked), (val["logits"], val["masked_logits"])))
    each = [stats.spearmanr(a[k], b[k]).statistic for a, b, k in zip(ours, theirs, valid, strict=True) if k.sum() >= 3]
    rho = sum(each) / len(each)
    assert found[0]["val/agreement"] == pytest.approx(agreement, abs=1e-5)
    assert found[0]["val/agreement_masked"] == pytest.approx(same, abs=1e-5)
    assert found[0]["val/l1_masked"] == pytest.approx(far, abs=1e-4)
    assert found[0]["val/spearman"] == pytest.approx(rho, abs=1e-4)
    assert found[0]["val/objective"] == pytest.approx(rho + min(agreement, 0.98), abs=1e-4)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")  # no links here
@pytest.mark.parametrize("kind", ["additive", "paper"])
def test_bf16_learns_as_fp32_does(tmp_path: Path, kind: str) -> None:
    """As ``trainer=gpu`` trains; here on the CPU."""
    train, val, found = problem(200, 0), problem(60, 1), []
    for precision in ("32-true", "bf16-mixed"):
        module = student()
        if kind == "additive":
            module.grn = AdditiveGRN(N_CLASSES, NUM, WIDTH)
        seed_everything(0, verbose=False)
        fit = trainer(tmp_path, 8, precision=precision)
        fit.fit(module, loader(train, 50, shuffle=True), loader(val, 60))
        found.append({name: float(fit.callback_metrics[f"val/{name}"]) for name in ("spearman", "agreement", "l1")})
    assert found[0]["spearman"] > 0.3
    assert found[1] == pytest.approx(found[0], abs=0.1) and found[1] != found[0]


def test_objective_is_configurable_and_capped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vrx.models.distillation.ENOUGH_AGREEMENT", 0.1)
    val = problem(30, 2)
    module = student(objective={"spearman": 2.0, "agreement": 1.0, "l1": -0.5})
    found = trainer(tmp_path, 1).validate(module, loader(val, 30), verbose=False)[0]
    expected = 2 * found["val/spearman"] + min(found["val/agreement"], 0.1) - 0.5 * found["val/l1"]
    assert found["val/agreement"] > 0.1
    assert found["val/objective"] == pytest.approx(expected, abs=1e-5)


def test_nothing_to_mask_is_measured_as_zero_and_trains(tmp_path: Path) -> None:
    val = problem(6, 2)
    val["valid"][:] = False
    fit, module = trainer(tmp_path, 1), student()
    fit.fit(module, loader(val, 2), loader(val, 3))
    found = {k: float(v) for k, v in fit.callback_metrics.items()}
    assert found["val/spearman"] == found["val/agreement_masked"] == found["train/correlation"] == 0.0
    assert found["val/l1"] > 0
    assert all(p.isfinite().all() for p in module.parameters())


def test_draws_valid_variants_first_and_all_of_them_in_time() -> None:
    valid = torch.tensor([[0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 1, 0]]).bool()
    torch.manual_seed(0)
    drawn = [Distillation._drawn(valid, 2) for _ in range(40)]
    assert {int(v) for d in drawn for v in d[0]} == {1, 3, 4}
    assert all(len(set(d[0].tolist())) == 2 and 4 in d[1].tolist() for d in drawn)
    assert Distillation._drawn(valid, 0).shape == (2, 6)


def test_a_term_of_weight_zero_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: dict[str, Tensor] = {}
    monkeypatch.setattr(LightningModule, "log_dict", lambda _, values, **__: logged.update(values))
    module = student(weights={"softmax_l1": 2.0, "logits": 0.0, "difference": 0.5}, variants_per_step=0)
    batch = pick(problem(6, 0), list(range(6)))
    loss = module.training_step(batch, 0)
    assert set(logged) == {"train/loss", "train/softmax_l1", "train/difference"}
    assert loss.item() == pytest.approx(2 * logged["train/softmax_l1"].item() + 0.5 * logged["train/difference"].item())


def test_the_terms_of_coalitions_against_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: dict[str, Tensor] = {}
    monkeypatch.setattr(LightningModule, "log_dict", lambda _, values, **__: logged.update(values))
    weights = {"softmax_l1": 0.0, "coalition": 1.0, "interaction": 1.0, "ranking": 1.0}
    module = student(weights=weights, variants_per_step=0).eval()
    torch.manual_seed(0)
    for parameter in module.grn.parameters():  # a fresh one has hardly any interactions
        parameter.data.normal_(0, 0.5)
    batch = pick(problem(4, 0), [0, 1, 2, 3])
    g = torch.Generator().manual_seed(2)
    photos, sets, variants = 4, 5, batch["valid"].shape[1]
    batch["coalition_members"] = torch.rand(photos, sets, variants, generator=g) < 0.4
    batch["coalition_members"][0, 1] = False
    batch["coalition_logits"] = torch.randn(photos, sets, N_CLASSES, generator=g)
    module.training_step(batch, 0)
    scg, grn = batch["scg"], module.grn
    found: dict[str, list[float]] = {"coalition": [], "interaction": [], "ranking": []}

    def loss(ours: Tensor, theirs: Tensor) -> float:
        return float(torch.nn.functional.smooth_l1_loss(ours - ours.mean(), theirs - theirs.mean()).detach())

    for b in range(photos):
        one = scg[b : b + 1]
        clean, f_clean, f_masked = grn(one)[0], batch["logits"][b], batch["masked_logits"][b]
        masked = [grn(one.drop(batch["drop"][b, v]))[0] for v in range(variants)]
        both = []
        for q in range(sets):
            some = batch["coalition_members"][b, q].nonzero()[:, 0].tolist()
            if not some:
                continue
            fall = clean - grn(one.drop(batch["drop"][b, some].any(0)))[0]
            f_fall = f_clean - batch["coalition_logits"][b, q]
            found["coalition"].append(loss(fall, f_fall))
            excess = fall - sum(clean - masked[v] for v in some)
            f_excess = f_fall - sum(f_clean - f_masked[v] for v in some)
            found["interaction"].append(loss(excess, f_excess))
            own = int(f_clean.argmax())
            both.append([float((e - e.mean())[own]) for e in (excess.detach(), f_excess)])
        if len(both) >= 3:
            found["ranking"].append(1 - np.corrcoef(np.array(both).T)[0, 1])
    for name, values in found.items():
        assert logged[f"train/{name}"].item() == pytest.approx(np.mean(values), rel=1e-3), name
    with pytest.raises(VRXError, match="variants_per_step=2"):
        student(weights={"interaction": 1.0}, variants_per_step=2)
    with pytest.raises(VRXError, match=r"coalition.*set graph.coalitions"):
        module.training_step(pick(problem(4, 0), [0, 1, 2, 3]), 0)


def test_unknown_settings_are_named() -> None:
    with pytest.raises(VRXError, match=r"no sofmax.*softmax_l1"):
        student(weights={"sofmax": 1.0})
    with pytest.raises(VRXError, match=r"no accuracy.*agreement"):
        student(objective={"accuracy": 1.0})
    with pytest.raises(VRXError, match="all 0"):
        student(weights={"softmax_l1": 0.0})


def test_moves_graphs_and_tensors() -> None:
    moved = student().transfer_batch_to_device(problem(2, 0), torch.device("meta"), 0)
    assert moved["scg"].nodes.device.type == moved["scg"].detected.device.type == moved["drop"].device.type == "meta"


class Interrupt(Callback):
    """Stop dead when an epoch begins."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            raise RuntimeError("power cut")


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize("chance", [False, True])
def test_resumed_training_is_bit_identical(tmp_path: Path, chance: bool) -> None:
    """The same weights as if nothing had happened, with random order, variants and dropout too."""
    train, val = problem(40, 0), problem(10, 1)

    def fit(folder: Path, *callbacks: Callback, resume: Path | None = None, seed: int = 0) -> Distillation:
        schedule = functools.partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[2, 4], gamma=0.5)
        module = student(variants_per_step=2 if chance else 0, scheduler=schedule, seed=seed)
        module.grn.dropout.p = 0.3 if chance else 0.0
        last = ModelCheckpoint(
            folder, save_last=True, monitor="val/objective", mode="max", auto_insert_metric_name=False
        )
        trainer(folder, 5, last, *callbacks).fit(
            module, loader(train, 16, shuffle=chance), loader(val, 5), ckpt_path=str(resume) if resume else None
        )
        return module

    whole = fit(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path / "cut", Interrupt(3))
    resumed = fit(tmp_path / "cut", resume=tmp_path / "cut" / "last.ckpt", seed=9)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_checkpoint_rebuilds_the_grn_from_plain_numbers(tmp_path: Path) -> None:
    module = student()
    last = ModelCheckpoint(tmp_path, save_last=True)
    trainer(tmp_path, 1, last).fit(module, loader(problem(8, 0), 4), loader(problem(4, 1), 4))
    grn = grn_of_checkpoint(tmp_path / "last.ckpt")
    scg = problem(3, 5)["scg"]
    assert torch.equal(grn(scg), module.grn.eval()(scg))
    (tmp_path / "broken.ckpt").write_bytes(b"nothing")
    with pytest.raises(VRXError, match=r"broken\.ckpt is not a checkpoint"):
        grn_of_checkpoint(tmp_path / "broken.ckpt")


class Tables:
    """What the distillation reads of the data module."""

    def __init__(self, table: dict[str, Any]) -> None:
        self.tables = {"train": {"nodes": table["scg"].nodes, "detected": table["scg"].detected}}


def test_takes_the_scale_of_the_nodes_from_the_training_graphs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    table = problem(50, 0)
    module = student()
    monkeypatch.setattr(Distillation, "trainer", type("T", (), {"datamodule": Tables(table)})())
    module.on_fit_start()
    seen = table["scg"].nodes[table["scg"].detected]
    torch.testing.assert_close(module.grn.node_mean, seen.mean(0))
    torch.testing.assert_close(module.grn.node_std, seen.std(0))
    monkeypatch.setattr(Distillation, "trainer", type("T", (), {"datamodule": Tables(problem(50, 9))})())
    module.on_fit_start()  # a resumed run keeps the scale of its checkpoint
    torch.testing.assert_close(module.grn.node_mean, seen.mean(0))
