"""What is shown adds up: the steps from a class to the predicted one, and how they are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.report.synthetic import make_bank, make_explanation, make_relations
from tests.report.test_figures import check_inside, marks, texts
from vrx.explanation import Explanation
from vrx.report.drawing import ColourScale
from vrx.report.figures import class_figure
from vrx.report.waterfall import ERROR, LABELS, OTHERS, Step, steps

LOGITS = np.array([3.0, 1.0, -1.0])
LABELLED = (1, 2, 5, 9)  # concepts 1 and 2 of the first class, 1 of the second, 1 of the third
NAMED = (("ladder", "", "", ""), ("cross", "", "", ""), ("", "", "", ""))


def make(**change: Any) -> Explanation:
    main = np.array([[1.0, -0.5, 0], [0.3, 0.25, 0], [-0.4, 0.8, 0], [0.1, 0.1, 0.7]])
    together = {(1, 2): [0.6, -0.1, 0], (2, 5): [0, 0.15, 0], (1, 9): [-0.2, 0, 0]}
    values: dict[str, Any] = {
        "logits": LOGITS,
        "detected": np.ones((3, 4), bool),
        "masks": np.ones((3, 4, 64, 64), bool),
        "relations": make_relations(LABELLED, together=together, main=main, empty=np.array([0.5, 0.2, 0.1])),
        "true_class": None,
    }
    return make_explanation(3, 4, size=64, **{**values, **change})


def test_the_steps_by_hand() -> None:
    found = [(step.name, round(step.value, 9), step.rest) for step in steps(make(), 1, most=4)]
    assert found == [
        ("concept 1 of fire engine", 1.5, False),
        ("concept 1", -1.2, False),
        ("1 + 2 of fire engine", 0.7, False),
        ("1 of fire engine + 1 of school bus", -0.2, False),
        (OTHERS, -0.1, True),  # 0.05 of the second, 0 of the fourth, -0.15 of the second with the third
        ("what is left without them", 0.3, True),
        (ERROR, 1.0, True),  # 2 - (1.5 - 1.2 + 0.7 - 0.2 - 0.1 + 0.3)
    ]


@pytest.mark.parametrize("most", [0, 1, 6, 99])
def test_the_steps_add_up_to_the_classifiers_difference(most: int) -> None:
    rng = np.random.default_rng(most)
    pairs = rng.normal(size=(7, 7, 3))
    relations = make_relations(range(1, 8), main=rng.normal(size=(7, 3)), empty=rng.normal(size=3))
    values = {name: getattr(relations, name) for name in relations.__dataclass_fields__}
    both = type(relations)(**{**values, "pairs": pairs + pairs.transpose(1, 0, 2)})
    explanation = make(relations=both, logits=rng.normal(size=3))
    for index in range(3):
        whole = explanation.logits[explanation.predicted] - explanation.logits[index]
        found = steps(explanation, index, most)
        assert sum(step.value for step in found) == pytest.approx(whole, abs=1e-12)
        assert len([step for step in found if not step.rest]) <= most


def test_without_the_graph_networks_error_the_rest_is_what_it_says_itself() -> None:
    """The main effects, the pairs and what is left are the network's own centred logits."""
    found = {step.name: step.value for step in steps(make(), 1, 99)}
    assert sum(found.values()) - found[ERROR] == pytest.approx(1.0)  # 0.3 + 0.7 of players and pairs


def test_any_pair_of_classes_adds_up_and_turns_around() -> None:
    explanation = make()
    for start, end in ((1, 2), (2, 0), (2, 1)):
        found = steps(explanation, start, 99, to=end)
        assert sum(s.value for s in found) == pytest.approx(explanation.logits[end] - explanation.logits[start])
        back = {step.labels: step.value for step in steps(explanation, end, 99, to=start) if step.labels}
        assert back == {step.labels: pytest.approx(-step.value) for step in found if step.labels}
    assert steps(explanation, 1) == steps(explanation, 1, to=explanation.predicted)


def test_players_are_called_as_in_the_figure_of_the_class() -> None:
    names = [step.name for step in steps(make(names=NAMED), 1)]
    assert names[:4] == ["ladder (1) of fire engine", "cross (1)", "ladder (1) + 2 of fire engine",
                         "ladder (1) of fire engine + 1 of school bus"]  # fmt: skip
    pairs = [step.name for step in steps(make(), 1, 99)]
    assert "2 of fire engine + 1" in pairs and "1 + 2 of fire engine" in pairs
    shared = make(matched=np.array([[1, 2, -1, -1], [5, 1, -1, -1], [9, -1, -1, -1]]))
    assert steps(shared, 1)[0] == Step("concept 2", 1.5, labels=(1,))


def test_what_did_not_take_part_is_said() -> None:
    relations = make_relations((1, 2), left_out=3)
    assert [step.name for step in steps(make(relations=relations), 1)] == [
        OTHERS, "what is left (3 more found)", ERROR,
    ]  # fmt: skip


def panel(explanation: Explanation, index: int) -> Any:
    return class_figure(explanation, make_bank(3, 4), index, ColourScale.of(explanation, range(3)))


def test_each_bar_begins_where_the_one_before_ends() -> None:
    figure = panel(make(), 1)
    first, *bars, last = marks(figure, "step")
    unit = last.get_width() / 2.0  # of three logits around 1, the predicted one is 2 above their mean
    assert first.get_width() == pytest.approx(0.0) and last.get_x() >= LABELS
    at = first.get_x()
    for bar, step in zip(bars, steps(make(), 1), strict=True):
        assert bar.get_width() == pytest.approx(abs(step.value) * unit)
        assert min(at, at + step.value * unit) == pytest.approx(bar.get_x())
        at += step.value * unit
    assert at == pytest.approx(last.get_x() + last.get_width())
    assert "From ambulance to fire engine, in logits" in texts(figure)
    check_inside(figure)


def test_no_waterfall_for_the_predicted_class_or_where_nobody_asked() -> None:
    assert not marks(panel(make(), 0), "step") and not marks(panel(make(relations=None), 1), "step")


def test_long_names_and_large_numbers_stay_on_the_page() -> None:
    names = (
        "a remarkably long class name, longer than a panel",
        "trailer truck, tractor trailer, trucking",
        "$c_{^",
    )
    check_inside(panel(make(class_names=names, logits=np.array([-200.0, 5.0, 130.0])), 0))
