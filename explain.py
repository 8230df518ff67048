"""Explain photos with a finished run: ``python explain.py run=<run folder> images=<file or folder>``."""

from __future__ import annotations

import difflib
import logging
from pathlib import Path

import hydra
from omegaconf import DictConfig
from tqdm import tqdm

from vrx.data.images import IMAGE_SUFFIXES
from vrx.explain.explainer import Explainer
from vrx.explain.report import write_explanation
from vrx.explain.words import sentence, trust_line
from vrx.runtime import quiet_libraries, script
from vrx.structures import VRXError

log = logging.getLogger("vrx")


def find_images(path: Path) -> list[Path]:
    """The photo itself, or the photos beneath a folder, sorted.

    Raises:
        VRXError: there is nothing there.
    """
    if path.is_file():
        return [path]
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES) if path.is_dir() else []
    if not found:
        raise VRXError(f"images={path}: no photo there. Give a file, or a folder of {', '.join(sorted(IMAGE_SUFFIXES))}.")
    return found


def class_index(label: str | None, class_names: tuple[str, ...]) -> int | None:
    """Index of the label among the classes of interest."""
    if label is None:
        return None
    if label not in class_names:
        near = difflib.get_close_matches(label, class_names, 3, 0.0)
        raise VRXError(f"label={label!r} is not a class of this run; nearest: {', '.join(near)}.")
    return class_names.index(label)


@hydra.main(version_base="1.3", config_path="conf", config_name="explain")
@script
def main(cfg: DictConfig) -> None:
    """Write JSON, PNG and a self-contained HTML page for every photo."""
    quiet_libraries()
    images = find_images(Path(str(cfg.images)))
    explainer = Explainer.load(str(cfg.run), cfg.device, cfg.contributions)
    label = class_index(cfg.label, explainer.bank.class_names)
    unreadable = []
    for path in tqdm(images, desc="explaining", unit="photo", disable=len(images) == 1):
        try:
            explanation = explainer.explain(path, label)
        except VRXError as error:
            unreadable.append(str(error))
            continue
        folder = Path(str(cfg.out)) / path.stem
        write_explanation(folder, explanation, explainer.bank)
        log.info("%s\n  %s\n  %s\n  -> %s", path, sentence(explanation), trust_line(explanation), folder)
    for error_text in unreadable:
        log.warning("skipped: %s", error_text)
    if len(unreadable) == len(images):
        raise VRXError(f"None of the {len(images)} photos could be read.")


if __name__ == "__main__":
    main()
