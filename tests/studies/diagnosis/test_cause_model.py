"""The cause model on planted evidence: it recovers causes where they show, and finds nothing where there is nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vrx.errors import VRXError
from vrx.studies.diagnosis.cause_model import CauseModel, classes, rule
from vrx.studies.diagnosis.causes import ERROR_CAUSES
from vrx.studies.diagnosis.evidence import EVIDENCE, GRADCAM

TELLING = dict(zip(ERROR_CAUSES, ("patches", "distance of supports", "Grad-CAM, overlap"), strict=True))


def planted_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Evidence with a known cause: each cause moves one number by four standard deviations."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        for cause in ERROR_CAUSES:
            found = {name: float(rng.normal()) for name in EVIDENCE}
            found[TELLING[cause]] += 4
            rows.append({"evidence": found, "cause": cause, "photo": f"{seed}/{number}"})
    return rows


def of(**evidence: float | None) -> dict[str, Any]:
    """An error with this evidence, and zeros for the rest."""
    return {"evidence": {**dict.fromkeys(EVIDENCE, 0.0), **evidence}}


def accuracy(model: CauseModel, rows: list[dict[str, Any]]) -> float:
    return float(np.mean([model(r) == r["cause"] for r in rows]))


def test_planted_causes_are_recovered_in_other_photos() -> None:
    assert accuracy(CauseModel().fit(planted_rows(40, 0)), planted_rows(40, 1)) > 0.85


def test_a_model_of_some_numbers_reads_no_others() -> None:
    model = CauseModel("evidence", GRADCAM).fit(planted_rows(40, 0))
    rows = planted_rows(40, 1)
    found = [model(row) == row["cause"] for row in rows]
    moved = ERROR_CAUSES[2]
    assert np.mean([ok for ok, row in zip(found, rows, strict=True) if row["cause"] == moved]) > 0.9
    alike = [{**row, "evidence": {n: v if n in GRADCAM else 9.0 for n, v in row["evidence"].items()}} for row in rows]
    assert [model(row) for row in alike] == [model(row) for row in rows]


def test_nothing_is_learnt_from_permuted_causes() -> None:
    learn, test = planted_rows(40, 0), planted_rows(40, 1)
    known = [r["cause"] for r in learn]
    found = []
    for seed in range(3):
        causes = np.random.default_rng(seed).permutation(known).tolist()
        shuffled = [{**row, "cause": cause} for row, cause in zip(learn, causes, strict=True)]
        found.append(accuracy(CauseModel().fit(shuffled), test))
    assert np.mean(found) == pytest.approx(1 / 3, abs=0.15)


def test_missing_evidence_is_a_value_of_its_own() -> None:
    learn = planted_rows(30, 0)
    for row in learn:  # the cause shows in nothing but what is missing
        row["evidence"] = {name: 0.0 for name in EVIDENCE}
        row["evidence"][TELLING[row["cause"]]] = float("nan")
    model = CauseModel().fit(learn)
    for cause in ERROR_CAUSES:
        assert model(of(**{TELLING[cause]: None})) == cause
    assert sum(model.probabilities(learn[0]).values()) == pytest.approx(1)


def test_the_model_can_choose_among_some_causes_alone() -> None:
    model = CauseModel().fit(planted_rows(20, 0))
    for row in [r for r in planted_rows(5, 1) if r["cause"] == "unseen"]:
        found = model.probabilities(row)
        chosen = model(row, among=("shared", "false alarm"))
        assert chosen != "unseen" and found[chosen] == max(found["shared"], found["false alarm"])


def test_rule_asks_first_how_many_patches_are_there_and_then_where_the_evidence_lies() -> None:
    where = "support off the middle: predicted class"
    assert where in EVIDENCE
    for off in (0.0, 0.4):
        assert rule(of(**{"patches": 3.0, where: off})) == "unseen"
    assert rule(of(**{"patches": 6.0, where: 0.4})) == "false alarm"
    assert rule(of(**{"patches": 6.0, where: 0.1})) == rule(of(**{"patches": 6.0, where: None})) == "shared"
    assert rule(of(**dict.fromkeys(EVIDENCE))) == "unseen"  # no concept found


def test_classes_alone_tell_the_cause_only_where_it_was_planted_into_some() -> None:
    rng = np.random.default_rng(0)
    for told, low, high in ((True, 1.0, 1.0), (False, 0.15, 0.55)):
        rows = []
        for number in range(90):
            cause = ERROR_CAUSES[number % 3]
            true = ERROR_CAUSES.index(cause) if told else int(rng.integers(3))
            rows.append({"classes": classes(true, (true + 1) % 3, 3), "cause": cause, "photo": str(number)})
        assert low <= accuracy(CauseModel("classes").fit(rows[:60]), rows[60:]) <= high


def test_too_few_errors_are_refused() -> None:
    row = planted_rows(1, 0)[0]
    with pytest.raises(VRXError, match=r"study\.trials"):
        CauseModel().fit([{**row, "cause": "shared", "photo": name} for name in "abcd"])
    with pytest.raises(VRXError, match="not fitted"):
        CauseModel()(row)
