"""The on-disk cache of graphs: content-keyed, atomic, resumable, safe under several processes.

A folder is named by a hash of everything that determines its content, so any change misses and nothing stale is ever
read. Shards are written under a temporary name and renamed; each carries its key, its range and a checksum.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vrx.errors import VRXError
from vrx.storage import digest, write_atomically

PARENT = os.getppid()


def check_first(rank: int) -> None:
    """Refuse to go on without the process that started this one: nobody else would stop it.

    Raises:
        VRXError: this is not the first process, and the one that started it has ended.
    """
    if rank and os.getppid() != PARENT:
        raise VRXError("The first process has ended (its error is above): the same command goes on with what is there.")


def _checksum(tensors: Mapping[str, Tensor], skipped: str) -> str:
    """Hash of all that a shard holds."""
    state = hashlib.sha256(skipped.encode())
    for name, value in sorted(tensors.items()):
        state.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        state.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


class SCGCache:
    """One split's graphs, in shards of consecutive photos; the settings, JSON-able, are all that determines them."""

    def __init__(self, root: Path, settings: Mapping[str, Any], num_photos: int, shard_size: int = 32) -> None:
        self.key = digest({**settings, "num_photos": num_photos, "shard_size": shard_size})
        self.folder = Path(root) / self.key[:20]
        self.settings = dict(settings)
        self.num_photos = num_photos
        self.shard_size = shard_size

    @property
    def num_shards(self) -> int:
        """Shards of a finished cache."""
        return -(-self.num_photos // self.shard_size)

    def span(self, shard: int) -> range:
        """Indices of the photos of a shard."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.num_photos))

    def path(self, shard: int) -> Path:
        """Where a shard is kept."""
        return self.folder / f"shard-{shard:05d}.safetensors"

    def write(self, shard: int, tensors: Mapping[str, Tensor], skipped: list[str]) -> None:
        """Store a shard: tensors with the photos that could be read as dimension 0, and the names of the others."""
        plain = {name: value.contiguous() for name, value in tensors.items()}
        names = json.dumps(skipped)
        header = {"key": self.key, "shard": str(shard), "checksum": _checksum(plain, names), "skipped": names}
        write_atomically(self.path(shard), lambda path: save_file(plain, path, metadata=header))

    def read(self, shard: int) -> tuple[dict[str, Tensor], list[str]] | None:
        """A shard's tensors and the names of its skipped photos; None when missing, damaged or foreign."""
        try:
            with safe_open(self.path(shard), framework="pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (FileNotFoundError, SafetensorError, OSError):
            return None
        if (header.get("key"), header.get("shard")) != (self.key, str(shard)):
            return None
        names = header.get("skipped", "")
        if header.get("checksum") != _checksum(tensors, names):
            return None
        return tensors, json.loads(names)

    def missing(self, rank: int = 0, world_size: int = 1) -> list[int]:
        """Shards that this process must build: those of its share that are absent, damaged or foreign."""
        return [s for s in range(self.num_shards) if s % world_size == rank and self.read(s) is None]

    def wait(self, rank: int = 0, seconds: float = 1.0) -> None:
        """Until the other processes have written their shards: that may take them hours longer.

        Raises:
            VRXError: :func:`check_first`.
        """
        while not all(self.path(shard).exists() for shard in range(self.num_shards)):
            check_first(rank)
            time.sleep(seconds)

    def finish(self) -> None:
        """Write the manifest: what this folder holds, for people and for later runs."""
        text = json.dumps(
            {"key": self.key, "num_photos": self.num_photos, "shards": self.num_shards, "settings": self.settings},
            indent=1,
            default=str,
        )
        write_atomically(self.folder / "manifest.json", lambda path: path.write_text(text))

    def load(self) -> tuple[dict[str, Tensor], list[str]]:
        """All shards joined, and the names of all skipped photos.

        Raises:
            VRXError: a shard is missing or damaged, or no photo could be read.
        """
        parts, skipped = [], []
        for shard in range(self.num_shards):
            found = self.read(shard)
            if found is None:
                raise VRXError(f"Shard {self.path(shard)} is missing or damaged: run the same command again.")
            if found[0]["label"].numel():
                parts.append(found[0])
            skipped += found[1]
        if not parts:
            raise VRXError(f"None of the {self.num_photos} photos of {self.settings.get('split')!r} could be read.")
        return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}, skipped
