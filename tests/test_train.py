"""``train.py`` from photos to report: every experiment, the caches, sweeps, Ctrl-C, several processes, bad input."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import train
from tests import wandb_reader
from tests.pipeline import (
    COUNTS,
    SMALL,
    WNIDS,
    Finished,
    finished_run,
    ilab_tree,
    imagenet_tree,
    places,
    refused,
    run_explain,
    run_train,
)
from tests.test_tracking import Server
from vrx.bank import ConceptBank
from vrx.classifier.classifier import Classifier
from vrx.commands import train as stages
from vrx.dashboard import BARS, CURVES, NUMBERS
from vrx.data.scg_cache import SCGCache
from vrx.explain.explainer import SPEC, Explainer
from vrx.models.classification import Classification
from vrx.models.distillation import Distillation
from vrx.tracking import KEPT

ROOT = Path(__file__).parents[1]
PARTS = {"concepts/purity", "concepts/consistency"}  # where there are part masks
NAMED = (
    "fidelity/agreement",
    "fidelity/l1",
    "fidelity/agreement_masked",
    "fidelity/l1_masked",
    "faithfulness/spearman",
    "faithfulness/spearman_area",
    "faithfulness/ceiling",
    "val/objective",
    "time/graphs_s",
    "time/distillation_s",
    "concepts/significant",
    "completeness/deletion",
    "stability/found",
    "time/quality_s",
)


def metrics(run: Path) -> dict[str, Any]:
    found = json.loads((run / "metrics.json").read_text())
    assert isinstance(found, dict)
    return found


def check_finished(run: Path, classes: int) -> None:
    """All that a run leaves, and it opens."""
    found = metrics(run)
    assert set(NAMED) <= set(found)
    for name in ("fidelity/agreement", "fidelity/l1", "val/objective"):
        assert isinstance(found[name], float) and np.isfinite(found[name]), name
    assert len(list((run / "concepts").glob("gallery_*.png"))) == classes
    page = (run / "reports" / "index.html").read_text()
    assert "data:image" in page and 'class="confusion"' in page and "What pairs of its concepts add" in page
    assert len(list((run / "reports").glob("explanation_*.png"))) == 2
    assert len(Explainer.load(run).bank.class_names) == classes


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many photos each pass of F was asked about."""
    passes: list[int] = []
    forward = Classifier.forward

    def counted(self: Classifier, x: torch.Tensor) -> torch.Tensor:
        passes.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(Classifier, "forward", counted)
    return passes


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finished_run(tmp_path_factory.getbasetemp() / "finished")


# --- the shared run, and what later runs take from it


@pytest.mark.slow
def test_a_run_leaves_all_that_the_other_commands_need(finished: Finished) -> None:
    check_finished(finished.folder, classes=3)
    logged = (finished.folder / "logs" / "metrics.csv").read_text().splitlines()[0].split(",")
    for name in ("fit/train_loss", "concepts/importance", "train/loss", "val/objective", "fidelity/agreement"):
        assert name in logged  # fit of F, concepts, distillation, evaluation
    assert str(finished.photos) in (finished.folder / "config.yaml").read_text()


