"""Pages that stand alone: self-contained, escaped, strict JSON, whole or absent."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.report.synthetic import make_bank, make_explanation, make_gain, make_relations
from vrx.errors import VRXError
from vrx.explanation import Explanation
from vrx.report.findings import faithfulness_chart, findings
from vrx.report.html import flatten
from vrx.report.mistakes import Predictions
from vrx.report.pages import best_explanation, write_comparison, write_explanation, write_report
from vrx.report.words import sentence, trust_line

NASTY = "photos/<script>alert(1)</script>&\"'.jpg"


class Page(HTMLParser):
    """Every tag with its attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.script = "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.script = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.script = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self.script else data

    def images(self) -> list[dict[str, str | None]]:
        return [a for t, a in self.tags if t == "img"]


def check_self_contained(page: Page, source: str) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "poster"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/")), (tag, value[:80])
    assert not [t for t, _ in page.tags if t in ("link", "iframe", "object")]
    assert "default-src 'none'" in source
    assert not re.search(r"url\((?!#)|@import|https?://(?!www.w3.org/2000/svg)", source)
    assert page.images() and all(a.get("alt") for a in page.images())
    assert all(a.get("aria-label") for t, a in page.tags if t == "svg")


def trusted(high: bool, **change: Any) -> Explanation:
    """All concepts found; the contributions are the measured effects, or their opposite."""
    measured = (np.arange(12, dtype=np.float32).reshape(3, 4) + 1) / 4
    scores = np.zeros((3, 3, 4))
    scores[:] = measured if high else -measured
    found: dict[str, Any] = {"detected": np.ones((3, 4), bool), "masks": np.ones((3, 4, 128, 128), bool)}
    explanation = make_explanation(measured=measured, node_scores=scores, **found, **change)
    return replace(explanation, grn_logits=explanation.logits)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    explanations = [
        trusted(False, seed=0, name=NASTY),
        trusted(True, seed=1),
        make_explanation(seed=2, true_class=1),
    ]
    metrics = {
        "fidelity/agreement": 0.981,
        "fidelity/agreement_masked": 0.953,
        "faithfulness/spearman": 0.52,
        "faithfulness/spearman_area": 0.32,
        "faithfulness/ceiling": 0.65,
        "time/graphs_s": math.nan,
    }
    settings = {"data": {"root": "a<b>&c", "classes": ["x", "y"]}, "seed": 3}
    write_report(
        folder, "VRX: <toy>", metrics, explanations, make_bank(missing=True), settings, ["1 & 2 were <skipped>"]
    )
    return folder


def test_run_report_is_self_contained_and_escaped(written: Path) -> None:
    source = (written / "index.html").read_text()
    page = Page(source)
    check_self_contained(page, source)
    assert "VRX: <toy>" in page.text and "1 & 2 were <skipped>" in page.text and "a<b>&c" in page.text
    assert any(a.get("title") == NASTY for _, a in page.tags)
    targets = {a["href"] for t, a in page.tags if t == "a"}
    assert targets <= {f"#{a.get('id')}" for _, a in page.tags}
    assert len(source) < 1e6


def test_each_photo_is_in_the_page_once(written: Path) -> None:
    source = (written / "index.html").read_text()
    photos = [str(a["href"]) for t, a in Page(source).tags if t == "image"]
    assert len(photos) == 3 and [source.count(photo) for photo in photos] == [1, 1, 1]


def test_run_report_says_what_was_measured_and_nothing_else(written: Path) -> None:
    text = " ".join(Page((written / "index.html").read_text()).text.split())
    assert (
        "98.1% of held-out photos get the same class" in text
        and "F's" not in text
        and "95.3% when a concept is deleted" in text
    )
    assert "the best simple score, patch area, reaches 0.32" in text
    assert "L1" not in text and "time/graphs_s" not in text and "nan" not in text.lower()
    assert "Most wrong" in text and "Least trusted" in text and "Good: 98% or more." in text
    assert "1 more could not be found." in text
    assert "not significant" in text and "data.root" in text


