"""Graphs of all photos, made once, cached on disk, served to the distillation (3.2)."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from vrx.classifier.classifier import Classifier
from vrx.data.images import Photo
from vrx.data.prepared import PreparedPhoto, prepared
from vrx.data.scg_cache import SCGCache, check_first
from vrx.data.sources import PhotoSource, photos_key
from vrx.edits import Editor
from vrx.graphs.scg import PhotoGraphs, SCGBuilder
from vrx.graphs.variants import Variants, ask_edited, concept_coalitions, concept_variants
from vrx.storage import content_key
from vrx.structures import SCG, SCG_OPTIONAL, Patches

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
COALITIONS = ("coalition_members", "coalition_logits")
MADE_BY = (
    "vrx.bank",
    "vrx.classifier",
    "vrx.concepts",
    "vrx.data.images",
    "vrx.data.prepared",
    "vrx.data.scg_datamodule",
    "vrx.edits",
    "vrx.machine",
    "vrx.graphs",
    "vrx.scores",
    "vrx.structures",
)


class SCGDataModule(LightningDataModule):
    """Precomputes and caches the graphs and masked variants of every photo; a finished cache never calls F.

    Args:
        source: the photos, by split.
        builder: photos -> graphs.
        editor: how concepts are masked.
        cache_dir: root of the caches.
        second_editor: another fill, asked on the test photos only: how far two fills agree is the ceiling of
            faithfulness. None: not measured.
        variants: masked variants per photo at most, the concepts of F's predicted class first; 0: all.
        coalitions: variants of a photo in which two or more concepts are masked at once, half of them pairs.
        batch_size: of the distillation.
        build_batch_size: photos a pass of F while the graphs are made.
        workers: processes that read and segment photos.
        shard_size: photos a shard.
        seed: of the variants and coalitions that are drawn.
    """

    def __init__(
        self,
        source: PhotoSource,
        builder: SCGBuilder,
        editor: Editor,
        cache_dir: str | Path,
        second_editor: Editor | None = None,
        variants: int = 12,
        coalitions: int = 0,
        batch_size: int = 128,
        build_batch_size: int = 16,
        workers: int = 2,
        shard_size: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.source, self.builder = source, builder
        self.editor, self.second_editor = editor, second_editor
        self.cache_dir = Path(cache_dir)
        self.variants, self.coalitions, self.seed = variants, coalitions, seed
        self.batch_size, self.build_batch_size = batch_size, build_batch_size
        self.workers, self.shard_size = workers, shard_size
        self.tables: dict[str, dict[str, Tensor]] = {}
        self.skipped: dict[str, list[str]] = {}
        self.images_per_s = float("nan")

    def cache(self, split: str) -> SCGCache:
        """The cache of one split."""
        settings = {
            "code": content_key(MADE_BY, self.builder.settings()),
            "split": split,
            "photos": photos_key(self.source, [split]),
            "classifier": self.builder.classifier.version,
            "bank": self.builder.bank.digest,
            "graph": self.builder.settings(),
            "editor": self.editor.settings(),
            "second_editor": self.second_editor.settings() if self.second_editor and split == "test" else None,
            "variants": [self.variants, self.seed],
            "coalitions": self.coalitions,
        }
        return SCGCache(self.cache_dir / "scgs", settings, len(self.source.photos(split)), self.shard_size)

    def setup(self, stage: str | None = None) -> None:
        """Build what is missing of every split and load it; under DDP every rank builds its own shards.

        A batch holds photos of one shard: whoever builds it, and whatever was there before, it is the same bits.
        """
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        for split in SPLITS:
            if split in self.tables:
                continue
            cache = self.cache(split)
            self._build(cache, split, cache.missing(rank, world), rank)
            if trainer:
                cache.wait(rank)  # a barrier alone would give up after half an hour
                trainer.strategy.barrier(f"scgs-{split}")
            if rank == 0:
                cache.finish()
            self.tables[split], self.skipped[split] = cache.load()
            if self.skipped[split] and rank == 0:
                names = ", ".join(self.skipped[split][:3])
                log.warning("Skipped %d unreadable photos of %s: %s", len(self.skipped[split]), split, names)

    def _build(self, cache: SCGCache, split: str, shards: list[int], rank: int) -> None:
        if not shards:
            return
        photos, step = self.source.photos(split), self.build_batch_size
        batches = [list(span[i : i + step]) for span in map(cache.span, shards) for i in range(0, len(span), step)]
        builder = self.builder
        loader = prepared(self.source, photos, builder.classifier, builder.extractor.segmenter, batches, self.workers)
        start, done, queue = time.perf_counter(), 0, list(shards)
        pending: list[tuple[dict[str, Tensor] | None, str]] = []
        with tqdm(total=sum(map(len, batches)), desc=f"graphs of {split}", unit="image") as bar:
            for batch in loader:
                check_first(rank)
                pending += self._records(batch, photos, split)
                done += len(batch)
                bar.update(len(batch))
                if len(pending) == len(cache.span(queue[0])):
                    self._flush(cache, queue.pop(0), pending)
                    pending = []
        self.images_per_s = done / (time.perf_counter() - start)

    def _flush(self, cache: SCGCache, shard: int, records: list[tuple[dict[str, Tensor] | None, str]]) -> None:
        good = [record for record, _ in records if record is not None]
        skipped = [error for record, error in records if record is None]
        tensors = {k: torch.stack([r[k] for r in good]) for k in good[0]} if good else {"label": torch.zeros(0)}
        cache.write(shard, tensors, skipped)

    @torch.no_grad()
    def _records(
        self, batch: list[PreparedPhoto], photos: Sequence[Photo], split: str
    ) -> list[tuple[dict[str, Tensor] | None, str]]:
        """What is cached of each photo of a batch; None for those that could not be read."""
        readable = [p for p in batch if p.x is not None]
        rows: dict[int, dict[str, Tensor]] = {}
        if readable:
            x = torch.stack([p.x for p in readable if p.x is not None]).to(self.builder.classifier.device)
            for places, builder in self.builder.problems(x):
                photos_here = [readable[place] for place in places]
                superpixels = [p.superpixels for p in photos_here if p.superpixels is not None]
                tensors = self._table(builder, x[places] if len(places) < len(x) else x, superpixels, split)
                for row, photo in enumerate(photos_here):
                    rows[photo.index] = {name: value[row].clone() for name, value in tensors.items()}
        records = []
        for photo in batch:
            record = rows.get(photo.index)
            if record is not None:
                record |= {"label": torch.tensor(photos[photo.index].label), "index": torch.tensor(photo.index)}
            records.append((record, photo.error))
        return records

    def _table(self, builder: SCGBuilder, x: Tensor, superpixels: list[Patches], split: str) -> dict[str, Tensor]:
        """Graphs of photos with the same hypotheses, and what F says of their variants."""
        classifier = builder.classifier
        graphs = builder(x, superpixels, baselines=split == "test")
        variants = concept_variants(classifier, self.editor, x, graphs, self.variants, self.seed)
        tensors = _tensors(graphs, variants)
        if self.coalitions:
            asked = concept_coalitions(classifier, self.editor, x, variants, self.coalitions, self.seed)
            tensors |= dict(zip(COALITIONS, asked, strict=True))
        if self.second_editor is not None and split == "test":
            tensors["second_logits"] = _second_logits(classifier, self.second_editor, x, variants)
        return tensors

    def _loader(self, split: str, shuffle: bool) -> DataLoader[dict[str, Any]]:
        table = self.tables[split]

        def collate(rows: list[int]) -> dict[str, Any]:
            return batch_of({name: value[rows] for name, value in table.items()})

        rows: Any = range(len(table["label"]))
        drop_last = shuffle and len(rows) > self.batch_size
        return DataLoader(rows, self.batch_size, shuffle=shuffle, collate_fn=collate, drop_last=drop_last)

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        return self._loader("val", shuffle=False)

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        return self._loader("test", shuffle=False)


def batch_of(rows: dict[str, Tensor]) -> dict[str, Any]:
    """Rows of a cache table -> what the distillation reads: graphs, F's logits, masked variants."""
    batch: dict[str, Any] = {
        "scg": SCG.of(rows),
        "logits": rows["logits"],
        "label": rows["label"],
        "index": rows["index"],
        "drop": rows["drop"],
        "masked_logits": rows["masked_logits"],
        "valid": rows["valid"],
    }
    batch |= {name: rows[name] for name in COALITIONS if name in rows}
    return batch


