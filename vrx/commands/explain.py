"""``explain.py``: a finished run and photos -> explanations; ``compare``: several runs; ``names``: its concepts."""

from __future__ import annotations

import difflib
import logging
import sys
from collections import Counter
from pathlib import Path

import hydra
import numpy as np
from omegaconf import DictConfig
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from vrx import __version__ as VERSION
from vrx.commands.table import Table, file_hash, line_of
from vrx.concepts.names import FILE, example, load_bank
from vrx.data.images import SUFFIXES, is_image
from vrx.errors import VRXError
from vrx.explain.explainer import Explainer
from vrx.machine import device_of
from vrx.report.galleries import write_gallery
from vrx.report.pages import check_comparable, checked_formats, write_comparison, write_explanation
from vrx.report.phrases import signed
from vrx.report.words import sentence, trust_line
from vrx.runtime import CONFIG, require, script, use_local_run
from vrx.storage import digest

log = logging.getLogger("vrx")


def find_images(path: Path) -> list[Path]:
    """The photo itself, or the photos beneath a folder, sorted."""
    if path.is_file():
        return [path]
    found = sorted(p for p in path.rglob("*") if is_image(p)) if path.is_dir() else []
    if not found:
        raise VRXError(f"images={path}: no photo there. Give a file, or a folder of {', '.join(sorted(SUFFIXES))}.")
    return found


def folders(images: list[Path], root: Path) -> list[Path]:
    """Where each explanation goes, relative to ``out``: by the photo's name, with its suffix where two share one."""
    if root.is_file():
        return [Path(root.stem)]
    inside = [image.relative_to(root) for image in images]
    stems = Counter(path.with_suffix("") for path in inside)
    return [path if stems[path.with_suffix("")] > 1 else path.with_suffix("") for path in inside]


def class_index(label: str | None, class_names: tuple[str, ...]) -> int | None:
    """Index of the label among the classes of interest."""
    if label is None:
        return None
    if label not in class_names:
        near = difflib.get_close_matches(label, class_names, 3, 0.0)
        raise VRXError(f"label={label!r} is not a class of this run; nearest: {', '.join(near)}.")
    return class_names.index(label)


def open_run(cfg: DictConfig) -> Explainer:
    """The run's explainer."""
    if cfg.device not in ("cpu", "cuda"):
        raise VRXError(f"device={cfg.device!r}: use cpu or cuda.")
    if cfg.device == "cuda":
        device_of("cuda")
    try:
        return Explainer.load(str(cfg.run), cfg.device, cfg.method)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        raise VRXError(f"run={cfg.run} is damaged ({reason}): rerun train.py.") from error


def list_names(run: Path) -> str:
    """Every concept of a run with its name, and how to name it; draws the galleries anew, with the names."""
    folder = run / "concepts"
    bank = load_bank(folder)
    lines = []
    for index, name in enumerate(bank.class_names):
        lines.append(f"{name}    {write_gallery(folder, bank, index).resolve()}")
        lines += [
            f"  {k + 1}  importance {signed(float(bank.importance[index, k])):5}  {bank.name(index, k) or 'no name'}"
            for k in np.flatnonzero(bank.present[index]).tolist()
        ] or ["  no concepts of its own"]
    named = sum(bool(name) for names in bank.all_names for name in names)
    lines += [
        f"{named} of {bank.present.sum()} concepts have a name. To name them, look at the galleries and write into",
        f"  {(folder / FILE).resolve()}",
        f"a line per class, such as  {example(bank)}",
    ]
    return "\n".join(lines)


def compare(cfg: DictConfig) -> Path:
    """Explain the same photos by several runs on one page, ``comparison.html``."""
    require(cfg, "images", "python explain.py compare=<run>,<run> images=<file or folder>")
    runs = [name.strip() for name in str(cfg.compare).split(",") if name.strip()]
    if len(runs) < 2:
        raise VRXError(f"compare={cfg.compare}: give two run folders or more, with commas between them.")
    explainers = []
    for name in runs:
        cfg.run = name
        explainers.append(open_run(cfg))
        if explainers[-1].builder.hypotheses is not None:
            raise VRXError(f"compare: {name} has graph.hypotheses: compare runs with graphs of all classes (null).")
    cfg.run = runs[0]  # its folder gets the page
    banks = [explainer.bank for explainer in explainers]
    check_comparable(runs, banks)
    labels = [class_index(cfg.label, bank.class_names) for bank in banks]
    found = []
    with logging_redirect_tqdm():
        for path in tqdm(find_images(Path(str(cfg.images))), desc="explaining", unit="photo"):
            try:
                found.append([e.explain(path, label) for e, label in zip(explainers, labels, strict=True)])
            except VRXError as error:
                log.warning("skipped: %s", error)
    if not found:
        raise VRXError(f"images={cfg.images}: none of the photos could be read.")
    return write_comparison(Path(str(cfg.out)) / "comparison.html", runs, list(zip(*found, strict=True)), banks)