def test_the_page_names_concepts_and_what_a_photo_without_detail_is_called(tmp_path: Path) -> None:
    names = [["<script>alert(1)</script>", "$x$", "", ""], [""] * 4, [""] * 4]
    bank = replace(make_bank(missing=True), names=names, featureless={"blur": [0.2, 0.7, 0.1]})
    bank.radius[1] = -1
    notes = {"fire engine": "few <photos>", "ambulance": "none in common"}
    page = write_report(tmp_path, "Named", {}, [], replace(bank, notes=notes), {}, [])
    source = page.read_text()
    text = Page(source)
    check_self_contained(text, source)
    assert "<script>alert(1)</script>: importance" in text.text.replace("\n", "") and "$x$" in text.text
    assert any(str(a["alt"]).endswith("concept 2 of fire engine, $x$") for a in text.images())
    assert "A photo without any detail is called ambulance (0.70; blurred 0.70)." in text.text
    assert "3 of 4 concepts: few <photos>." in text.text
    assert "No concepts of its own: none in common. A photo without any detail is called ambulance." in text.text
    assert "no such concept" not in text.text and "random patches" not in text.text


def test_the_json_holds_names_and_what_may_be_there(tmp_path: Path) -> None:
    names = (("", "", "", "ladder"), ("", "<b>", "", ""), ("",) * 4)
    explanation = replace(trusted(True), names=names, presence=np.full((3, 4), 0.3, np.float32))
    write_explanation(tmp_path, explanation, make_bank(), ["json"])
    content = json.loads((tmp_path / "explanation.json").read_text())
    assert content["names"] == [list(row) for row in names]
    assert content["perhaps"] == [[False] * 4] * 3 and content["present"] == [[True] * 4] * 3
    assert "ladder (4)" in content["sentence"]


def test_a_name_stays_text_on_the_page_of_a_photo(tmp_path: Path) -> None:
    names = (("<script>alert(1)</script>",) * 4,) * 3
    explanation = replace(trusted(True), names=names)
    write_explanation(tmp_path, explanation, make_bank(), ["html"])
    source = (tmp_path / "explanation.html").read_text()
    page = Page(source)
    check_self_contained(page, source)
    assert "<script>alert(1)</script> (4)" in page.text


def test_every_explanation_lies_beside_the_page(written: Path) -> None:
    assert {p.name for p in written.iterdir()} == {
        "index.html",
        *(f"explanation_{i:02d}.{kind}" for i in (1, 2, 3) for kind in ("png", "json")),
    }
    with Image.open(written / "explanation_01.png") as picture:
        assert picture.width > 1500


def test_best_comes_first(written: Path) -> None:
    source = (written / "index.html").read_text()
    assert '<a href="#photo-2" data-ask="decided">' in source
    assert best_explanation([]) is None
    wrong, right = trusted(True, seed=1, true_class=2), trusted(False, seed=2, true_class=0)
    assert best_explanation([wrong, right]) == 1


def test_one_explanation(tmp_path: Path) -> None:
    explanation = make_explanation(name=NASTY)
    write_explanation(tmp_path / "new" / "folder", explanation, make_bank())
    folder = tmp_path / "new" / "folder"
    assert {p.name for p in folder.iterdir()} == {f"explanation.{kind}" for kind in ("json", "png", "pdf", "html")}
    source = (folder / "explanation.html").read_text()
    page = Page(source)
    check_self_contained(page, source)
    assert sentence(explanation) in page.text
    assert any("oncept 1 contributes" in str(a["aria-label"]) for t, a in page.tags if t == "svg")
    pdf = (folder / "explanation.pdf").read_bytes()
    assert pdf.count(b"/Type /Page") - pdf.count(b"/Type /Pages") == 5  # words, photo, three classes
    assert b"/Type /Font" in pdf and len(pdf) < 1e6


def test_json_is_strict(tmp_path: Path) -> None:
    measured = np.full((3, 4), np.nan, np.float32)
    explanation = make_explanation(measured=measured)
    write_explanation(tmp_path, explanation, make_bank())

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads((tmp_path / "explanation.json").read_text(), parse_constant=refuse)
    assert content["trust"] is None and content["measured"] == [[None] * 4] * 3
    assert content["sentence"] == sentence(explanation) and content["trust_line"] == trust_line(explanation)
    np.testing.assert_allclose(content["node_scores"], explanation.node_scores, rtol=1e-6)


