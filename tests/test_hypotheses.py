"""``graph.hypotheses`` from ``train.py`` to the page of a photo."""

from __future__ import annotations

import json

import pytest

import diagnose
from tests.pipeline import finished_run, newest, refused, run_explain, run_train


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return finished_run(tmp_path_factory.getbasetemp() / "finished").overrides


@pytest.mark.slow
@pytest.mark.parametrize("model", ["grn", "paper"])
def test_from_photos_to_pages_with_two_of_three_classes(
    base: list[str], model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [*base, "graph.hypotheses=2", f"model={model}", "model.batch_size=4", "name=few"]
    run = run_train(*overrides)
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"fidelity/agreement", "faithfulness/spearman", "grn/fidelity_plus", "concepts/significant"} <= set(metrics)
    shown = [json.loads(path.read_text()) for path in sorted((run / "reports").glob("*.json"))]
    assert len(shown) == 2 and all(len(e["class_names"]) == 2 and len(e["logits"]) == 2 for e in shown)
    assert (run / "reports" / "index.html").stat().st_size > 10_000
    photos = next(o.partition("=")[2] for o in base if o.startswith("data.root="))
    run_explain(f"run={run}", f"images={photos}/val/depot", "label=depot")
    pages = list((run / "explanations").rglob("explanation.json"))
    assert pages and all("depot" in json.loads(page.read_text())["class_names"] for page in pages)
    assert newest(overrides) == run
    line = refused(capsys, diagnose, f"run={run}", "study=sensitivity")
    assert "graph.hypotheses=2" in line and "null" in line
