"""The page of a sweep: what matters, all trials, failed ones too."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from vrx.report.sweep import Trial, influence, knobs, parallel_figure, ranking, write_sweep


def trials(values: list[str], objectives: list[float], knob: str = "lr") -> list[Trial]:
    pairs = enumerate(zip(values, objectives, strict=True))
    return [Trial(k, {knob: value, "name": "toys"}, reached) for k, (value, reached) in pairs]


def test_numbers_count_by_rank_other_values_by_the_variance_between_them() -> None:
    rising = trials(["0.001", "0.01", "0.1", "1e-4"], [2.0, 3.0, 100.0, 1.0])
    assert influence(rising, "lr")[0] == pytest.approx(1)
    assert influence(trials(["1", "2", "3"], [3, 2, 1]), "lr")[0] == pytest.approx(-1)
    eta, _ = influence(trials(["a", "a", "b", "b"], [1.0, 2.0, 4.0, 5.0], "model"), "model")
    assert eta == pytest.approx(math.sqrt(9 / 10))  # between: 4 * 1.5^2; in all: 2^2 + 1^2 + 1^2 + 2^2


def test_a_failed_trial_says_nothing_of_a_setting() -> None:
    done = trials(["1", "2", "3"], [1, 2, 3])
    failed = Trial(3, {"lr": "4"}, math.nan, "no memory")
    assert influence([*done, failed], "lr") == influence(done, "lr")
    assert math.isnan(influence(trials(["1", "2"], [1, 2]), "lr")[0])  # two points always lie on a line
    assert math.isnan(influence(trials(["1", "2", "3"], [1, 1, 1]), "lr")[0])


def test_a_setting_that_all_trials_share_is_no_knob() -> None:
    assert knobs(trials(["1", "2"], [1, 2])) == ["lr"]
    assert [t.number for t in ranking([Trial(0, {}, math.nan, "x"), Trial(1, {}, -3.0), Trial(2, {}, 4.0)])] == [
        2,
        1,
        0,
    ]


def test_lines_lie_where_the_values_do() -> None:
    three = ranking(trials(["0.001", "0.1", "0.01"], [1.0, 3.0, 2.0]))
    lines = {tuple(np.round(line.get_ydata(), 6)) for line in parallel_figure(three, ["lr"], "score").axes[0].lines}
    assert {(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)} <= lines  # two decades: a logarithmic axis


def test_the_page_names_best_and_failed_and_markup_stays_text(tmp_path: Path) -> None:
    some = [
        *trials(["1", "2", "3"], [0.25, 0.75, 0.5]),
        Trial(3, {"lr": "<b>x", "name": "toys"}, math.nan, "lr=<script>: use less"),
    ]
    page = write_sweep(tmp_path / "sweep.html", some, "val/objective").read_text()
    assert "4 trials" in page and "1 failed" in page and "trial 1 with 0.75 (lr=2)" in page
    table = page[page.index("All trials") :]
    assert re.findall(r"<tr><td>(\d)</td>", table) == ["1", "2", "0", "3"]
    assert "&lt;script&gt;: use less" in table and "<script>: use" not in page
    assert page.count("data:image/jpeg") == 1 and "Which settings matter" in page
    write_sweep(tmp_path / "none.html", some[3:], "val/objective")  # all failed: still a page