def test_a_failed_write_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "explanation.json").write_text("old")
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(VRXError, match="No space"):
        write_explanation(tmp_path, make_explanation(), make_bank())
    assert [p.name for p in tmp_path.iterdir()] == ["explanation.json"]
    assert (tmp_path / "explanation.json").read_text() == "old"


@pytest.mark.parametrize("formats", [("json",), ("png",), ("html", "json")])
def test_only_what_was_asked_for_is_written(tmp_path: Path, formats: tuple[str, ...]) -> None:
    write_explanation(tmp_path, make_explanation(), make_bank(), formats)
    assert {p.name for p in tmp_path.iterdir()} == {f"explanation.{kind}" for kind in formats}


def test_json_alone_draws_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.figure.Figure.draw", lambda *_: pytest.fail("drawn"))
    write_explanation(tmp_path, make_explanation(), make_bank(), ["json"])


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VRXError, match=r"formats=\['json', 'svg'\]: choose among html, png, pdf and json"):
        write_explanation(tmp_path, make_explanation(), make_bank(), ["json", "svg"])
    with pytest.raises(VRXError, match=r"formats=\[\]"):
        write_explanation(tmp_path, make_explanation(), make_bank(), [])
    assert not list(tmp_path.iterdir())


def test_report_without_explanations_or_metrics(tmp_path: Path) -> None:
    page = write_report(tmp_path, "Empty", {}, [], make_bank(), {}, [])
    assert page == tmp_path / "index.html"
    text = Page(page.read_text()).text
    assert "How far can these explanations be trusted?" not in text and "Most wrong" not in text


def test_the_errors_of_a_run_without_explanations(tmp_path: Path) -> None:
    tested = Predictions(["a.jpg", "b.jpg"], np.eye(3)[[0, 1]], np.array([0, 0]))
    page = write_report(tmp_path, "Sweep", {}, [], make_bank(), {}, [], predictions=tested)
    text = " ".join(Page(page.read_text()).text.split())
    assert "fire engine called ambulance: 1 photo 1 of them is not explained" in text and "b.jpg" in text
    assert "Most wrong" not in text


def test_findings_of_a_run_that_loses_say_so() -> None:
    rows = findings({"faithfulness/spearman": -0.04, "faithfulness/spearman_area": 0.32, "fidelity/l1": 0.0432})
    assert [number for number, *_ in rows] == ["0.043", "−0.04"]
    assert rows[1][1].endswith("the best simple score, patch area, reaches 0.32.")


def test_the_bars_of_faithfulness() -> None:
    metrics = {"faithfulness/spearman": 0.5, "faithfulness/spearman_area": 0.32, "faithfulness/spearman_gradact": 0.4}
    chart = faithfulness_chart(metrics | {"faithfulness/spearman_random": math.nan, "fidelity/l1": 0.1})
    assert chart is not None and chart["line"] is None
    assert [(label, bar["text"]) for label, (bar,) in chart["rows"]] == [
        ("VRX contributions", "0.50"), ("gradient × activation", "0.40"), ("patch area", "0.32")
    ]  # fmt: skip
    assert faithfulness_chart({"fidelity/l1": 0.1}) is None


def test_flatten() -> None:
    assert flatten({"a": {"b": {"c": 1}}, "d": [1, 2], "e": {}}) == [("a.b.c", "1"), ("d", "[1, 2]"), ("e", "{}")]


def with_relations(**change: Any) -> Explanation:
    together = {(1, 2): [0.8, 0, 0], (3, 4): [-0.4, 0, 0]}
    gains = (make_gain(1, 2, [-0.2, 0.6, 0], [-1.2, 2.4, 0]), make_gain(2, 0, [0, 0, 0.4], [0, 0, math.nan]))
    relations = make_relations((1, 2, 3, 4), together=together, placed={(1, 2): [math.nan] * 3})
    return replace(trusted(True, **change), relations=relations, counterfactuals=gains)