@pytest.mark.slow
def test_the_same_command_again_never_asks_f(
    finished: Finished, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("this was finished before")

    for owner, name in ((Classification, "training_step"), (Distillation, "training_step"), (ConceptBank, "save")):
        monkeypatch.setattr(owner, name, never)
    monkeypatch.setattr(stages, "report", lambda *_: finished.folder)  # its explanations do ask F
    monkeypatch.setattr(stages, "quality", lambda *_: [])  # so do its edits,
    monkeypatch.setattr(stages, "relations", lambda *_: None)  # and so do these
    monkeypatch.setattr(Explainer, "save", lambda *_: None)
    again = run_train(*finished.overrides)
    assert again != finished.folder and not asked
    same = {k: v for k, v in metrics(again).items() if not k.startswith(("time/", "throughput/"))}
    assert same == {k: v for k, v in metrics(finished.folder).items() if k in same}
    assert {"val/objective", "fidelity/agreement", "faithfulness/spearman"} <= set(same)


@pytest.mark.slow
def test_a_sweep_trains_on_the_cached_graphs_and_returns_the_objective(
    finished: Finished, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    returned: list[float] = []
    objective = stages.Run.objective.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(
        stages.Run, "objective", property(lambda self: returned.append(objective(self)) or returned[-1])
    )
    trained: list[float] = []
    step = Distillation.training_step

    def watched(self: Distillation, batch: Mapping[str, Any], index: int) -> Any:
        trained.append(self.optimizers().optimizer.defaults["lr"])  # type: ignore[union-attr]
        return step(self, dict(batch), index)

    monkeypatch.setattr(Distillation, "training_step", watched)
    run_train("-m", "model.optimizer.lr=0.0041,0.0103", *finished.overrides)
    (sweep,) = (finished.home / "runs" / "tiny").glob("sweep_*")
    jobs = [metrics(sweep / number) for number in ("0", "1")]
    assert not asked
    assert set(trained) == {0.0041, 0.0103}  # rates of no other test: a finished GRN is not trained again
    assert list(dict.fromkeys(returned)) == [job["val/objective"] for job in jobs]
    assert all((sweep / number / SPEC).exists() for number in ("0", "1"))


@pytest.mark.slow
def test_a_changed_setting_of_the_trainer_misses_the_cache(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    class TrainedError(Exception):
        pass

    def trained(*_: Any) -> Any:
        raise TrainedError

    monkeypatch.setattr(Distillation, "training_step", trained)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(TrainedError):
        run_train(*finished.overrides, "trainer.gradient_clip_val=0.1")


# --- Ctrl-C, and the same command again


@pytest.fixture
def interrupted(capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Runs a command that Ctrl-C ends: exit status 130 and one line."""

    def run(*overrides: str) -> None:
        with pytest.raises(SystemExit) as exit_:
            run_train(*overrides)
        assert exit_.value.code == 130
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert said.count("the same command goes on from there") == 1

    yield run


@pytest.mark.slow
def test_ctrl_c_while_graphs_are_built_and_while_the_grn_is_distilled(
    finished: Finished, interrupted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*finished.overrides, "graph.variants=2", "trainer.max_epochs=3"]
    write, written = SCGCache.write, []

    def write_and_stop(self: SCGCache, *args: Any) -> None:
        write(self, *args)
        written.append(self.path(args[0]))
        if len(written) == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(SCGCache, "write", write_and_stop)
    interrupted(*command)
    (first,) = written
    before = first.stat().st_mtime_ns

    epochs: list[int] = []
    step = Distillation.training_step

    def step_or_stop(self: Distillation, batch: dict[str, Any], index: int) -> Any:
        epochs.append(self.current_epoch)
        if len(set(epochs)) == 3:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, index)

    monkeypatch.setattr(Distillation, "training_step", step_or_stop)
    interrupted(*command)
    assert first.stat().st_mtime_ns == before and written.count(first) == 1
    assert max(epochs) == 2

    unfinished = [p.parent for p in finished.home.glob("runs/tiny/*/config.yaml") if not (p.parent / SPEC).exists()]
    assert len(unfinished) >= 2  # what was logged is kept, but nobody takes it for a run
    written.clear()
    epochs.clear()
    run = run_train(*command)
    check_finished(run, classes=3)
    assert not written  # no graph is built twice
    assert set(epochs) == {2}  # and no finished epoch trained twice


@pytest.mark.slow
def test_ctrl_c_while_f_is_fitted(finished: Finished, interrupted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: list[int] = []
    step = Classification.training_step

    def step_or_stop(self: Classification, batch: Any, index: int) -> Any:
        epochs.append(self.current_epoch)
        if self.current_epoch == 1:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, index)

    monkeypatch.setattr(Classification, "training_step", step_or_stop)
    command = [*finished.overrides, "classifier.fit.lr=0.001"]
    interrupted(*command)
    assert set(epochs) == {0, 1}
    epochs.clear()
    interrupted(*command)
    assert set(epochs) == {1}  # the first epoch is kept, and half a fit is never taken for F


# --- several processes


@pytest.mark.slow
def test_two_processes_share_the_work_and_the_first_one_reports(finished: Finished) -> None:
    command = [*finished.overrides, "trainer=ddp_cpu", "trainer.max_epochs=2", "graph.variants=1", "name=two"]
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "WORLD_SIZE", "PL_GLOBAL_SEED")}
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *command],
        cwd=finished.home,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = (finished.home / "runs" / "two").iterdir()
    check_finished(run, classes=3)
    assert done.stderr.count("== distillation") + done.stdout.count("== distillation") == 1  # one process speaks
    (log,) = [p for p in (finished.home / "cache" / "grn").glob("*/finished.json") if _trained_for(p, run)]
    assert json.loads(log.read_text())["val/objective"] == metrics(run)["val/objective"]


def _trained_for(finished: Path, run: Path) -> bool:
    """Whether a run's GRN is the best checkpoint of this distillation."""
    theirs, ours = (load_file(path / "grn.safetensors") for path in (finished.parent, run / "checkpoints"))
    return theirs.keys() == ours.keys() and all(torch.equal(theirs[name], value) for name, value in ours.items())


# --- the experiments, on small trees


@pytest.mark.slow
def test_xception_vehicles_logs_every_stage_to_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = run_train(
        "experiment=xception_vehicles",
        f"data.root={imagenet_tree(tmp_path / 'photos')}",
        f"data.classes=[{','.join(WNIDS)}]",  # three of the six: their names and outputs are known
        *COUNTS,
        "classifier.pretrained=false",
        "classifier.input_size=72",
        *SMALL,
        *places(tmp_path),
    )
    check_finished(run, classes=3)
    assert ConceptBank.load(run / "concepts").class_names == tuple(WNIDS.values())
    found = wandb_reader.records(run)
    rows = wandb_reader.rows(found)
    logged = {name.removesuffix("._type") for row in rows for name in row}
    for name in ("concepts/importance", "train/loss", "val/objective", "fidelity/agreement", "faithfulness/spearman"):
        assert name in logged
    pictures = {f"{kind}/{name}" for kind in ("concepts", "relations") for name in WNIDS.values()}
    assert pictures | {"explanations/01", "explanations/02", "report", "photos"} <= logged
    assert {"confusion/classifier_table", "confusion/grn_table"} <= logged
    captions = {k: v for row in rows for k, v in row.items() if k.endswith(".caption")}
    assert captions["explanations/01.caption"].startswith("Predicted ")
    assert "3 concepts, by importance" in captions["concepts/ambulance.caption"]
    shown = {*NUMBERS, *(name for names in (*CURVES.values(), *BARS.values()) for name in names)}
    assert shown - PARTS <= logged  # all that the dashboard lays out
    config = [update for record in wandb_reader.of(found, "config") for update in record["update"].items()]
    assert ("classifier", "timm/legacy_xception") in [(k, v.get("name")) for k, v in config if isinstance(v, dict)]
    table = json.loads(next(run.glob("logs/wandb/offline-*/files/media/table/confusion/classifier_*")).read_text())
    assert sum(row[2] for row in table["data"]) == 2 * 3  # all test photos
    kept = [a for a in wandb_reader.of(found, "artifact") if a["type"] in KEPT]
    assert [a["name"] for a in kept] == [f"{kind}-xception_vehicles" for kind in KEPT]
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setattr("wandb.Api", Server(kept))
    photo = next((tmp_path / "photos" / "val").rglob("*.jpg"))
    downloads = f"artifacts={tmp_path / 'downloads'}"
    run_explain("run=me/vrx/grn-xception_vehicles:latest", f"images={photo}", "formats=[json]", downloads)
    (written,) = tmp_path.glob(f"downloads/me-vrx-abc/explanations/{photo.stem}/explanation.json")
    ours = Explainer.load(run).explain(photo)
    np.testing.assert_allclose(json.loads(written.read_text())["grn_logits"], ours.grn_logits, atol=1e-4)


@pytest.mark.slow
def test_googlenet_vehicles_runs_on_a_folder_tree(tmp_path: Path) -> None:
    run = run_train(
        "experiment=googlenet_vehicles",
        f"data.root={imagenet_tree(tmp_path / 'photos')}",
        f"data.classes=[{','.join(WNIDS)}]",  # three of the six: their names and outputs are known
        *COUNTS,
        "classifier.pretrained=false",
        "classifier.input_size=64",
        "logger=csv",
        *SMALL,
        *places(tmp_path),
    )
    check_finished(run, classes=3)


@pytest.mark.slow
def test_resnet18_ilab20m_fits_f_on_views_of_toys(tmp_path: Path) -> None:
    run = run_train(
        "experiment=resnet18_ilab20m",
        f"data.root={ilab_tree(tmp_path / 'views')}",
        *COUNTS,
        "classifier.pretrained=false",
        "classifier.input_size=64",
        "classifier.fit.epochs=1",
        "classifier.fit.batch_size=4",
        "classifier.fit.workers=0",
        "logger=none",
        *SMALL,
        *places(tmp_path),
    )
    check_finished(run, classes=3)
    assert ConceptBank.load(run / "concepts").class_names == ("bus", "military", "tank")


@pytest.mark.slow
def test_imagenette_runs_on_other_classes_with_given_weights(tmp_path: Path) -> None:
    folders = ("n03417042", "n03425413")
    photos = imagenet_tree(tmp_path / "photos", folders)
    weights = timm.create_model("mobilenetv2_100", pretrained=False, pad_type="same").state_dict()
    save_file(weights, photos / "mobilenetv2_100.safetensors")
    run = run_train(
        "experiment=imagenette",
        f"data.root={photos}",
        "data.classes={n03417042: lorry, n03425413: pump}",
        *COUNTS,
        "classifier.input_size=64",
        *SMALL,
        *places(tmp_path),
    )
    check_finished(run, classes=2)
    kept = load_file(run / "checkpoints" / "classifier.safetensors")
    assert torch.equal(kept["classifier.weight"], weights["classifier.weight"])


@pytest.mark.slow
def test_toy_vehicles_needs_no_photos(tmp_path: Path) -> None:
    run = run_train(
        "experiment=toy_vehicles",
        "data.classes=[fire engine,tank]",
        "data.size=64",
        *COUNTS,
        "classifier.input_size=64",
        "classifier.fit.epochs=1",
        "classifier.fit.batch_size=4",
        "classifier.fit.workers=0",
        *SMALL,
        *places(tmp_path),
    )
    check_finished(run, classes=2)


# --- bad input: one line that names the value and the remedy, and nothing half-written


def command(tmp_path: Path, *overrides: str) -> list[str]:
    return ["data=imagefolder", "classifier=resnet10t_fitted", *COUNTS, *SMALL, *overrides, *places(tmp_path)]


def left_behind(tmp_path: Path) -> list[Path]:
    return [p for p in tmp_path.glob("runs/**/*") if p.is_file()] if (tmp_path / "runs").exists() else []


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imagenet_tree(tmp_path_factory.mktemp("bad") / "photos", ("circus", "depot"))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.root=/nowhere/at/all"], ["/nowhere/at/all", "set data.root"]),
        ([], ["data.root must be given", "data.root=..."]),
        (["data.classes=[circus,depott]"], ["depott", "did you mean depot"]),
        (["classifier.name=timm/resnett18"], ["resnett18", "resnet18"]),
        (["classifier.checkpoint=/no/weights.safetensors"], ["/no/weights.safetensors"]),
        (["graph.builder.sources=[colour]"], ["colour", "head_area"]),
        (["concepts.num_concepts=9"], ["concepts.clusters=4", "raise it"]),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    overrides: list[str], said: list[str], tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [] if said[0].startswith("data.root") else [f"data.root={photos}"]
    unfitted = ["classifier.pretrained=false", "classifier.fit=null", "classifier.resize=squash"]
    line = refused(capsys, train, *command(tmp_path, *given, *unfitted, *overrides))
    for words in said:
        assert words in line
    assert not left_behind(tmp_path)


def test_a_class_without_photos_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = imagenet_tree(tmp_path / "photos", ("circus", "depot"))
    (root / "train" / "empty").mkdir()
    (root / "val" / "empty").mkdir()
    line = refused(capsys, train, *command(tmp_path, f"data.root={root}"))
    assert "'empty' has 0 photos" in line and "leave it out of data.classes" in line
    assert not left_behind(tmp_path)


def test_weights_that_cannot_be_downloaded_name_the_way_out(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any, **__: Any) -> Any:
        raise OSError("the network cannot be reached")

    monkeypatch.setattr("socket.socket.connect", unreachable)
    monkeypatch.setattr("socket.getaddrinfo", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    overrides = [f"data.root={photos}", "classifier=googlenet", "data.class_indices=[1,2]"]
    line = refused(capsys, train, *command(tmp_path, *overrides))
    assert "googlenet could not be downloaded" in line and "classifier.checkpoint=" in line
    assert not left_behind(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_missed_at_once(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, train, *command(tmp_path, f"data.root={photos}", "trainer=gpu"))
    assert "no GPU" in line and "trainer=cpu" in line


def test_a_sweep_of_several_processes_is_refused(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, train, "-m", "seed=0,1", *command(tmp_path, f"data.root={photos}", "trainer=ddp_cpu"))
    assert "trainer.strategy=ddp" in line and "trainer=cpu" in line
