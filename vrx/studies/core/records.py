"""What a study leaves on disk: records as it goes, tables and metrics at the end."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vrx.storage import json_safe, write_text


class Records(dict[str, dict[str, Any]]):
    """One JSON object per line, appended as soon as it is known; what an interrupted study left is read back.

    Lines under another key (:meth:`StudyContext.key`) are left alone.
    """

    def __init__(self, path: Path, key: str) -> None:
        super().__init__()
        self.path, self.key = path, key
        text = path.read_text() if path.exists() else ""
        for line in text.splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # the line that was being written when the study was killed
                continue
            if record["key"] == key:
                self[record["name"]] = record["value"]
        self._torn = bool(text) and not text.endswith("\n")

    def add(self, name: str, value: Mapping[str, Any]) -> None:
        """Keep a record: of one photo, or of one edit."""
        line = json.dumps({"key": self.key, "name": name, "value": json_safe(value)}, allow_nan=False)
        with self.path.open("a") as file:
            file.write(("\n" if self._torn else "") + line + "\n")
        self._torn = False
        self[name] = json.loads(line)["value"]

    def once(self, name: str, make: Callable[..., Mapping[str, Any]], *args: Any) -> dict[str, Any]:
        """The record of this name, ``make(*args)`` where it is not known yet."""
        if name not in self:
            self.add(name, make(*args))
        return self[name]


def write_results(folder: Path, rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, float]) -> None:
    """Write ``results.json``, ``results.csv`` (the same table) and ``metrics.json``.

    Columns are the keys of the rows in order of first appearance; metrics that are not finite are left out.
    """
    buffer = io.StringIO()
    table = csv.DictWriter(buffer, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    table.writeheader()
    table.writerows([json_safe(row) for row in rows])
    numbers = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
    write_text(folder / "results.csv", buffer.getvalue())
    write_text(folder / "results.json", json.dumps(json_safe(list(rows)), indent=1))
    write_text(folder / "metrics.json", json.dumps(numbers, indent=1))