def test_the_page_speaks_of_relations_apart(tmp_path: Path) -> None:
    explanations = [with_relations(seed=seed) for seed in range(6)]
    metrics = {"relations/spearman": 0.61, "relations/ceiling": 0.74, "absence/confirmed": 0.957}
    write_report(tmp_path, "Relations", metrics, explanations, make_bank(), {}, [])
    source = (tmp_path / "index.html").read_text()
    page = Page(source)
    check_self_contained(page, source)
    text = " ".join(page.text.split())
    assert "1 and 2 count together (+0.8); 3 and 4 count less together (−0.4)." in text and "Relations: high" in text
    assert "Relations: expected against measured 36 pairs" in text
    assert "What is missing: expected against measured" not in text  # six that are finite
    assert "close to 0.74, as far as two ways of deleting" in text and "96%" in text


def test_the_json_holds_relations_and_counterfactuals(tmp_path: Path) -> None:
    write_explanation(tmp_path, with_relations(), make_bank(), ["json"])
    content = json.loads((tmp_path / "explanation.json").read_text())
    assert content["relations"]["labels"] == [1, 2, 3, 4] and content["relations"]["pairs"][1][0] == [0.8, 0, 0]
    assert content["relations"]["placed"][0][1] == [None] * 3
    first, second = content["counterfactuals"]
    assert (first["graph"], first["concept"], first["measured"]) == (1, 2, [-1.2, 2.4, 0.0])
    assert second["measured"] == [0.0, 0.0, None]
    write_explanation(tmp_path, trusted(True), make_bank(), ["json"])
    content = json.loads((tmp_path / "explanation.json").read_text())
    assert content["relations"] is None and content["counterfactuals"] == []


def test_findings_on_structure() -> None:
    metrics = {
        "relations/spearman": 0.5,
        "relations/deciding_first": 0.954,
        "surrogate/r2": 0.871,
        "surrogate/emd": 0.0283,
        "absence/spearman": -0.1,
        "absence/confirmed": 0.6,
    }
    rows = findings(metrics)
    assert [number for number, *_ in rows] == ["0.50", "95%", "0.87", "0.028", "−0.10", "60%"]
    assert "two ways of deleting" not in rows[0][1]


def test_a_photo_shows_itself_in_a_notebook() -> None:
    shown = make_explanation(name=NASTY)._repr_html_()
    (tag, frame), *others = Page(shown).tags
    assert tag == "iframe" and not others
    page = Page(str(frame["srcdoc"]))
    check_self_contained(page, str(frame["srcdoc"])) if page.images() else None
    assert sentence(make_explanation(name=NASTY)) in " ".join(page.text.split())


def test_two_runs_lie_side_by_side(tmp_path: Path) -> None:
    first, second = make_explanation(seed=1), make_explanation(seed=2)
    banks = [make_bank(), make_bank()]
    page = write_comparison(tmp_path / "comparison.html", ["run <a>", "run b"], [[first], [second]], banks)
    source = page.read_text()
    text = Page(source)
    check_self_contained(text, source)
    assert sum(t == "article" for t, _ in text.tags) == 2 and "run <a>" in text.text
    assert "All predict fire engine." in text.text and "overlap by" in text.text


def test_the_overlap_of_two_runs_is_that_of_the_supporting_regions(tmp_path: Path) -> None:
    masks = np.zeros((3, 4, 128, 128), bool)
    masks[0, 0, :64], masks[0, 1, 64:] = True, True
    scores = np.zeros((3, 3, 4))
    scores[0, 0] = [1, -1, 0, 0]
    found: dict[str, Any] = {"detected": np.ones((3, 4), bool)}
    upper = make_explanation(masks=masks, node_scores=scores, **found)
    both = make_explanation(masks=masks, node_scores=np.abs(scores), **found)
    page = write_comparison(tmp_path / "c.html", ["a", "b"], [[upper], [both]], [make_bank()] * 2)
    assert "overlap by 50% (intersection over union)" in page.read_text()


def test_runs_with_other_classes_are_not_compared(tmp_path: Path) -> None:
    with pytest.raises(VRXError, match=r"compare: a tells .* apart, b .*: compare runs of one task"):
        write_comparison(tmp_path / "c.html", ["a", "b"], [[], []], [make_bank(3), make_bank(2)])
    assert not list(tmp_path.iterdir())
