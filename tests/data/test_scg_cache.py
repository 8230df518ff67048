"""The cache: nothing stale, nothing damaged, nothing half-written is ever read."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vrx.data import scg_cache
from vrx.data.scg_cache import SCGCache
from vrx.errors import VRXError
from vrx.storage import digest, write_atomically


def some_tensors(count: int = 2) -> dict[str, Tensor]:
    return {
        "label": torch.arange(count),
        "nodes": torch.rand(count, 3, 2),
        "detected": torch.rand(count, 3) < 0.5,
        "none": torch.zeros(count, 0),
    }


def make_cache(root: Path, **settings: object) -> SCGCache:
    return SCGCache(root, {"split": "val", "tau": 0.3, **settings}, num_photos=5, shard_size=2)


def test_shards_come_back_and_join_in_order(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    assert cache.num_shards == 3 and [list(cache.span(s)) for s in range(3)] == [[0, 1], [2, 3], [4]]
    assert cache.missing() == [0, 1, 2]
    parts = [some_tensors(2), some_tensors(1), {"label": torch.zeros(0)}]
    for shard, (part, skipped) in enumerate(zip(parts, ([], ["b.jpg"], ["c.jpg"]), strict=True)):
        cache.write(shard, part, skipped)
    assert cache.missing() == []
    table, skipped = cache.load()
    assert skipped == ["b.jpg", "c.jpg"]
    for name in parts[0]:
        assert torch.equal(table[name], torch.cat([parts[0][name], parts[1][name]]))
        assert table[name].dtype == parts[0][name].dtype


def test_ranks_share_the_missing_shards(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    cache.write(1, some_tensors(), [])
    assert (cache.missing(0, 2), cache.missing(1, 2)) == ([0, 2], [])


def test_any_changed_setting_is_another_folder(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    for other in (
        make_cache(tmp_path, tau=0.31),
        make_cache(tmp_path, more=None),
        SCGCache(tmp_path, cache.settings, 6, 2),
        SCGCache(tmp_path, cache.settings, 5, 3),
    ):
        assert other.folder != cache.folder
    assert make_cache(tmp_path).folder == cache.folder
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})


def test_no_flipped_byte_goes_unseen(tmp_path: Path) -> None:
    """Flip bytes all over a shard, header and data: it is rejected, or says exactly what it said."""
    cache = make_cache(tmp_path)
    cache.write(0, some_tensors(), ["a.jpg"])
    whole = cache.path(0).read_bytes()
    truth = cache.read(0)
    assert truth is not None
    rejected = 0
    for at in range(len(whole)):
        broken = bytearray(whole)
        broken[at] ^= 1 << (at % 7)
        cache.path(0).write_bytes(bytes(broken))
        found = cache.read(0)
        rejected += found is None
        if found is not None:
            assert found[1] == truth[1] and found[0].keys() == truth[0].keys()
            assert all(torch.equal(found[0][k], truth[0][k]) for k in truth[0])
    assert rejected > 0.9 * len(whole)
    cache.path(0).write_bytes(whole)
    assert cache.missing() == [1, 2]


def test_truncated_empty_and_foreign_shards_are_missing(tmp_path: Path) -> None:
    cache, other = make_cache(tmp_path), make_cache(tmp_path, tau=0.5)
    for shard in range(3):
        cache.write(shard, some_tensors(), [])
        other.write(shard, some_tensors(), [])
    whole = cache.path(0).read_bytes()
    for size in (0, 5, len(whole) // 2, len(whole) - 1):
        cache.path(0).write_bytes(whole[:size])
        assert cache.missing() == [0]
    cache.path(0).write_bytes(other.path(0).read_bytes())
    assert cache.missing() == [0], "of other settings"
    cache.path(0).write_bytes(cache.path(1).read_bytes())
    assert cache.missing() == [0], "another shard's"
    with pytest.raises(VRXError, match=r"shard-00000.* missing or damaged"):
        cache.load()


def test_nothing_readable_is_named(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    for shard in range(3):
        cache.write(shard, {"label": torch.zeros(0)}, ["x"])
    with pytest.raises(VRXError, match="None of the 5 photos of 'val'"):
        cache.load()


def test_manifest_tells_what_the_folder_holds(tmp_path: Path) -> None:
    cache = make_cache(tmp_path)
    cache.finish()
    content = json.loads((cache.folder / "manifest.json").read_text())
    assert content["key"] == cache.key and content["settings"] == cache.settings


def test_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = make_cache(tmp_path)
    cache.write(0, some_tensors(), [])

    def fails(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise scg_cache.SafetensorError('Error while serializing: IoError(Os { message: "No space left on device" })')

    monkeypatch.setattr(scg_cache, "save_file", fails)
    with pytest.raises(VRXError, match=r"No space left while writing .*paths\.cache_dir"):
        cache.write(1, some_tensors(), [])
    assert [f.name for f in cache.folder.iterdir()] == ["shard-00000.safetensors"]
    assert cache.missing() == [1, 2]


def test_atomic_writes_replace_whole_files_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_atomically(path, lambda part: part.write_text("old"))

    def interrupted(part: Path) -> None:
        part.write_text("new, but")
        raise KeyboardInterrupt

    def full(part: Path) -> None:
        part.write_text("new, but")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    with pytest.raises(VRXError, match="No space left"):
        write_atomically(path, full)
    with pytest.raises(PermissionError):
        write_atomically(path, lambda part: (_ for _ in ()).throw(PermissionError()).__next__())
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_waits_for_the_other_processes_but_not_for_a_dead_first_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make_cache(tmp_path)
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        cache.write(len(naps) - 1, some_tensors(), [])

    monkeypatch.setattr(scg_cache.time, "sleep", nap)
    cache.wait(rank=1)
    assert naps == [1.0] * 3
    monkeypatch.setattr(scg_cache.os, "getppid", lambda: scg_cache.PARENT + 1)
    cache.wait(rank=1)  # nothing is missing
    other = make_cache(tmp_path, tau=0.5)
    with pytest.raises(VRXError, match="first process has ended"):
        other.wait(rank=1)
    monkeypatch.setattr(scg_cache.time, "sleep", lambda _: [other.write(s, some_tensors(), []) for s in range(3)])
    other.wait(rank=0)  # whoever started the first one may go
