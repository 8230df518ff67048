"""Pictures of the concepts of a class, and what the bank measured of each."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vrx.bank import ConceptBank
from vrx.report.drawing import EMPTY, QUIET, Pixels, draw_box, draw_label, fit, page
from vrx.report.figures import TITLE, draw_title
from vrx.report.html import draw, save_png
from vrx.report.phrases import shorten, signed
from vrx.scores import SIGNIFICANT

WEAK = "#8a1c1c"  # colour of what is not significant
GALLERY_NOTE = (
    "importance: fall of the classifier's log-odds when the patches are deleted\n"
    "p: against deleting as many pixels at random places of the same photo"
)


def concept_note(bank: ConceptBank, index: int, concept: int) -> tuple[str, str]:
    """What the bank measured of a concept: its importance, and whether it is above random places."""
    p, importance = float(bank.p_value[index, concept]), f"importance {signed(float(bank.importance[index, concept]))}"
    if not math.isfinite(p):
        return importance, "p not measured"
    value = "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
    return importance, f"{value}: not significant" if weak(bank, index, concept) else value


def weak(bank: ConceptBank, index: int, concept: int) -> bool:
    """Whether a concept was tested and is not significant."""
    return bool(bank.p_value[index, concept] >= SIGNIFICANT)


def missing_note(bank: ConceptBank, index: int) -> str:
    """Why a class has fewer concepts than there are places, in a sentence; "" for one that has them all."""
    count, places, note = int(bank.present[index].sum()), bank.num_concepts, bank.notes.get(bank.class_names[index], "")
    if count == places:
        return ""
    text, reason = f"{count} of {places} concepts", f"{places - count} more could not be found"
    if not count:
        text, reason = "No concepts of its own", "none could be found"
    blank = f" A photo without any detail is called {bank.class_names[index]}." * (index == bank.fallback)
    return f"{text}: {note or reason}.{blank}"


def exemplar_strip(bank: ConceptBank, index: int, concept: int, gap: int = 6) -> NDArray[np.uint8] | None:
    """The exemplars of a concept side by side, uint8 ``[S, W, 3]``; None where it has none."""
    paths = bank.exemplar_paths[index][concept] if bank.exemplar_paths else ["?"] * bank.exemplars.shape[2]
    shown = [e for e, path in zip(bank.exemplars[index, concept], paths, strict=True) if path]
    if not shown or not bank.present[index, concept]:
        return None
    return np.concatenate([np.pad(e, ((0, 0), (0, gap), (0, 0)), constant_values=255) for e in shown], axis=1)[:, :-gap]


def gallery_figure(bank: ConceptBank, class_index: int) -> Figure:
    """The concepts of a class, one per row: name, typical patches, importance and p-value; and why there are so few."""
    shown = np.flatnonzero(bank.present[class_index]).tolist()
    side, left, row, head = 1.05, 2.35, 1.19, TITLE + 0.17 if shown else 0.4
    width = left + max(bank.exemplars.shape[2], 4) * 1.13
    note = textwrap.wrap(missing_note(bank, class_index), int(width * 13))
    figure, ax = page(width, head + len(shown) * row + 0.2 * len(note))
    title = f"Concepts of {shorten(bank.class_names[class_index], 40)}"
    draw_title(ax, title, GALLERY_NOTE if shown else "")
    for place, concept in enumerate(shown):
        importance, tested = concept_note(bank, class_index, concept)
        strip, top = exemplar_strip(bank, class_index, concept), head + place * row
        name, middle = bank.name(class_index, concept), top + side / 2
        draw_label(ax, 0, middle, str(concept + 1), 20, weight="bold")
        draw_label(ax, 0.4, middle - 0.27, fit(name, left - 0.5, 10.5, "bold"), 10.5, weight="bold")
        draw_label(ax, 0.4, middle - 0.02, importance, 10.5)
        style = {"color": WEAK, "weight": "bold"} if weak(bank, class_index, concept) else {"color": QUIET}
        draw_label(ax, 0.4, middle + 0.2, tested, 9, **style)
        if strip is None:
            draw_box(ax, left, top, side, side, EMPTY)
        else:
            ax.add_artist(Pixels(strip, (left, top, side * strip.shape[1] / strip.shape[0], side)))
    draw_label(ax, 0, head + len(shown) * row, "\n".join(note), 9.5, color=QUIET, va="top", linespacing=1.3)
    return figure


def write_gallery(folder: Path, bank: ConceptBank, index: int) -> Path:
    """Write the picture of the concepts of a class, ``gallery_<class>.png``."""
    path = folder / f"gallery_{bank.class_names[index].replace(' ', '_').replace('/', '_')}.png"
    save_png(path, draw(gallery_figure(bank, index)))
    return path
