"""Records are read again under the same settings alone; a widened study keeps what it has."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch

from tests.studies.planted import DISCOVERY, PlantedExplainer, PlantedSource, context
from vrx.edits import Editor


def test_every_setting_that_decides_a_record_is_in_the_key(tmp_path: Path) -> None:
    source = PlantedSource(discovery=DISCOVERY)
    plain = context(tmp_path, source, seed=0, trials=8, max_photos=5)
    assert plain.key(study="one") == context(tmp_path, source, seed=0, trials=8, max_photos=5).key(study="one")
    assert plain.key(study="one") != plain.key(study="two")
    for change in ({"seed": 1}, {"trials": 9}):
        other = context(tmp_path, source, **{"seed": 0, "trials": 8, "max_photos": 5, **change})
        assert other.key(study="one") != plain.key(study="one"), change


def test_how_many_records_there_are_is_not(tmp_path: Path) -> None:
    source = PlantedSource(discovery=DISCOVERY)
    settings = [{"max_photos": m, "errors_per_cause": e} for m in (None, 9) for e in (3, 60)]
    assert len({context(tmp_path, source, seed=0, **chosen).key() for chosen in settings}) == 1


def test_another_run_has_another_key(tmp_path: Path) -> None:
    source, keys = PlantedSource(discovery=DISCOVERY), set()
    for name, value in (
        ("method", "gradient"),
        ("editor", Editor("grey", 0.0)),
        ("classifier", SimpleNamespace(version="other")),
        ("grn", SimpleNamespace(state_dict=lambda: {"weight": torch.ones(2)})),
        ("bank", SimpleNamespace(digest="other")),
        ("method", "planted"),
    ):
        explainer = PlantedExplainer()
        setattr(explainer, name, value)
        keys.add(context(tmp_path, source, explainer).key())
    assert len(keys) == 6
