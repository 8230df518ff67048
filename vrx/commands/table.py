"""What ``explain.py`` says of every photo, a line each, in ``explanations.jsonl`` and ``explanations.csv``."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from vrx.explanation import Explanation
from vrx.report.trust import trust
from vrx.report.words import sentences
from vrx.storage import json_safe, write_atomically

log = logging.getLogger("vrx")

KEY = ("photo", "folder", "content", "made_by")  # a photo whose line has the same is not explained again
COLUMNS = (
    "photo", "predicted", "probability", "grn_predicted", "grn_probability", "label", "trust", "relations_trust",
    "spearman", "why", "why_not", "run", "folder", "content", "made_by",
)  # fmt: skip


def file_hash(*paths: Path) -> str:
    """Hash of the content of files; one that cannot be read counts as none."""
    state = hashlib.sha256()
    for path in paths:
        try:
            state.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError:
            state.update(b"none")
    return state.hexdigest()[:16]


def line_of(explanation: Explanation, key: Mapping[str, str]) -> dict[str, Any]:
    """The line of one photo: :data:`COLUMNS`, with None where there is nothing to say."""
    names, true, grn = explanation.class_names, explanation.true_class, int(explanation.grn_logits.argmax())
    checked, (_, why, *others) = trust(explanation), sentences(explanation)
    values = {
        **key,
        "predicted": names[explanation.predicted],
        "probability": round(float(explanation.probabilities.max()), 4),
        "grn_predicted": names[grn],
        "grn_probability": round(float(explanation.grn_probabilities.max()), 4),
        "label": None if true is None else names[true],
        "trust": checked.level,
        "relations_trust": checked.relations_level or None,
        "spearman": round(explanation.trust, 4),
        "why": why,
        "why_not": " ".join(others),
        "run": explanation.provenance.get("run"),
    }
    return {name: json_safe(values[name]) for name in COLUMNS}


class Table:
    """The lines in a folder of explanations: those that are there already, and new ones as they are made.

    The CSV follows the JSON lines; a line that is damaged, such as a last one that was not finished, is dropped.
    """

    def __init__(self, out: Path) -> None:
        self.jsonl, self.csv = out / "explanations.jsonl", out / "explanations.csv"
        self.known: dict[tuple[str, ...], dict[str, Any]] = {}
        content = self.jsonl.read_text(encoding="utf-8", errors="replace") if self.jsonl.is_file() else ""
        for number, text in enumerate(filter(None, content.split("\n")), 1):
            try:
                line = {name: json.loads(text)[name] for name in COLUMNS}
                self.known[_identity(line)] = line
            except (ValueError, KeyError, TypeError):
                log.warning("%s, line %d is damaged: its photo is explained again.", self.jsonl, number)

    def __contains__(self, key: Mapping[str, str]) -> bool:
        """Whether a photo has its line, made of the same content by the same run."""
        return _identity(key) in self.known

    def rewrite(self, anew: Iterable[Mapping[str, str]]) -> None:
        """Write both files without the lines of the photos that are explained anew."""
        keys = list(anew)
        gone = {(name, key[name]) for key in keys for name in ("photo", "folder")}
        kept = [line for line in self.known.values() if gone.isdisjoint(line.items())]
        for path, first, write in ((self.jsonl, "", _json), (self.csv, ",".join(COLUMNS) + "\n", _csv)):
            content = (first + "".join(map(write, kept))).encode("utf-8", "backslashreplace")
            write_atomically(path, partial(Path.write_bytes, data=content))

    def append(self, line: Mapping[str, Any]) -> None:
        """Add the line of a photo."""
        for path, write in ((self.csv, _csv), (self.jsonl, _json)):
            with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(write(line))


def _identity(line: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(line[name]) for name in KEY)


def _json(line: Mapping[str, Any]) -> str:
    return json.dumps(line) + "\n"


def _csv(line: Mapping[str, Any]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, COLUMNS, lineterminator="\n").writerow(line)
    return text.getvalue()
