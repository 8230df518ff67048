"""The table with which a run ends."""

import math

from vrx.report.good_values import GOOD, summary


def test_a_line_says_name_value_what_is_good_and_what_it_means() -> None:
    text = summary({"fidelity/l1": 0.0471, "fidelity/agreement": 0.99166, "time/graphs_s": 3.0}).splitlines()
    assert [line.split()[:4] for line in text[1:]] == [
        ["fidelity/agreement", "0.992", "≥", "0.98"],
        ["fidelity/l1", "0.047", "≤", "0.05"],
    ]
    assert all(line.endswith(GOOD[line.split()[0]][2]) for line in text[1:])


def test_a_rank_agreement_is_read_beside_its_ceiling() -> None:
    line = summary({"faithfulness/spearman": 0.84, "faithfulness/ceiling": 0.825}).splitlines()[1]
    assert line.split()[1:4] == ["0.840", "→", "0.825"]
    assert "→" not in summary({"faithfulness/spearman": 0.84}).splitlines()[1]


def test_what_was_not_measured_is_left_out() -> None:
    assert len(summary({"fidelity/l1": math.nan, "surrogate/r2": 0.9}).splitlines()) == 2
