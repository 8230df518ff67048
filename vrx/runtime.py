"""What the scripts share: seeding, building objects from configs, the stages of a run, loggers, clear errors."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from vrx.classifiers import Classifier, load_classifier
from vrx.concepts.candidates import CandidateExtractor
from vrx.concepts.discovery import ConceptDiscovery, DiscoveryPhoto
from vrx.concepts.patches import PatchEncoder, Segmenter
from vrx.data.images import Photo
from vrx.data.scg_cache import digest, locked, write_atomically
from vrx.data.scg_datamodule import PhotoSource, SCGDataModule, prepared, stamps
from vrx.edits import Editor
from vrx.explain.explainer import Explainer
from vrx.explain.faithfulness import faithfulness, fidelity
from vrx.explain.figures import gallery_figure
from vrx.explain.report import write_report
from vrx.graphs.scg import SCGBuilder
from vrx.models.classification import fit_classifier
from vrx.models.distillation import Distillation
from vrx.models.grn import GRN
from vrx.structures import ConceptBank, Explanation, VRXError

log = logging.getLogger("vrx")


def script(main: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Wrap a script's main: one clear line instead of a traceback for errors that a user can mend."""

    @functools.wraps(main)
    def wrapped(cfg: DictConfig) -> Any:
        try:
            return main(cfg)
        except VRXError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt:
            print("interrupted: what was finished is kept; the same command goes on from there.", file=sys.stderr)
            sys.exit(130)

    return wrapped


def quiet_libraries() -> None:
    """Silence what libraries say about themselves; our own warnings stay."""
    for name in ("pytorch_lightning", "lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning|torch|timm|faiss|pyvista|wandb).*")


def device_of(cfg: DictConfig) -> torch.device:
    """Where F computes: where the trainer does."""
    wanted = cfg.trainer.get("accelerator", "auto")
    if wanted in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def wandb_logger(project: str, save_dir: str, group: str | None = None, **kwargs: Any) -> WandbLogger:
    """A W&B logger that goes offline, and says so in one line, when nobody is logged in."""
    import wandb

    mode = os.environ.get("WANDB_MODE", "")
    offline = mode in ("offline", "disabled", "dryrun")
    if not offline and not (os.environ.get("WANDB_API_KEY") or wandb.api.api_key):
        offline = True
        log.warning("Nobody is logged in to W&B: logging offline into %s (`wandb sync` uploads it).", save_dir)
    return WandbLogger(project=project, save_dir=save_dir, group=group, offline=offline, **kwargs)


def no_logger(**_: Any) -> bool:
    """Log nothing."""
    return False


