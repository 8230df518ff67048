"""Detections against part masks: every metric by hand on tiny photos, and a slow second implementation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from vrx.concepts.purity import BACKGROUND, Seen, main_parts, masks_of, mean_shares, part_metrics, part_names
from vrx.structures import UNMATCHED


def grid(rows: str) -> NDArray[np.str_]:
    """``"ww. bb."`` -> letters, ``[H, W]``: a letter for each part, a dot for the background."""
    return np.array([list(row) for row in rows.split()])


def photo(label: int, parts: str, concepts: dict[tuple[int, int], str], graphs: int = 1, places: int = 2) -> Seen:
    """``concepts``: (graph, place) -> its pixels, drawn with ``#``."""
    names = {"w": "wheels", "b": "body", "d": "door", "e": "engine"}
    shown = grid(parts)
    masks = np.zeros((graphs, places, *shown.shape), bool)
    for where, drawn in concepts.items():
        masks[where] = grid(drawn) == "#"
    return Seen(label, masks, {names[c]: shown == c for c in sorted(set(shown.ravel()) - {"."})})


ONE = np.ones((1, 1), bool)


def metrics(
    seen: Sequence[Seen], mains: Sequence[Sequence[str]], present: NDArray[np.bool_], alike: Sequence[str] | None = None
) -> dict[str, float]:
    return {name.removeprefix("concepts/"): v for name, v in part_metrics(seen, mains, present, alike).items()}


def test_shares_of_a_detection() -> None:
    seen = photo(0, "wwb. wwb. ....", {(0, 0): ".### .#.. ...."})
    assert seen.shares(0, 0) == pytest.approx({"body": 1 / 4, "wheels": 2 / 4, BACKGROUND: 1 / 4})
    assert seen.shares(0, 1) == {}, "not found"


def test_masks_of_matched_patches() -> None:
    patches = np.array([grid("#.. ..."), grid(".## ...")]) == "#"
    masks = masks_of(np.array([[1, UNMATCHED], [0, 1]]), patches)
    np.testing.assert_array_equal(masks, [[patches[1], np.zeros((2, 3), bool)], [patches[0], patches[1]]])
    assert not masks_of(np.array([[UNMATCHED]]), patches[:0]).any(), "a photo without patches"


def test_mean_shares_are_of_the_photos_of_the_class_in_which_it_is_found() -> None:
    seen = [
        photo(0, "wwbb", {(0, 0): "##.."}),
        photo(0, "w.bb", {(0, 0): "##.."}),
        photo(0, "wwbb", {}),
        photo(1, "wwbb", {(0, 0): "..##"}),
    ]
    assert mean_shares(seen, 0, 0) == pytest.approx({"body": 0, "wheels": 0.75, BACKGROUND: 0.25})
    assert mean_shares(seen, 0, 1) == {}


@pytest.mark.parametrize(
    ("drawn", "main", "name"),
    [
        ("##..", "wheels", "wheels"),
        ("####", "body", "body and wheels"),  # half and half: the first of the two
        ("..#.", "body", "body"),
        ("....", "", ""),
    ],
)
def test_main_part_and_name(drawn: str, main: str, name: str) -> None:
    seen = [photo(0, "wwbb", {(0, 0): drawn}, places=1)]
    assert main_parts(seen, ONE) == [[main]] and part_names(seen, ONE) == [[name]]


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ("wwwwwwbbbb", "wheels"),  # .6
        ("wwwwwbbbdd", "wheels and body"),  # .5 and .3
        ("wwwbbbdddd", "door and body"),  # .4 and .3, and .3 of another
        ("wwwwwwbbbbddddeeee", ""),  # a third and 2/9: less than .6 together
        ("wwwwwwwwwwbbbddde", ""),  # .59, but no second of a fifth
    ],
)
def test_a_concept_is_named_after_two_parts_where_no_part_alone_is_certain(parts: str, name: str) -> None:
    assert part_names([photo(0, parts, {(0, 0): "#" * len(parts)}, places=1)], ONE) == [[name]]


@pytest.mark.parametrize(("parts", "main"), [("w...", ""), ("ww..", "wheels"), ("....", "")])
def test_what_lies_mostly_on_the_background_has_no_main_part(parts: str, main: str) -> None:
    assert main_parts([photo(0, parts, {(0, 0): "####"}, places=1)], ONE) == [[main]]


def test_certainty_is_of_the_pixels_on_the_object_alone() -> None:
    seen = [photo(0, "wwwbb.....", {(0, 0): "##########"}, places=1)]  # half background; 3 of 5 on wheels
    assert main_parts(seen, ONE) == part_names(seen, ONE) == [["wheels"]]


