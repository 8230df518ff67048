"""Records survive being killed in the middle of a line; tables and metrics are plain JSON and CSV."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from vrx.studies.core.records import Records, write_results


def test_records_are_read_back_after_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    records = Records(path, "key")
    records.add("one", {"areas": np.array([1, 2]), "score": np.float32(0.5), "none": np.nan})
    records.add("two", {"right": True})
    path.write_text(path.read_text()[:-9])  # killed while it wrote the second
    again = Records(path, "key")
    assert "two" not in again and again["one"] == {"areas": [1, 2], "score": 0.5, "none": None}
    again.add("three", {"right": False})
    assert Records(path, "key")["three"] == {"right": False} and "one" in Records(path, "key")
    assert "one" not in Records(path, "another key")


def test_the_table_has_every_column_in_order_of_first_appearance(tmp_path: Path) -> None:
    write_results(tmp_path, [{"a": 1, "b": None}, {"c": 0.5, "a": 2}], {"share": np.float64(0.25), "none": np.nan})
    with (tmp_path / "results.csv").open() as file:
        assert list(csv.reader(file)) == [["a", "b", "c"], ["1", "", ""], ["2", "", "0.5"]]
    assert json.loads((tmp_path / "results.json").read_text()) == [{"a": 1, "b": None}, {"c": 0.5, "a": 2}]
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"share": 0.25}
