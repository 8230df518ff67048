"""Graphs of a whole data set: no label leak, made once, resumed, shared, and F never asked again."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from tests import planted
from vrx.bank import ConceptBank
from vrx.classifier.classifier import Classifier
from vrx.concepts.attention import GradCAMAttention
from vrx.data.images import Photo, PhotoFolder
from vrx.edits import Editor


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Photos in every forward pass of F, in order."""
    calls: list[int] = []
    forward = Classifier.forward

    def counted(self: Classifier, x: Tensor) -> Tensor:
        calls.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(Classifier, "forward", counted)
    return calls


@pytest.fixture
def no_f(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and from then on F may not be asked."""

    def forbid() -> None:
        def fail(*args: object, **kwargs: object) -> Tensor:
            raise AssertionError("F was asked")

        for name in ("forward", "inspect", "head_values"):
            monkeypatch.setattr(Classifier, name, fail)

    return forbid


@pytest.fixture(scope="module")
def finished(source: PhotoFolder, bank: ConceptBank, tmp_path_factory: pytest.TempPathFactory) -> Any:
    data = planted.make_data(
        source, bank, tmp_path_factory.mktemp("finished"), second_editor=Editor("inpaint"), rest=True
    )
    data.setup()
    return data


def copy_of(finished: Any, tmp_path: Path) -> Path:
    shutil.copytree(finished.cache_dir, tmp_path / "cache")
    return tmp_path / "cache"


def again(finished: Any, source: Any, bank: ConceptBank, cache: Path, **kwargs: Any) -> Any:
    """The same data module, built anew as a later run would."""
    return planted.make_data(source, bank, cache, **{"second_editor": Editor("inpaint"), "rest": True, **kwargs})


def same_tables(a: Any, b: Any, *, but: tuple[str, ...] = ()) -> bool:
    return all(
        a.tables[s].keys() == b.tables[s].keys()
        and all(torch.equal(a.tables[s][k], b.tables[s][k]) for k in a.tables[s] if k not in but)
        for s in ("train", "val", "test")
    )


class Relabelled:
    """The same photos with other labels."""

    def __init__(self, source: PhotoFolder) -> None:
        self.source, self.class_names = source, source.class_names

    def photos(self, split: str) -> list[Photo]:
        return [Photo(p.path, (p.label + 1 + i % 2) % 3, p.split) for i, p in enumerate(self.source.photos(split))]

    def read(self, photo: Photo) -> Image.Image:
        return self.source.read(photo)

    def settings(self) -> dict[str, Any]:
        return self.source.settings()


def test_labels_do_not_leak_into_the_graphs(
    finished: Any, source: PhotoFolder, bank: ConceptBank, tmp_path: Path
) -> None:
    other = again(finished, Relabelled(source), bank, tmp_path)
    other.setup()
    assert same_tables(finished, other, but=("label",)), "bit-identical whatever the labels"
    for split in ("train", "val", "test"):
        assert (finished.tables[split]["label"] != other.tables[split]["label"]).all()


def test_tables_hold_every_photo_once_with_its_label(finished: Any, source: PhotoFolder) -> None:
    for split in ("train", "val", "test"):
        table, photos = finished.tables[split], source.photos(split)
        assert table["index"].tolist() == list(range(len(photos)))
        assert table["label"].tolist() == [p.label for p in photos]
        assert torch.equal(table["logits"].argmax(1), table["label"]), "F knows its colours"
        assert table["nodes"].shape == (len(photos), 3, 4, finished.builder.node_features)
    assert "second_logits" in finished.tables["test"] and "second_logits" not in finished.tables["val"]


def test_a_finished_cache_never_asks_f(
    finished: Any, source: PhotoFolder, bank: ConceptBank, tmp_path: Path, no_f: Callable[[], None]
) -> None:
    later = again(finished, source, bank, copy_of(finished, tmp_path))
    no_f()
    later.setup()
    assert same_tables(finished, later)
    batch = next(iter(later.train_dataloader()))
    assert batch["scg"].nodes.shape[1:] == (3, 4, later.builder.node_features)
    assert batch["masked_logits"].shape[:2] == batch["valid"].shape == batch["drop"].shape[:2]


def test_any_change_misses(finished: Any, source: PhotoFolder, bank: ConceptBank, tmp_path: Path) -> None:
    """Settings of every part, a weight of F, the bank, the editors: each gives another key."""
    keys = {finished.cache("val").key}

    def changed(**kwargs: Any) -> Any:
        return again(finished, source, bank, tmp_path, **kwargs)

    later = [
        changed(sources=["shape"]),
        changed(layers=[finished.builder.layers[0]]),
        changed(rest=False),
        changed(variants=3),
        changed(seed=1),
        changed(shard_size=5),
        again(finished, Relabelled(source), bank, tmp_path),
    ]
    weight = changed()
    with torch.no_grad():
        weight.builder.classifier.network.head.bias[0] += 1e-3
    tau = changed()
    tau.builder.extractor.attention = GradCAMAttention(0.1)
    editor = changed()
    editor.editor = Editor("grey", 0.03)
    margin = changed()
    margin.builder.editor = Editor("blur", 0.05)
    segments = changed()
    segments.builder.extractor.segmenter.compactness = 11.0
    radius = again(finished, source, replace(bank, radius=bank.radius * 1.5), tmp_path)
    later += [weight, tau, editor, margin, segments, radius]
    keys |= {data.cache("val").key for data in later}
    assert len(keys) == len(later) + 1
    second = changed(second_editor=Editor("grey"))
    assert second.cache("val").key == finished.cache("val").key, "asked on test photos only"
    assert second.cache("test").key != finished.cache("test").key


def test_a_changed_photo_misses(photo_tree: Path, bank: ConceptBank, tmp_path: Path) -> None:
    shutil.copytree(photo_tree, tmp_path / "photos")
    source = planted.photo_folder(tmp_path / "photos")
    data = planted.make_data(source, bank, tmp_path)
    before = {split: data.cache(split).key for split in ("train", "val")}
    file = Path(source.photos("val")[0].path)
    stat = file.stat()
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert data.cache("val").key != before["val"] and data.cache("train").key == before["train"]


def test_an_interrupted_build_goes_on_where_it_stopped(
    finished: Any,
    source: PhotoFolder,
    bank: ConceptBank,
    tmp_path: Path,
    asked: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = again(finished, source, bank, tmp_path)
    write = type(first.cache("train")).write

    def killed_after_one(self: Any, shard: int, *args: Any) -> None:
        write(self, shard, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(type(first.cache("train")), "write", killed_after_one)
    with pytest.raises(KeyboardInterrupt):
        first.setup()
    monkeypatch.setattr(type(first.cache("train")), "write", write)
    folder = first.cache("train").folder
    assert [f.name for f in folder.iterdir()] == ["shard-00000.safetensors"]
    stamp = (folder / "shard-00000.safetensors").stat().st_mtime_ns

    second = again(finished, source, bank, tmp_path)
    before = len(asked)
    built: list[int] = []
    call = type(second.builder).__call__

    def counted(self: Any, x: Tensor, superpixels: Any, baselines: bool = False) -> Any:
        built.append(len(x))
        return call(self, x, superpixels, baselines)

    monkeypatch.setattr(type(second.builder), "__call__", counted)
    second.setup()
    assert (folder / "shard-00000.safetensors").stat().st_mtime_ns == stamp
    assert sum(built) == sum(len(source.photos(s)) for s in ("train", "val", "test")) - 4, "the finished four are kept"
    assert len(asked) > before
    assert same_tables(finished, second), "the same bits as without an interruption"


def test_a_damaged_shard_alone_is_built_again(
    finished: Any, source: PhotoFolder, bank: ConceptBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = copy_of(finished, tmp_path)
    later = again(finished, source, bank, cache)
    folder = later.cache("train").folder
    for name in ("manifest.json", "shard-00002.safetensors"):
        (folder / name).unlink()
    broken = folder / "shard-00001.safetensors"
    broken.write_bytes(broken.read_bytes()[:-3])
    written: list[int] = []
    write = type(later.cache("train")).write
    monkeypatch.setattr(
        type(later.cache("train")), "write", lambda self, shard, *a: (written.append(shard), write(self, shard, *a))
    )
    later.setup()
    assert written == [1, 2] and (folder / "manifest.json").exists()
    assert same_tables(finished, later)


def contents(shard: Path) -> dict[str, Any]:
    """All that a file holds; the order of its metadata is chance."""
    with safe_open(shard, framework="pt") as file:
        return {"metadata": file.metadata(), **{k: file.get_tensor(k).numpy().tobytes() for k in file.keys()}}  # noqa: SIM118


@pytest.mark.slow
def test_the_same_bits_whatever_the_world_size(
    finished: Any, photo_tree: Path, source: PhotoFolder, bank: ConceptBank, tmp_path: Path
) -> None:
    """One, two and three gloo processes, on the same machine and with as many threads."""
    bank.save(tmp_path / "bank")
    shards = {}
    for world in (1, 2, 3):
        cache, meet = tmp_path / f"cache{world}", tmp_path / f"meet{world}"
        where = (world, str(photo_tree), str(tmp_path / "bank"), str(cache), str(meet))
        torch.multiprocessing.spawn(planted.build_in_rank, where, nprocs=world)
        built_by = [path.read_text().split() for path in sorted(cache.glob("rank*"))]
        assert len(built_by) == world and all(built_by), "every process builds some"
        every = [shard for some in built_by for shard in some]
        assert len(every) == len(set(every)), "and none builds what another does"
        shards[world] = {str(p.relative_to(cache)): contents(p) for p in cache.rglob("*.safetensors")}
    assert len(shards[1]) > 3 and shards[1] == shards[2] == shards[3]


@pytest.mark.slow
def test_two_processes_share_one_cache(photo_tree: Path, bank: ConceptBank, tmp_path: Path, no_f: Any) -> None:
    bank.save(tmp_path / "bank")
    context = multiprocessing.get_context("spawn")
    where = (str(photo_tree), str(tmp_path / "bank"), str(tmp_path / "cache"))
    workers = [context.Process(target=planted.build_in_process, args=where) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    data = planted.make_data(planted.photo_folder(photo_tree), bank, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.part"))
    no_f()
    data.setup()
    assert len(data.tables["train"]["label"]) == 15


def test_unreadable_photos_are_skipped_by_name(
    photo_tree: Path, bank: ConceptBank, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(photo_tree, tmp_path / "photos")
    source = planted.photo_folder(tmp_path / "photos")
    broken = [source.photos("train")[i].path for i in (1, 6)]
    Path(broken[0]).write_bytes(b"")
    Path(broken[1]).write_bytes(Path(broken[1]).read_bytes()[:100])
    data = planted.make_data(source, bank, tmp_path / "cache")
    with caplog.at_level(logging.WARNING):
        data.setup()
    assert data.tables["train"]["index"].tolist() == [i for i in range(15) if i not in (1, 6)]
    assert len(data.skipped["train"]) == 2 and not data.skipped["val"]
    assert "Skipped 2 unreadable photos of train" in caplog.text
    assert all(Path(path).name in caplog.text for path in broken)
