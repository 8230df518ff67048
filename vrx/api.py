"""The public API for notebooks and scripts: :func:`fit`, with the default settings of ``train.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn

from vrx.classifier.classifier import Classifier
from vrx.classifier.preprocessing import Preprocessing
from vrx.concepts.attention import GradientAttention
from vrx.concepts.word_discovery import WordDiscovery
from vrx.data.images import PhotoFolder
from vrx.data.memory import MemoryPhotos
from vrx.data.scg_datamodule import SCGDataModule
from vrx.data.sources import PhotoSource
from vrx.edits import Editor
from vrx.errors import VRXError
from vrx.explain.explainer import Explainer
from vrx.graphs.scg import SCGBuilder
from vrx.machine import device_of, quiet_logs
from vrx.models.additive import AdditiveGRN
from vrx.models.distillation import Distillation
from vrx.models.progress import TrainingBar
from vrx.pipeline import Pipeline

# as in conf/graph/evidence.yaml
EVIDENCE = ["head", "head_area", "gradact", "gradact_positive", "grad_diff", "fades", "shape"]


def default_pipeline(
    cache: str | Path = "data/cache",
    *,
    epochs: int = 60,
    num_concepts: int = 8,
    device: str = "auto",
    seed: int = 0,
    concepts: Mapping[str, Any] | None = None,
    hypotheses: int | None = None,
) -> Pipeline:
    """The pipeline of ``python train.py`` with its default settings, a test holds both equal.

    Args:
        cache: folder of what is made once.
        epochs: of the distillation.
        num_concepts: N, concepts per class.
        device: ``auto``, ``cpu`` or ``gpu``.
        seed: of everything.
        concepts: further settings of :class:`vrx.concepts.word_discovery.WordDiscovery`, those that messages call
            ``concepts.<name>``; e.g. ``{"effects": 8}`` for few photos.
        hypotheses: graphs of each photo's so many most probable classes alone; None: of all classes.
    """
    parts = {"attention": GradientAttention(0.25), "editor": Editor(), "hypotheses": hypotheses}
    discovery = WordDiscovery(**{**parts, "num_concepts": num_concepts, "seed": seed, **(concepts or {})})
    editor = discovery.editor
    rate = 0.003
    return Pipeline(
        discovery=discovery,
        builder=partial(SCGBuilder, sources=EVIDENCE, layers=[], rest=True, relations=True, hypotheses=hypotheses),
        data=partial(
            SCGDataModule, second_editor=Editor("inpaint", editor.margin), variants=12, coalitions=6,
            batch_size=64, build_batch_size=16, workers=0, seed=seed,
        ),
        grn=partial(AdditiveGRN, width=48, embedding=12, summary=8, dropout=0.2),
        optimizer=partial(torch.optim.AdamW, lr=rate, betas=(0.9, 0.999), weight_decay=0.3),
        scheduler=partial(
            torch.optim.lr_scheduler.OneCycleLR, max_lr=rate, total_steps=epochs, pct_start=0.2
        ),
        distillation=partial(
            Distillation,
            weights={
                "softmax_l1": 3.0, "logits": 1.0, "difference": 3.0, "correlation": 8.0,
                "coalition": 3.0, "interaction": 3.0, "ranking": 2.0,
            },
            objective={"spearman": 1.0, "agreement": 1.0, "l1": -2.0},
            variants_per_step=0,
        ),
        trainer=partial(
            Trainer, accelerator=device, devices=1, max_epochs=epochs, gradient_clip_val=2.0, log_every_n_steps=1,
            num_sanity_val_steps=0, enable_model_summary=False, enable_progress_bar=False, deterministic="warn",
        ),
        callbacks=[
            partial(ModelCheckpoint, monitor="val/objective", mode="max", auto_insert_metric_name=False),
            partial(ModelCheckpoint, filename="last", enable_version_counter=False),
            partial(TrainingBar),
        ],
        cache=Path(cache),
        seed=seed,
    )  # fmt: skip


def fit(
    classifier: Classifier | nn.Module,
    photos: PhotoSource | str | Path | Mapping[str, Sequence[str | Path | Image | Tensor]],
    preprocessing: Any = None,
    *,
    class_indices: Sequence[int] | None = None,
    epochs: int = 60,
    num_concepts: int = 8,
    cache: str | Path = "data/cache",
    device: str = "auto",
    seed: int = 0,
    layers: Sequence[str] | None = None,
    concepts: Mapping[str, Any] | None = None,
    pipeline: Pipeline | None = None,
) -> Explainer:
    """Explain a trained classifier, from Python: concepts, graphs, distillation, with progress bars.

    Args:
        classifier: your network (photos ``[B, 3, H, W]`` -> logits ``[B, C]``), or a :class:`Classifier`.
        photos: class name -> photos (paths, PIL images, or tensors ``[3, H, W]``, uint8 or floats in [0, 1]); the
            folder ``root/<class>/*``; or any source with splits (:class:`vrx.data.sources.PhotoSource`).
        preprocessing: the network's own, see :meth:`Preprocessing.of`; not needed with a :class:`Classifier`.
        class_indices: which outputs of the network the classes are, in their order; None: those that the source names,
            or all of them.
        epochs: of the distillation.
        num_concepts: N, concepts per class.
        cache: folder of what is made once; a second call with the same arguments reads it.
        device: ``auto``, ``cpu`` or ``gpu``.
        seed: of everything.
        layers: modules of the network to read instead of those that a probe finds.
        concepts: further settings of the discovery, see :func:`default_pipeline`.
        pipeline: all other settings; ``epochs``, ``num_concepts``, ``concepts``, ``cache``, ``seed`` are then its own.

    Returns:
        The explainer; ``explainer.provenance["metrics"]`` says how far it can be trusted, ``save(folder)`` keeps it.

    Raises:
        VRXError: anything that does not fit, with the remedy.
    """
    source = photos_of(photos)
    if not isinstance(classifier, Classifier):
        if preprocessing is None:
            raise VRXError(
                "preprocessing is not given: say how your network reads a photo, e.g. "
                "preprocessing=dict(input_size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))."
            )
        indices = getattr(source, "class_indices", None) if class_indices is None else class_indices
        read = Preprocessing.of(preprocessing)
        classifier = Classifier(classifier, list(source.class_names), indices, read, layers=layers)
    if classifier.class_names != tuple(source.class_names):
        raise VRXError(
            f"The photos are of {', '.join(source.class_names)}, the classifier's classes of interest are "
            f"{', '.join(classifier.class_names)}: give the photos of these, in this order."
        )
    if pipeline is None:
        pipeline = default_pipeline(
            cache, epochs=epochs, num_concepts=num_concepts, device=device, seed=seed, concepts=concepts
        )
    quiet_logs()
    seed_everything(pipeline.seed, workers=True, verbose=False)
    return pipeline.explainer(classifier.to(device_of(device)), source)


def photos_of(photos: Any) -> PhotoSource:
    """A source of whatever holds photos: itself, a folder, or photos by class.

    Raises:
        VRXError: none of these.
    """
    if isinstance(photos, (str, Path)):
        return PhotoFolder(photos)
    if isinstance(photos, Mapping):
        return MemoryPhotos(photos)
    if all(hasattr(photos, name) for name in ("class_names", "photos", "read", "settings")):
        return photos
    raise VRXError(
        f"photos={type(photos).__name__}: give a folder of class folders, or a mapping of class names to photos."
    )