def main() -> None:
    """The command line; Hydra takes no plain words, so ``names`` becomes a setting, and commas are of its sweeps."""
    sys.argv[1:] = ["names=true" if word == "names" else _quoted(word) for word in sys.argv[1:]]
    run()


def _quoted(word: str) -> str:
    """``compare='a,b'`` for ``compare=a,b``."""
    value = word.removeprefix("compare=")
    return word if value == word or value[:1] in "'\"[" else f"compare='{value}'"


@hydra.main(version_base="1.3", config_path=CONFIG, config_name="explain")
@script
def run(cfg: DictConfig) -> None:
    """Write a self-contained HTML page, a PNG and JSON for every photo, or what ``formats`` names of them."""
    if cfg.names:
        require(cfg, "run", "python explain.py run=<run folder> names")
        use_local_run(cfg)
        log.info(list_names(Path(str(cfg.run))))
        return
    if cfg.compare:
        log.info("Open %s", compare(cfg).resolve())
        return
    for key in ("run", "images"):
        require(cfg, key, "python explain.py run=<run folder> images=<file or folder>")
    use_local_run(cfg)
    images = find_images(Path(str(cfg.images)))
    formats = checked_formats(cfg.formats)
    explainer = open_run(cfg)
    explain_photos(cfg, images, formats, explainer)


def explain_photos(cfg: DictConfig, images: list[Path], formats: list[str], explainer: Explainer) -> None:
    """Explain what is not explained yet, photo by photo: its files and its line in the table of ``out``.

    Raises:
        VRXError: no photo at all could be read.
    """
    root, out = Path(str(cfg.images)), Path(str(cfg.out))
    label = class_index(cfg.label, explainer.bank.class_names)
    made_by = digest({"run": run_hash(Path(str(cfg.run))), "method": explainer.method, "label": label, "vrx": VERSION})
    keys = [
        {"photo": str(path), "folder": folder.as_posix(), "content": file_hash(path), "made_by": made_by[:16]}
        for path, folder in zip(images, folders(images, root), strict=True)
    ]
    table, fresh = Table(out), True
    unreadable: list[str] = []
    wanted = [f"explanation.{suffix}" for suffix in formats]
    todo = [k for k in keys if k not in table or not all((out / k["folder"] / name).exists() for name in wanted)]
    if len(todo) < len(keys):
        log.info("%d of %d photos are explained in %s already.", len(keys) - len(todo), len(keys), out)
    with logging_redirect_tqdm():
        for key in tqdm(todo, desc="explaining", unit="photo"):
            try:
                explanation = explainer.explain(key["photo"], label)
            except VRXError as error:
                unreadable.append(str(error))
                log.warning("skipped: %s", error)
                continue
            if fresh:
                table.rewrite(todo)
                fresh = False
            write_explanation(out / key["folder"], explanation, explainer.bank, formats)
            table.append(line_of(explanation, key))
            page = (out / key["folder"] / wanted[0]).resolve()
            said = sentence(explanation), trust_line(explanation)
            log.info("%s\n  %s\n  %s\n  Open %s", key["photo"], *said, page)
    if len(unreadable) == len(images):
        raise VRXError(f"images={root}: none of the {len(images)} photos could be read. {unreadable[0]}")
    if unreadable:
        log.warning("Skipped %d of %d photos (named above).", len(unreadable), len(images))
    if len(images) > 1:
        log.info("All photos in one table: %s", table.csv.resolve())


def run_hash(run: Path) -> str:
    """Hash of what decides an explanation by this run: its parts, and the names of its concepts."""
    parts = ("explainer.json", "concepts/bank.json", f"concepts/{FILE}", "checkpoints/grn.safetensors")
    return file_hash(*(run / part for part in parts))