def predicted_classes(table: Mapping[str, Tensor]) -> Tensor:
    """The class that F predicts for each photo of a table, among all classes of interest, int64 ``[P]``."""
    best = table["logits"].argmax(1)
    return table["classes"].gather(1, best[:, None])[:, 0] if "classes" in table else best


def _tensors(graphs: PhotoGraphs, variants: Variants) -> dict[str, Tensor]:
    return {
        **{name: value for name in SCG_OPTIONAL if (value := getattr(graphs.scg, name)) is not None},
        "nodes": graphs.scg.nodes,
        "centroids": graphs.scg.centroids,
        "detected": graphs.scg.detected,
        "links": graphs.scg.links,
        "logits": graphs.logits,
        **({} if graphs.baselines is None else {"baselines": graphs.baselines}),
        "drop": variants.drop,
        "masked_logits": variants.logits,
        "valid": variants.valid,
        "of_node": variants.of_node,
    }


def _second_logits(classifier: Classifier, editor: Editor, x: Tensor, variants: Variants) -> Tensor:
    """F on the same edits with another fill, ``[B, V, n]``."""
    out = torch.zeros_like(variants.logits)
    for b, masks in enumerate(variants.masks):
        out[b, : len(masks)] = ask_edited(classifier, editor, x[b], masks)
    return out
