"""From a fitted classifier and photos to an explainer, with the settings of a run: concepts, graphs, GRN.

``train.py`` does the same with a config, loggers and callbacks; here F changes from seed to seed and nothing is kept
but the caches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import TQDMProgressBar
from safetensors.torch import load_file, save_file

from vrx.classifier.classifier import Classifier
from vrx.concepts.discovery import ConceptDiscovery, DiscoveryPhoto
from vrx.data.images import Photo
from vrx.data.scg_datamodule import SCGDataModule, prepared
from vrx.data.sources import PhotoSource, stamps
from vrx.errors import VRXError
from vrx.explain.explainer import Explainer
from vrx.graphs.scg import SCGBuilder
from vrx.models.distillation import Distillation
from vrx.models.grn import GRN
from vrx.storage import digest, write_atomically
from vrx.structures import ConceptBank


@dataclass(frozen=True)
class Listed:
    """Photos of another source in new splits.

    Args:
        source: reads the photos.
        class_names: of the labels.
        splits: split -> photos.
    """

    source: Any
    class_names: tuple[str, ...]
    splits: Mapping[str, list[Photo]]
    class_indices: list[int] | None = None

    def photos(self, split: str) -> list[Photo]:
        return list(self.splits[split])

    def read(self, photo: Photo) -> Any:
        return self.source.read(photo)

    def settings(self) -> dict[str, Any]:
        return {
            "kind": "listed",
            "of": self.source.settings(),
            "photos": digest({split: stamps(photos) for split, photos in self.splits.items()}),
        }


def explain_classifier(
    classifier: Classifier,
    source: PhotoSource,
    like: Explainer,
    cache: Path,
    seed: int,
    concepts: Mapping[str, Any],
    model: Mapping[str, Any],
    epochs: int,
    variants: int = 8,
) -> Explainer:
    """Discover concepts for a classifier, build graphs, distil the GRN.

    Args:
        classifier: F.
        source: photos by split; ``discovery``, ``train`` and ``val`` are used.
        like: an explainer whose extractor, editor, node features and method are taken over.
        cache: concepts, graphs and the GRN are kept here, by what they were made of.
        seed: of everything.
        concepts: arguments of :class:`ConceptDiscovery`.
        model: the run's ``model`` config: ``grn``, ``optimizer``, ``distillation``, ``batch_size``.
        epochs: of the distillation.
        variants: masked variants a photo.
    """
    extractor, editor = like.builder.extractor, like.editor
    bank = _bank(classifier, source, ConceptDiscovery(extractor, editor, seed=seed, **concepts), cache)
    builder = SCGBuilder(classifier, bank, extractor, editor, like.builder.sources, (), like.builder.rest)
    data = SCGDataModule(
        source, builder, editor, cache, variants=variants, batch_size=model["batch_size"], workers=0, seed=seed
    )
    return Explainer(classifier, builder, _distilled(data, model, epochs, seed, cache), editor, like.method)


def _bank(classifier: Classifier, source: PhotoSource, discovery: ConceptDiscovery, cache: Path) -> ConceptBank:
    photos = source.photos("discovery")
    key = digest({"classifier": classifier.fingerprint, "photos": stamps(photos), "discovery": discovery.settings()})
    folder = cache / "banks" / key[:20]
    if (folder / "bank.json").exists():
        return ConceptBank.load(folder)
    found: dict[str, list[DiscoveryPhoto]] = {name: [] for name in source.class_names}
    for batch in prepared(source, photos, classifier, discovery.extractor.segmenter, 16, 0):
        for item in batch:
            if item.x is not None and item.superpixels is not None:
                photo = photos[item.index]
                found[source.class_names[photo.label]].append(DiscoveryPhoto(photo.path, item.x, item.superpixels))
    bank = discovery(classifier, found)
    bank.save(folder)
    return bank


def _distilled(data: SCGDataModule, model: Mapping[str, Any], epochs: int, seed: int, cache: Path) -> GRN:
    """The GRN of these graphs, distilled once and kept."""
    data.setup()
    builder = data.builder
    if not isinstance(builder, SCGBuilder):
        raise VRXError("The graphs need a builder that is ready.")
    seed_everything(seed, workers=True, verbose=False)
    grn = GRN(
        num_classes=len(builder.bank.class_names),
        num_concepts=builder.num_nodes,
        node_features=builder.node_features,
        **_arguments(model["grn"]),
    )
    graphs = {split: data.cache(split).key for split in ("train", "val")}
    key = digest({"graphs": graphs, "model": dict(model), "epochs": epochs, "seed": seed})
    path = cache / "grn" / f"{key[:20]}.safetensors"
    if path.exists():
        grn.load_state_dict(load_file(path))
    else:
        _distil(grn, data, model, epochs, cache)
        write_atomically(path, lambda part: save_file(grn.state_dict(), part))
    return grn.eval()


def _distil(grn: GRN, data: SCGDataModule, model: Mapping[str, Any], epochs: int, cache: Path) -> None:
    """Fit a GRN to the graphs, in place."""
    optimizer = _arguments(model["optimizer"])
    module = Distillation(
        grn,
        partial(torch.optim.AdamW, **optimizer),
        partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=optimizer["lr"], total_steps=epochs),
        **model["distillation"],
    )
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_model_summary=False, num_sanity_val_steps=0, gradient_clip_val=2.0, default_root_dir=str(cache),
        callbacks=[TQDMProgressBar(leave=False)],
    )  # fmt: skip
    trainer.fit(module, datamodule=data)


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without what names its class."""
    return {str(k): v for k, v in config.items() if not str(k).startswith("_")}