def test_a_place_without_a_concept_has_no_part() -> None:
    seen = [photo(0, "ww", {(0, 0): "##"}, places=1)]
    assert main_parts(seen, ~ONE) == part_names(seen, ~ONE) == [[""]]


def test_purity_is_the_share_of_the_object_pixels_on_the_main_part() -> None:
    seen = [
        photo(0, "wwbb ....", {(0, 0): "###. .#.."}, places=1),  # 2 of 3 on wheels, one on the background
        photo(0, "wwbb ....", {(0, 0): "#... ...."}, places=1),  # 1 of 1
        photo(0, "wwbb ....", {(0, 0): ".... ####"}, places=1),  # nothing on the object: no purity
    ]
    found = metrics(seen, [["wheels"]], ONE)
    assert found["purity"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["background"] == 0, "mean background (1/4 + 0 + 1) / 3"
    assert metrics(seen, [["body"]], ONE)["purity"] == pytest.approx((1 / 3 + 0) / 2)
    assert metrics(seen, [[""]], ONE)["purity"] == 0, "a concept that shows no part for certain is not pure"


def test_background_is_the_share_of_concepts_that_lie_mostly_on_it() -> None:
    seen = [photo(0, "wwb.....", {(0, 0): "##......", (0, 1): "..######"})]
    assert metrics(seen, [["wheels", ""]], np.ones((1, 2), bool))["background"] == 0.5


def test_consistency_is_the_mean_overlap_of_pairs_of_detections() -> None:
    shares = [{"w": 1.0, "b": 0.0}, {"w": 0.5, "b": 0.5}, {"w": 0.0, "b": 1.0}]
    drawn = ["##..", ".##.", "..##"]
    seen = [photo(0, "wwbb", {(0, 0): d}, places=1) for d in drawn]
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = np.mean([sum(min(shares[a][p], shares[b][p]) for p in "wb") for a, b in pairs])
    assert expected == pytest.approx(1 / 3)
    assert metrics(seen, [["wheels"]], ONE)["consistency"] == pytest.approx(expected)


def test_a_visible_part_is_found_where_a_concept_of_it_covers_a_quarter_of_the_smaller() -> None:
    """Parts of 8 pixels; the detection is the smaller one in the first two photos, the part in the last two."""
    seen = [
        photo(0, "wwwwwwww ........", {(0, 0): "#....... ###....."}, places=1),  # 1 of 4: a quarter
        photo(0, "wwwwwwww ........", {(0, 0): "#....... ####...."}, places=1),  # 1 of 5
        photo(0, "wwwwwwww ........", {(0, 0): "##...... ########"}, places=1),  # 2 of 8
        photo(0, "wwwwwwww ........", {(0, 0): "#....... ########"}, places=1),  # 1 of 8
    ]
    assert metrics(seen, [["wheels"]], ONE)["recall_own"] == 0.5
    assert metrics(seen[:1], [["wheels"]], ONE)["recall_own"] == 1


def test_two_concepts_of_a_part_find_it_once_and_miss_it_once() -> None:
    both = np.ones((1, 2), bool)
    seen = [photo(0, "wwbb", {(0, 0): "..##", (0, 1): "##.."}), photo(0, "wwbb", {(0, 0): "..##"})]
    found = metrics(seen, [["wheels", "wheels"]], both)
    assert found["recall_own"] == 0.5
    assert found["precision"] == pytest.approx(1 / 3), "one of three detections lies on wheels"


def test_hidden_and_hardly_visible_parts_need_not_be_found() -> None:
    tall = " ".join(["." * 10] * 10)
    nine = photo(0, tall[:-1] + "w", {}, places=1)  # a hundredth of the photo: visible
    assert metrics([nine], [["wheels"]], ONE) == {"recall_own": 0}
    larger = photo(0, f"{tall} {'.' * 9}w", {}, places=1)  # less than a hundredth
    assert metrics([larger], [["wheels"]], ONE) == {}
    assert metrics([photo(0, "bbbb", {}, places=1)], [["wheels"]], ONE) == {}


def test_parts_that_are_alike_must_be_found_in_other_classes() -> None:
    present = np.array([[True, True], [True, False]])
    mains = [["wheels", "body"], ["wheels", ""]]
    seen = [
        photo(0, "wwbb", {(0, 0): "##..", (0, 1): "..##", (1, 0): "...."}, graphs=2),
        photo(1, "wwbb", {(0, 0): "....", (0, 1): "....", (1, 0): "##.."}, graphs=2),
    ]
    every = metrics(seen, mains, present)
    assert every["recall_own"] == 1
    assert every["recall_other"] == 0, "wheels by class 1 in photo 0; wheels and body by class 0 in photo 1"
    seen[0].masks[1, 0] = grid("##..") == "#"
    assert metrics(seen, mains, present)["recall_other"] == pytest.approx(1 / 3)
    assert metrics(seen, mains, present, alike=["wheels"])["recall_other"] == 0.5
    assert "recall_other" not in metrics(seen, mains, present, alike=[])


def test_a_detection_is_precise_if_it_lies_on_its_part_more_than_on_any_other() -> None:
    def precision(drawn: str, parts: str = "bbwwdd....") -> float:
        return metrics([photo(0, parts, {(0, 0): drawn}, places=1)], [["wheels"]], ONE)["precision"]

    assert precision("..##......") == 1
    assert precision(".###......") == 1
    assert precision(".##.......") == 0, "as much on the body"
    assert precision("####....##", "bbw...w...") == 0
    assert precision("..##..####") == 1, "the background is no other part"
    assert precision(".........#", "wwbbbb....") == 0, "on nothing is not on it"


# --- all of it, slowly


def slow_metrics(
    seen: list[Seen], mains: list[list[str]], present: NDArray[np.bool_], alike: list[str] | None
) -> dict[str, float]:
    """The definitions of the metrics, pixel by pixel."""
    values: dict[str, list[float]] = defaultdict(list)
    label_of = []
    for one in seen:
        height, width = one.masks.shape[2:]
        table = [[BACKGROUND] * width for _ in range(height)]
        for name, mask in one.parts.items():
            for y in range(height):
                for x in range(width):
                    if mask[y, x]:
                        table[y][x] = name
        label_of.append(table)

    def pixels(i: int, g: int, k: int) -> list[str]:
        mask = seen[i].masks[g, k]
        return [label_of[i][y][x] for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]]

    for g in range(len(present)):
        for k in range(present.shape[1]):
            if not present[g, k]:
                continue
            there = [pixels(i, g, k) for i in range(len(seen)) if seen[i].label == g]
            there = [found for found in there if found]
            if not there:
                continue
            values["background"].append(float(np.mean([f.count(BACKGROUND) / len(f) for f in there]) > 0.5))
            on = [[name for name in f if name != BACKGROUND] for f in there]
            on = [f for f in on if f]
            values["purity"] += [f.count(mains[g][k]) / len(f) for f in on]
            for a in range(len(on)):
                for b in range(a):
                    names = set(on[a]) & set(on[b])
                    values["consistency"].append(
                        sum(min(on[a].count(n) / len(on[a]), on[b].count(n) / len(on[b])) for n in names)
                    )
        for part in {m for m in mains[g] if m}:
            for i, one in enumerate(seen):
                if one.label != g and alike is not None and part not in alike:
                    continue
                shown = [name for row in label_of[i] for name in row]
                found = False
                for k in [k for k, m in enumerate(mains[g]) if m == part]:
                    own = pixels(i, g, k)
                    if not own:
                        continue
                    others = [own.count(n) for n in set(own) - {BACKGROUND, part}]
                    values["precision"].append(float(own.count(part) > max(others, default=0)))
                    smaller = min(len(own), shown.count(part))
                    found = found or (smaller > 0 and own.count(part) / smaller >= 0.25)
                if shown.count(part) / len(shown) >= 0.01:
                    values["recall_own" if one.label == g else "recall_other"].append(float(found))
    return {f"concepts/{name}": float(np.mean(v)) for name, v in values.items() if v}


@pytest.mark.parametrize("alike", [None, ["a", "c"], []], ids=str)
@pytest.mark.parametrize("seed", range(6))
def test_against_a_slow_second_implementation(seed: int, alike: list[str] | None) -> None:
    rng = np.random.default_rng(seed)
    names = ["a", "b", "c", "d"]
    seen = []
    for number in range(9):
        shown = rng.integers(-3, 4, (7, 9)).repeat(2, 0).repeat(2, 1)
        masks = rng.random((3, 4, 7, 9)).repeat(2, 2).repeat(2, 3) < rng.choice([0.0, 0.07, 0.4], (3, 4, 1, 1))
        masks &= ~(rng.random((3, 4, 14, 18)) < 0.3)
        parts = {name: shown == k for k, name in enumerate(names) if (shown == k).any()}
        seen.append(Seen(number % 3, masks, parts))
    present = rng.random((3, 4)) < 0.8
    mains = main_parts(seen[:5], present)
    fast, slow = part_metrics(seen, mains, present, alike), slow_metrics(seen, mains, present, alike)
    assert fast.keys() == slow.keys() and len(fast) >= 5
    for name, value in slow.items():
        assert fast[name] == pytest.approx(value, abs=1e-9), name
