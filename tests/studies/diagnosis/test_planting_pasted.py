"""Causes planted into real photos by pasting and turning: where the pastes lie, and what the layouts look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.studies.planted import DISCOVERY, HALF, SIDE, PlantedExplainer, PlantedSource, donors_of, loudness
from vrx.edits import Editor
from vrx.studies.core.records import Records
from vrx.studies.diagnosis.causes import ERROR_CAUSES
from vrx.studies.diagnosis.planting import Change
from vrx.studies.diagnosis.planting_pasted import LAYOUTS, PastedPlanter, clear_place, overlaps, place_on, relaid

QUARTER = HALF * HALF
ONE_SPEAKS = ([0.6, 0.0, 0.0, 0.0], [0.1] * 4, 0)  # the first quarter alone speaks for the photo's class
ALL_SPEAK = ([0.6] * 4, [0.1] * 4, 0)
NONE_SPEAKS = ([0.1] * 4, [0.1] * 4, 0)


def planter_of(folder: Path, photo: Any) -> tuple[PastedPlanter, PlantedSource]:
    source, explainer = PlantedSource(discovery=DISCOVERY, val=[photo]), PlantedExplainer()
    return PastedPlanter(explainer, source, donors_of(folder, source)[0]), source  # type: ignore[arg-type]


def planted(folder: Path, photo: Any, cause: str, trials: int = 12) -> tuple[np.ndarray, list[Change]]:
    """A photo as it is and all changes that plant a cause in it, with an editor that leaves no soft edge."""
    planter, source = planter_of(folder, photo)
    photos = source.photos("val")
    made = [planter.plant(one, cause, rng) for _, one, rng in planter.attempts(photos, cause, trials)]
    return np.asarray(source.read(photos[0])), [change for change in made if change is not None]


def pixels(attempt: Change) -> np.ndarray:
    return PlantedExplainer().pixels(attempt.x)


def changed(before: np.ndarray, attempt: Change) -> np.ndarray:
    return np.asarray((before != pixels(attempt)).any(2))


def test_false_alarms_are_clear_of_all_that_speaks_for_the_true_class(tmp_path: Path) -> None:
    before, attempts = planted(tmp_path, ONE_SPEAKS, "false alarm")
    assert len(attempts) == 12
    touching = np.zeros((SIDE, SIDE), bool)
    touching[: HALF + 1, : HALF + 1] = True  # the quarter and the pixels beside it
    for attempt in attempts:
        pasted = changed(before, attempt)
        assert pasted.sum() >= 0.98 * QUARTER  # the whole exemplar is there
        assert (pasted & touching).sum() <= 0.02 * pasted.sum()
        assert attempt.donor == 1


def test_shared_exemplars_lie_on_what_speaks_for_the_true_class(tmp_path: Path) -> None:
    before, attempts = planted(tmp_path, ONE_SPEAKS, "shared")
    assert len(attempts) == 12
    for attempt in attempts:
        assert changed(before, attempt)[:HALF, :HALF].sum() >= 0.5 * QUARTER
        assert attempt.donor == 1
    assert len({pixels(a).tobytes() for a in attempts}) > 6  # not the same place and exemplar every time


def test_no_paste_without_room_or_without_a_concept_of_the_true_class(tmp_path: Path) -> None:
    assert planted(tmp_path, ALL_SPEAK, "false alarm")[1] == []  # no place is clear
    assert len(planted(tmp_path, ALL_SPEAK, "shared")[1]) == 12
    assert planted(tmp_path, NONE_SPEAKS, "shared")[1] == planted(tmp_path, NONE_SPEAKS, "false alarm")[1] == []
    assert len(planted(tmp_path, NONE_SPEAKS, "unseen")[1]) == 12


def test_unseen_pastes_nothing_and_any_wrong_answer_counts(tmp_path: Path) -> None:
    before, attempts = planted(tmp_path, ONE_SPEAKS, "unseen", 40)
    x = PlantedExplainer().read(Image.fromarray(before))
    laid = {relaid(x, layout, PlantedExplainer.editor).numpy().tobytes() for layout in LAYOUTS}
    assert {attempt.x.numpy().tobytes() for attempt in attempts} == laid
    for attempt in attempts:
        assert attempt.donor is None and attempt.succeeded(0, 1) and not attempt.succeeded(0, 0)


def test_errors_repeat_and_what_was_tried_is_not_tried_again(tmp_path: Path) -> None:
    planter, source = planter_of(tmp_path, ONE_SPEAKS)
    photos = source.photos("val")
    names = [name for cause in ERROR_CAUSES for name, *_ in planter.attempts(photos, cause, 3)]
    assert len(set(names)) == 9
    first, again = (planted(tmp_path, ONE_SPEAKS, "shared", 3)[1] for _ in range(2))
    assert all(torch.equal(a.x, b.x) for a, b in zip(first, again, strict=True))
    records, seen = Records(tmp_path / "planted.jsonl", "key"), []

    def evidence(x: torch.Tensor, label: int) -> dict[str, Any]:
        seen.append(label)
        return {"sum": float(x.sum())}

    wrong = [c for c in planted(tmp_path, ONE_SPEAKS, "unseen", 40)[1] if loudness(c.x).sum(1).argmax() == 1]
    found = planter.errors(photos, "shared", 2, 40, records, evidence)
    assert len(found) == len(seen) == 2 and not wrong  # a photo on its side is as bright as before
    assert [row["cause"] for row in found] == ["shared"] * 2 and found[0]["photo"] == photos[0].path
    tried = len((tmp_path / "planted.jsonl").read_text().splitlines())
    assert planter.errors(photos, "shared", 2, 40, records, evidence) == found and len(seen) == 2
    assert planter.errors(photos, "unseen", 2, 3, records, evidence) == []
    assert len((tmp_path / "planted.jsonl").read_text().splitlines()) == tried + 3


def test_overlaps_agree_with_moving_the_patch_pixel_by_pixel() -> None:
    rng = np.random.default_rng(0)
    patch, region = np.zeros((9, 11), bool), rng.random((9, 11)) < 0.4
    patch[2:5, 3:7] = rng.random((3, 4)) < 0.7
    patch[2, 3] = patch[4, 6] = True  # the box is 3 x 4
    found = overlaps(patch, region)
    assert found.shape == (7, 8)
    shape = patch[2:5, 3:7]
    for top in range(7):
        for left in range(8):
            assert found[top, left] == sum(
                bool(shape[i, j] and region[top + i, left + j]) for i in range(3) for j in range(4)
            )


def test_places_keep_the_patch_whole_and_what_was_pasted_before_uncovered() -> None:
    patch, target, taken = (np.zeros((20, 20), bool) for _ in range(3))
    patch[5:9, 5:9], target[:4, :8], taken[:, :4] = True, True, True
    for seed in range(8):
        place = place_on(patch, target, taken, np.random.default_rng(seed))
        assert place is not None and place.sum() == 16 and (place & target).sum() >= 8
        assert not (place & taken).any()
        place = clear_place(patch, target, taken, np.random.default_rng(seed))
        assert place is not None and place.sum() == 16 and not (place & (target | taken)).any()
    assert clear_place(patch, np.ones((20, 20), bool), taken, np.random.default_rng(0)) is None
    assert place_on(patch, target, np.ones((20, 20), bool), np.random.default_rng(0)) is None


def test_layouts_by_hand() -> None:
    editor = Editor("mean", 0.0)
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.random((3, 30, 30), np.float32))
    for quarters in (1, 2, 3):
        turned = relaid(x, f"turned by {90 * quarters} degrees", editor).numpy()
        np.testing.assert_array_equal(turned, np.stack([np.rot90(plane, quarters) for plane in x.numpy()]))
    np.testing.assert_array_equal(relaid(x, "upside down", editor).numpy(), x.numpy()[:, ::-1])
    line = torch.zeros(3, 30, 30)
    line[:, :, 12:18] = 1
    small = relaid(line, "far away", editor)[0]
    assert small[10:20, 14:16].min() > 0.5 and small[10:20, [10, 11, 18, 19]].max() < 0.1  # a third, in the middle
    assert float(small[:, :8].std()) < 0.1 and float(small[0].max()) < 0.7  # around it all is blurred
    for side, sign in (("left", 1), ("right", -1)):
        sheared = relaid(line, f"sheared to the {side}", editor)[0]
        top, bottom = sheared[1].argmax(), sheared[28].argmax()
        assert 10 < sign * int(bottom - top) < 18  # half the width from the first row to the last
    wide = torch.zeros(3, 20, 30)
    assert all(relaid(wide, layout, editor).shape == wide.shape for layout in LAYOUTS)