class Run:
    """One run of ``train.py``: its folder, clock, metrics and logger.

    Args:
        cfg: the composed config.
        folder: where the run leaves its results.
    """

    def __init__(self, cfg: DictConfig, folder: Path) -> None:
        self.cfg, self.folder = cfg, folder
        self.metrics: dict[str, float] = {}
        self.notes: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)
        text = OmegaConf.to_yaml(cfg, resolve=True)
        write_atomically(folder / "config.yaml", lambda path: path.write_text(text))
        self.logger: Logger | None = instantiate(cfg.logger, save_dir=str(folder / "logs")) or None
        if self.logger is not None:
            self.logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage into ``time/<name>_s`` and say when it starts."""
        log.info("== %s", name.replace("_", " "))
        start = time.perf_counter()
        yield
        self.metrics[f"time/{name}_s"] = time.perf_counter() - start

    @rank_zero_only
    def finish(self) -> None:
        """Write and log the metrics."""
        plain = {k: v for k, v in sorted(self.metrics.items())}
        text = json.dumps(plain, indent=1)
        write_atomically(self.folder / "metrics.json", lambda path: path.write_text(text))
        if self.logger is not None:
            self.logger.log_metrics(plain)
            self.logger.finalize("success")

    @rank_zero_only
    def log_image(self, name: str, path: Path, caption: str = "") -> None:
        """Show a picture in W&B, when that is the logger."""
        if isinstance(self.logger, WandbLogger):
            self.logger.log_image(name, [str(path)], caption=[caption or path.stem])


def build_classifier(run: Run, source: PhotoSource) -> tuple[Classifier, dict[str, Any]]:
    """F, loaded or, when ``classifier.fit`` is set, fitted once and cached.

    Returns:
        F on its device, and the arguments that rebuild it from its weights.
    """
    cfg = run.cfg
    options = OmegaConf.to_container(cfg.classifier, resolve=True)
    assert isinstance(options, dict)
    fit = options.pop("fit", None)
    spec: dict[str, Any] = {
        **{str(k): v for k, v in options.items() if k not in ("checkpoint", "pretrained")},
        "class_names": list(source.class_names),
        "class_indices": None if fit else getattr(source, "class_indices", None),
    }
    checkpoint, pretrained = options.get("checkpoint"), options.get("pretrained", True)
    if fit:
        key = digest(
            {
                "spec": spec,
                "fit": fit,
                "start": [checkpoint, pretrained],
                "seed": cfg.seed,
                "data": source.settings(),
                "photos": [stamps(source.photos(s)) for s in ("discovery", "train", "val")],
            }
        )
        folder = Path(cfg.paths.cache_dir) / "classifiers" / key[:20]
        with locked(folder):
            fitted = fit_classifier(
                folder, source, {**spec, "checkpoint": checkpoint, "pretrained": pretrained}, fit, cfg.seed
            )
        checkpoint, pretrained = str(fitted), False
    classifier = load_classifier(**spec, checkpoint=checkpoint, pretrained=pretrained)
    return classifier.to(device_of(cfg)), spec


def build_extractor(cfg: DictConfig) -> CandidateExtractor:
    """Superpixels, attention and matching features as the ``concepts`` group says."""
    concepts = cfg.concepts
    segmenter = Segmenter(
        concepts.segments, concepts.max_jaccard, concepts.compactness, concepts.min_area, concepts.superpixel_side
    )
    return CandidateExtractor(segmenter, PatchEncoder(concepts.encoder), concepts.tau)


def build_bank(run: Run, source: PhotoSource, classifier: Classifier, extractor: CandidateExtractor) -> ConceptBank:
    """The concepts of every class, discovered once and cached."""
    concepts = run.cfg.concepts
    discovery = ConceptDiscovery(
        extractor,
        Editor(concepts.fill, concepts.margin),
        num_concepts=concepts.num_concepts,
        clusters=concepts.clusters,
        min_patches=concepts.min_patches,
        max_exemplars=concepts.max_exemplars,
        radius_quantile=concepts.radius_quantile,
        importance=concepts.importance,
        seed=run.cfg.seed,
    )
    photos = source.photos("discovery")
    key = digest(
        {
            "classifier": classifier.fingerprint,
            "data": source.settings(),
            "photos": stamps(photos),
            "discovery": discovery.settings(),
        }
    )
    folder = Path(run.cfg.paths.cache_dir) / "banks" / key[:20]
    with locked(folder):
        if (folder / "bank.json").exists():
            try:
                return ConceptBank.load(folder)
            except VRXError as error:
                log.warning("%s Making it again.", error)
        bank = discovery(classifier, _discovery_photos(run, source, classifier, extractor.segmenter, photos))
        bank.save(folder)
    return bank


def _discovery_photos(
    run: Run, source: PhotoSource, classifier: Classifier, segmenter: Segmenter, photos: Sequence[Photo]
) -> dict[str, list[DiscoveryPhoto]]:
    found: dict[str, list[DiscoveryPhoto]] = {name: [] for name in source.class_names}
    skipped = []
    for batch in prepared(source, photos, classifier, segmenter, 16, run.cfg.graph.workers):
        for item in batch:
            if item.x is None or item.superpixels is None:
                skipped.append(item.error)
                continue
            photo = photos[item.index]
            found[source.class_names[photo.label]].append(DiscoveryPhoto(photo.path, item.x, item.superpixels))
    if skipped:
        log.warning("Skipped %d unreadable discovery photos: %s", len(skipped), ", ".join(skipped[:3]))
    return found


def save_galleries(run: Run, bank: ConceptBank) -> None:
    """A picture a class of its concepts, in ``concepts/`` and in W&B."""
    folder = run.folder / "concepts"
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(bank.class_names):
        path = folder / f"gallery_{name.replace(' ', '_')}.png"
        gallery_figure(bank, index).savefig(path, dpi=110)
        run.log_image("concepts", path, name)


def distil(run: Run, data: SCGDataModule, classifier: Classifier) -> GRN:
    """Train the GRN on the cached graphs, resuming where an earlier try of the same run stopped."""
    cfg = run.cfg
    seed_everything(cfg.seed, workers=True, verbose=False)
    keys = [data.cache(split).key for split in ("train", "val")]
    settings = OmegaConf.to_container(cfg.model, resolve=True)
    callbacks_cfg = OmegaConf.to_container(cfg.callbacks, resolve=True)
    key = digest({"graphs": keys, "model": settings, "callbacks": callbacks_cfg, "seed": cfg.seed,
                  "epochs": cfg.trainer.max_epochs})
    folder = Path(cfg.paths.cache_dir) / "grn" / key[:20]
    callbacks: dict[str, Callback] = {
        name: instantiate(c, dirpath=str(folder)) if "ModelCheckpoint" in c._target_ else instantiate(c)
        for name, c in cfg.callbacks.items()
        if run.logger is not None or "LearningRate" not in c._target_
    }
    trainer: Trainer = instantiate(
        cfg.trainer, callbacks=list(callbacks.values()), logger=run.logger or False, default_root_dir=str(run.folder)
    )
    n, num = len(classifier.class_names), data.builder.num_nodes
    grn = instantiate(cfg.model.grn, num_classes=n, num_concepts=num, node_features=data.builder.node_features)
    module = Distillation(
        grn, instantiate(cfg.model.optimizer), instantiate(cfg.model.scheduler), **cfg.model.distillation
    )
    last = folder / "last.ckpt"
    trainer.fit(module, datamodule=data, ckpt_path=str(last) if last.exists() else None)
    best = callbacks["checkpoint"].best_model_path  # type: ignore[attr-defined]
    state = torch.load(best or last, map_location="cpu", weights_only=True)["state_dict"]
    module.load_state_dict(state)
    return module.grn.eval()


def evaluate(run: Run, data: SCGDataModule, grn: GRN) -> str:
    """Measure fidelity and faithfulness; choose the default contributions on the validation photos.

    Returns:
        The method of the default contributions.
    """
    cfg = run.cfg
    candidates = ("knockout", "gradient") if cfg.contributions == "auto" else (cfg.contributions,)
    on_val = {m: faithfulness(grn, data.tables["val"], m)["faithfulness/spearman"] for m in candidates}
    method = max(on_val, key=lambda m: on_val[m])
    held_out = fidelity(grn, data.tables["val"])
    run.metrics |= {f"val/{name}": value for name, value in held_out.items()}
    run.metrics["val/faithfulness/spearman"] = on_val[method]
    run.metrics["val/objective"] = on_val[method] + min(held_out["fidelity/agreement"], 0.98)
    run.metrics |= fidelity(grn, data.tables["test"])
    run.metrics |= faithfulness(grn, data.tables["test"], method, seed=cfg.seed)
    run.metrics["throughput/scg_images_per_s"] = data.images_per_s
    for split, names in data.skipped.items():
        run.metrics[f"skipped/{split}"] = float(len(names))
    return method


def explained_photos(source: PhotoSource, data: SCGDataModule, count: int) -> list[Photo]:
    """Test photos for the report: for every class in turn a right one, and up to a third wrong ones."""
    table = data.tables["test"]
    photos = source.photos("test")
    predicted, label, index = table["logits"].argmax(1), table["label"], table["index"]
    wrong = [photos[i] for i in index[predicted != label].tolist()][: count // 3]
    right: list[Photo] = []
    rows = {c: index[(predicted == label) & (label == c)].tolist() for c in range(len(source.class_names))}
    while len(right) < count - len(wrong) and any(rows.values()):
        for remaining in rows.values():
            if remaining and len(right) < count - len(wrong):
                right.append(photos[remaining.pop(0)])
    return right + wrong


def report(run: Run, source: PhotoSource, data: SCGDataModule, explainer: Explainer) -> Path:
    """Explain some test photos and write ``reports/index.html``."""
    explanations: list[Explanation] = []
    for photo in explained_photos(source, data, run.cfg.report.explanations):
        made = explainer.explain(source.read(photo), true_class=photo.label)
        explanations.append(made.renamed(photo.path))
    settings = OmegaConf.to_container(run.cfg, resolve=True)
    title = f"VRX: {run.cfg.name}"
    folder = run.folder / "reports"
    return write_report(folder, title, run.metrics, explanations, explainer.bank, settings, run.notes)  # type: ignore[arg-type]


@rank_zero_only
def summarise(run: Run, page: Path) -> None:
    """The figures that matter and where to look, on the console."""
    names = ("fidelity/agreement", "fidelity/agreement_masked", "fidelity/l1", "faithfulness/spearman")
    for name in names:
        if name in run.metrics:
            log.info("%-28s %.3f", name, run.metrics[name])
    for explained in sorted((run.folder / "reports").glob("*.png"))[:12]:
        run.log_image("explanations", explained)
    log.info("Open %s", page.resolve())
    log.info("Explain your own photos: python explain.py run=%s images=<file or folder>", run.folder)
