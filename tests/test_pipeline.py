"""The public API without Hydra: the same settings as the config files, from a network and photos to an explainer."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

import vrx
from tests import planted
from vrx.api import default_pipeline, photos_of
from vrx.bank import ConceptBank
from vrx.classifier.classifier import Classifier
from vrx.classifier.preprocessing import Preprocessing
from vrx.concepts.word_discovery import WordDiscovery
from vrx.data.images import PhotoFolder
from vrx.data.part_masks import seen
from vrx.errors import VRXError
from vrx.explain.explainer import Explainer
from vrx.pipeline import Pipeline
from vrx.runtime import CONFIG, build_pipeline
from vrx.specs import describe

MEAN = dict(input_size=planted.SIDE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resize="squash")


def test_the_default_pipeline_is_the_one_of_the_config_files() -> None:
    with initialize_config_dir(CONFIG, version_base="1.3"):
        cfg = compose("train", ["~experiment", "graph.workers=0"])
    composed, default = build_pipeline(cfg), default_pipeline()
    for name in ("discovery", "builder", "data", "grn", "optimizer", "scheduler", "distillation", "trainer", "methods"):
        assert describe(getattr(default, name)) == describe(getattr(composed, name)), name
    assert (default.cache, default.seed) == (composed.cache, composed.seed)
    kept = [describe(callback) for callback in composed.callbacks]
    assert all(describe(callback) in kept for callback in default.callbacks)


def small(cache: Path, **changes: Any) -> Pipeline:
    """Few concepts and epochs: enough for photos of 64 pixels whose truth is planted."""
    return default_pipeline(cache, epochs=4, num_concepts=3, device="cpu", concepts=changes)


def pictures(count: int = 48) -> dict[str, list[Any]]:
    """Class -> photos, as paths of no file, PIL images and tensors in turn would come."""
    rng = np.random.default_rng(3)
    found: dict[str, list[Any]] = {}
    for label, name in enumerate(planted.CLASSES):
        places = [(int(x), int(y)) for x, y in rng.integers(14, 50, (count, 2))]
        squares = [(min(max((x + 32) % 64, 7), 57), min(max((y + 32) % 64, 7), 57)) for x, y in places]
        found[name] = [
            planted.picture(label, part, square, seed=100 * label + k)
            for k, (part, square) in enumerate(zip(places, squares, strict=True))
        ]
    return found


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Explainer, Path]:
    cache = tmp_path_factory.mktemp("cache")
    return vrx.fit(planted.ColourNet(), pictures(), MEAN, device="cpu", pipeline=small(cache)), cache


def test_a_network_and_photos_make_an_explainer_that_finds_the_planted_part(fitted: tuple[Explainer, Path]) -> None:
    explainer, _ = fitted
    on_part = []
    for number, part in enumerate([(20, 40), (40, 20), (30, 30), (24, 24), (44, 40), (36, 16)]):
        photo = planted.picture(number % 3, part, (60 - part[0], 62 - part[1]), seed=900 + number)
        explanation = explainer.explain(photo, true_class=number % 3)
        assert explanation.class_names == planted.CLASSES and explanation.predicted == number % 3
        measured = explanation.measured[number % 3]
        if np.isfinite(measured).any():
            mask = explanation.mask(number % 3, int(np.nanargmax(measured)))
            on_part.append((mask & planted.disc(part)).sum() / mask.sum())
    assert len(on_part) >= 4 and np.median(on_part) > 0.5, "what counts is the disc in the colour of the class"
    assert {"fidelity/agreement", "faithfulness/spearman", "val/objective"} <= set(explainer.provenance["metrics"])


def test_a_second_call_reads_what_the_first_one_made(
    fitted: tuple[Explainer, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    explainer, cache = fitted

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("this was finished before")

    monkeypatch.setattr(WordDiscovery, "__call__", never)
    monkeypatch.setattr("vrx.models.distillation.Distillation.training_step", never)
    again = vrx.fit(planted.ColourNet(), pictures(), MEAN, device="cpu", pipeline=small(cache))
    assert again.provenance["metrics"] == explainer.provenance["metrics"]
    for name, value in explainer.grn.state_dict().items():
        assert torch.equal(value, again.grn.state_dict()[name])


def test_other_settings_find_other_concepts(fitted: tuple[Explainer, Path]) -> None:
    _, cache = fitted
    banks = len(list((cache / "banks").glob("*/bank.json")))
    vrx.fit(planted.ColourNet(), pictures(), MEAN, device="cpu", pipeline=small(cache, frequency=0.5))
    assert len(list((cache / "banks").glob("*/bank.json"))) == banks + 1


def test_a_damaged_bank_is_made_again(fitted: tuple[Explainer, Path], caplog: pytest.LogCaptureFixture) -> None:
    explainer, cache = fitted
    banks = [f.parent for f in (cache / "banks").glob("*/bank.json") if explainer.bank.digest in f.read_text()]
    whole = {bank: (bank / "bank.safetensors").read_bytes() for bank in banks}  # other settings can give the same one
    for bank in banks:
        (bank / "bank.safetensors").write_bytes(b"torn")
    vrx.fit(planted.ColourNet(), pictures(), MEAN, device="cpu", pipeline=small(cache))
    (again,) = [bank for bank in banks if (bank / "bank.safetensors").read_bytes() != b"torn"]
    assert "is damaged" in caplog.text and ConceptBank.load(again).digest == explainer.bank.digest
    for bank, content in whole.items():
        (bank / "bank.safetensors").write_bytes(content)


def test_concepts_are_named_after_the_parts_that_they_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With part masks the first concept of each class is called by its part; the bank in the cache stays the same."""
    root = planted.with_labels(planted.write_tree(tmp_path / "photos"))
    plain, masked = planted.photo_folder(root), planted.folder_with_parts(root)
    pipeline, f = small(tmp_path / "cache"), planted.colour_classifier()
    unnamed = pipeline.bank(f, plain)
    monkeypatch.setattr(planted, "PARTS", ("ball", "box"))
    named, renamed = pipeline.bank(f, masked), pipeline.bank(f, planted.folder_with_parts(root))
    assert [unnamed.name(c, 0) for c in range(3)] == [""] * 3
    assert [named.name(c, 0) for c in range(3)] == ["disc"] * 3
    assert [renamed.name(c, 0) for c in range(3)] == ["ball"] * 3, "other masks are read at once"
    assert unnamed.digest == named.digest == renamed.digest
    named.save(tmp_path / "run")
    assert ConceptBank.load(tmp_path / "run").all_names == named.all_names
    looks: list[int] = []
    monkeypatch.setattr("vrx.pipeline.seen", lambda *args: looks.append(1) or seen(*args))
    assert pipeline.bank(f, planted.folder_with_parts(root)).parts == renamed.parts and not looks
    for file in root.rglob("parts/*.png"):
        Image.fromarray(np.zeros_like(Image.open(file))).save(file)  # nothing is a part any more
    assert [pipeline.bank(f, planted.folder_with_parts(root)).name(c, 0) for c in range(3)] == [""] * 3 and looks


