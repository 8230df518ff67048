"""Tiny photo trees in the layouts that the experiments read, and the commands run inside the test's own process."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import runpy
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from PIL import Image, ImageDraw

import diagnose
import explain
import train

COLOURS = ((220, 30, 30), (30, 60, 220), (240, 200, 20))
WNIDS = {"n03345487": "fire engine", "n02701002": "ambulance", "n04146614": "school bus"}
SMALL = (
    "concepts=paper",
    "concepts/encoder=pooled",
    "concepts.segmenter.segments=[6,12]",
    "concepts.clusters=4",
    "concepts.num_concepts=3",
    "concepts.min_patches=1",
    "concepts.max_exemplars=2",
    "concepts.attention.tau=0",
    "graph.variants=3",
    "graph.workers=0",
    "graph.build_batch_size=4",
    "model.batch_size=4",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "report.explanations=2",
    "report.quality=3",
    "report.relations=3",
)
COUNTS = ("data.discovery=4", "data.train=3", "data.val=2", "data.test=2")


def picture(label: int, seed: int, side: int = 72) -> Image.Image:
    """Noise with three shapes in the colours of its class."""
    rng = np.random.default_rng([label, seed])
    image = Image.fromarray(rng.integers(70, 180, (side, side, 3)).astype(np.uint8))
    canvas = ImageDraw.Draw(image)
    for k in range(3):
        (x, y), (w, h) = rng.integers(2, side - 30, 2), rng.integers(16, 28, 2)
        shape = canvas.rectangle if (label + k) % 2 else canvas.ellipse
        shape([int(x), int(y), int(x + w), int(y + h)], fill=COLOURS[(label + k // 2) % 3])
    return image


def imagenet_tree(root: Path, classes: Sequence[str] = tuple(WNIDS), train: int = 9, val: int = 2) -> Path:
    """``root/{train,val}/<class>/<number>.jpg``."""
    for label, name in enumerate(classes):
        for split, count in (("train", train), ("val", val)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                picture(label, number + 100 * (split == "val")).save(folder / f"{number}.jpg")
    return root


def ilab_tree(root: Path) -> Path:
    """Single views by iLab-20M's names: four toys a class, three views each."""
    root.mkdir(parents=True)
    for label, name in enumerate(("bus", "mil", "tank")):
        for toy in range(4):
            for view in range(3):
                file = f"{name}-i{toy:04d}-b{toy:04d}-c{view:02d}-r{view:02d}-l0-f1.jpg"
                picture(label, 10 * toy + view).save(root / file)
    return root


def tiny(home: Path, photos: Path) -> list[str]:
    """Overrides of a run on a tree of three folders, with a small network fitted on it."""
    return [
        "data=imagefolder",
        f"data.root={photos}",
        *COUNTS,
        "classifier=resnet10t_fitted",
        "classifier.input_size=64",
        "classifier.resize=squash",
        "classifier.fit.epochs=2",
        "classifier.fit.batch_size=8",
        "classifier.fit.workers=0",
        "name=tiny",
        *SMALL,
        *places(home),
    ]


def places(home: Path) -> list[str]:
    return [f"paths.cache_dir={home}/cache", f"paths.runs_dir={home}/runs", f"paths.data_dir={home}/data"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What the command does to its process is undone: warnings, SIGINT, environment, logging, Hydra's state."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    environment, handler = dict(os.environ), signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setattr(sys, "argv", sys.argv)
        try:
            yield
        finally:
            GlobalHydra.instance().clear()
            for added in set(root.handlers) - set(handlers):
                added.close()
            root.handlers[:] = handlers
            root.setLevel(level)
            signal.signal(signal.SIGINT, handler)
            os.environ.clear()
            os.environ.update(environment)


def _command(script: ModuleType, overrides: Sequence[str]) -> None:
    with quiet():
        sys.argv = [str(script.__file__), *overrides]
        runpy.run_path(str(script.__file__), run_name="__main__")  # so that Hydra finds conf/ beside the script


def run_train(*overrides: str) -> Path:
    """``python train.py <overrides>`` in this process; the newest run folder."""
    _command(train, overrides)
    return newest(overrides)


def run_explain(*overrides: str) -> None:
    """``python explain.py <overrides>`` in this process."""
    _command(explain, overrides)


def run_diagnose(*overrides: str) -> None:
    """``python diagnose.py <overrides>`` in this process."""
    _command(diagnose, overrides)


def newest(overrides: Sequence[str]) -> Path:
    home = next(o.partition("=")[2] for o in overrides if o.startswith("paths.runs_dir="))
    return max((p.parent for p in Path(home).rglob("config.yaml")), key=lambda p: p.stat().st_mtime_ns)


def refused(capsys: pytest.CaptureFixture[str], script: ModuleType, *overrides: str) -> str:
    """The one line with which a command ends that a user can mend."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        _command(script, overrides)
    assert exit_.value.code == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    return line


@dataclass(frozen=True)
class Finished:
    """A finished run: where everything is, and the overrides of its command."""

    home: Path
    photos: Path
    overrides: list[str]
    folder: Path


@functools.cache
def finished_run(home: Path) -> Finished:
    """``train.py`` from photos to report on three folders of photos, once for all tests of a session."""
    photos = imagenet_tree(home / "photos", ("circus", "depot", "harbour"))
    overrides = tiny(home, photos)
    return Finished(home, photos, overrides, run_train(*overrides))
