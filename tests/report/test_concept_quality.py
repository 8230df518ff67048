"""How good the concepts are, on the page: what each bar says, what is left out, words that hold the numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tests.report.synthetic import make_bank
from vrx.report.concept_quality import ALL, quality_charts, quality_table, shares_by_class
from vrx.report.pages import write_report

NAN = math.nan
CLASSES = ("tank", "bus")
METRICS = {
    "concepts/significant": 0.5,
    "concepts/purity": 0.75,
    "concepts/recall_own": 0.9,
    "concepts/precision": 0.8,
    "concepts/recall_other": 0.4,
    "completeness/deletion": 0.93,
    "completeness/deletion_random": 0.41,
    "completeness/area": 0.123,
    "completeness/c_deletion": 0.7,
    "stability/top_concept": 0.9,
    "stability/rank": 0.8,
    "stability/iou": 0.7,
    "stability/found": 0.95,
}


def row(class_name: str, number: int, significant: bool, **known: Any) -> dict[str, Any]:
    values = {"name": "", "effect": 1.25, "random_effect": -0.5, "p_value": 0.0004, "photos": 9}
    masks = {"purity": NAN, "recall_own": NAN, "precision": NAN}
    return {"class_name": class_name, "number": number, "significant": significant, **values, **masks, **known}


ROWS = [
    row("tank", 1, True, purity=1.0, recall_own=0.8),
    row("tank", 2, False, purity=0.5),
    row("bus", 1, True, name="ladder", photos=1),
]


def values(chart: dict[str, Any]) -> list[str]:
    """What stands at all bars of a chart."""
    return [bar["text"] for _, bars in chart["rows"] for bar in bars]


def test_shares_are_means_over_the_concepts_of_a_class() -> None:
    shares = shares_by_class(METRICS, ROWS, [*CLASSES, "jeep"])
    assert list(shares) == [ALL, "tank", "bus", "jeep"]
    assert list(shares[ALL]) == ["significant", "purity", "recall_own"], "no concept has a precision"
    assert shares[ALL] == {"significant": 0.5, "purity": 0.75, "recall_own": 0.9}
    assert shares["tank"] == {"significant": 0.5, "purity": 0.75, "recall_own": 0.8}
    assert all(math.isnan(share) for share in shares["jeep"].values()), "shown, though it has no concept"
    assert shares["bus"]["significant"] == 1 and math.isnan(shares["bus"]["purity"])


def test_bars_and_words_hold_the_numbers() -> None:
    concepts, completeness, stability = quality_charts(METRICS, ROWS, CLASSES)
    unknown = ["1.00", "not known", "not known"]  # of the bus
    assert values(concepts) == ["0.50", "0.75", "0.90", "0.50", "0.75", "0.80", *unknown]
    assert [label for label, _ in concepts["rows"]] == [ALL, "tank", "bus"]
    assert values(completeness) == ["0.93", "0.41"] and values(stability) == ["0.90", "0.80", "0.95", "0.70"]
    assert "lies on one part" in concepts["caption"]
    assert "parts found in photos of other classes 0.40" in concepts["caption"]
    assert "cover 12% of the photo" in completeness["note"] and "0.70" in completeness["caption"]
    assert all(chart["caption"].startswith("Good is ") for chart in (concepts, completeness, stability))


def test_what_was_not_measured_is_not_shown() -> None:
    assert quality_charts({}, [], CLASSES) == []
    plain_rows = [row("tank", 1, True), row("tank", 2, False)]
    charts = quality_charts({"concepts/significant": 0.5, "stability/found": 1.0}, plain_rows, ["tank"])
    assert [values(chart) for chart in charts] == [["0.50", "0.50"], ["1.00"]]
    assert "part" not in charts[0]["caption"]
    half = {"completeness/deletion": 0.9, "completeness/deletion_random": 0.4, "completeness/area": 0.1}
    assert len(quality_charts(half, [], CLASSES)) == 1


def test_the_table_is_words() -> None:
    head, first, _, last = quality_table(ROWS)
    assert head == ["class", "concept", "fall", "random place", "p", "photos", "purity", "recall"]
    assert first == ["tank", "1", "1.25", "−0.50", "0.0004", "9", "1.00", "0.80"]
    assert last == ["bus", "ladder (1)", "1.25", "−0.50", "too few photos", "1", "not measured", "not measured"]
    assert quality_table([row("tank", 1, True)])[0][-1] == "photos" and quality_table([]) == []


def test_a_class_without_a_concept_says_so_once() -> None:
    texts = values(quality_charts(METRICS, ROWS, [*CLASSES, "jeep"])[0])
    assert texts.count("no concept") == 1 and texts.count("not known") == 2


def test_the_report_has_the_section_where_something_was_measured(tmp_path: Path) -> None:
    bank = make_bank()
    rows = [row(bank.class_names[0], 1, True, name="<b>")]
    with_rows = write_report(tmp_path / "a", "t", METRICS, [], bank, {}, [], rows).read_text()
    assert with_rows.count('id="quality"') == with_rows.count('href="#quality"') == 1
    assert "&lt;b&gt; (1)" in with_rows and "<b> (1)" not in with_rows
    without = write_report(tmp_path / "b", "t", {}, [], bank, {}, []).read_text()
    assert "How good are the concepts?" not in without and "#quality" not in without