def test_a_saved_run_of_a_live_network_opens_with_that_network(fitted: tuple[Explainer, Path], tmp_path: Path) -> None:
    explainer, _ = fitted
    explainer.save(tmp_path / "run")
    photo = planted.picture(1, (30, 30), (60, 60), seed=5)
    again = Explainer.load(tmp_path / "run", network=planted.ColourNet())
    np.testing.assert_array_equal(again.explain(photo).node_scores, explainer.explain(photo).node_scores)
    with pytest.raises(VRXError, match="network="):
        Explainer.load(tmp_path / "run")


def handed(monkeypatch: pytest.MonkeyPatch, *args: Any, **kwargs: Any) -> Classifier:
    """The classifier that ``vrx.fit`` hands to the pipeline."""
    made: list[Classifier] = []

    def explainer(self: Pipeline, classifier: Classifier, source: Any) -> None:
        made.append(classifier)

    monkeypatch.setattr(Pipeline, "explainer", explainer)
    vrx.fit(*args, device="cpu", **kwargs)
    return made[0]


def test_the_outputs_are_those_that_are_given_or_that_the_source_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = planted.write_tree(tmp_path, train=4)
    known = {name: (name, place) for place, name in ((2, planted.CLASSES[0]), (0, planted.CLASSES[1]))}
    source = PhotoFolder(root, known=known)
    assert handed(monkeypatch, planted.ColourNet(), source, MEAN).class_indices.tolist() == [2, 0]
    given = handed(monkeypatch, planted.ColourNet(), source, MEAN, class_indices=[1, 2])
    assert given.class_indices.tolist() == [1, 2]


def test_photos_of_other_classes_than_the_classifiers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = pictures(6)
    classifier = Classifier(planted.ColourNet(), planted.CLASSES, None, Preprocessing.of(MEAN))
    assert handed(monkeypatch, classifier, photos) is classifier
    with pytest.raises(VRXError, match="in this order"):
        vrx.fit(classifier, dict(reversed(photos.items())))


def test_a_distillation_without_epochs_is_refused_before_anything_is_made() -> None:
    with pytest.raises(VRXError, match=r"trainer\.max_epochs=0"):
        vrx.fit(planted.ColourNet(), pictures(6), MEAN, epochs=0)
    with pytest.raises(VRXError, match="accelerator=tpu: use auto, cpu"):
        vrx.fit(planted.ColourNet(), pictures(6), MEAN, device="tpu")


def test_what_is_missing_is_named() -> None:
    with pytest.raises(VRXError, match=r"preprocessing is not given.*mean="):
        vrx.fit(planted.ColourNet(), pictures(6))
    with pytest.raises(VRXError, match="photos=int"):
        photos_of(3)


def test_a_photo_of_any_size_is_explained(fitted: tuple[Explainer, Path]) -> None:
    wide = Image.new("RGB", (200, 90), (200, 30, 30))
    assert fitted[0].explain(wide).image.shape == (planted.SIDE, planted.SIDE, 3)


def test_partial_arguments_decide_the_key() -> None:
    one = functools.partial(torch.optim.AdamW, lr=0.1)
    assert describe(one) != describe(functools.partial(torch.optim.Adam, lr=0.1))
