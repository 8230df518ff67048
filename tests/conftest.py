"""Shared fixtures: the small planted world of ``tests/planted.py``, made once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import planted
from vrx.bank import ConceptBank
from vrx.classifier.classifier import Classifier
from vrx.data.images import PhotoFolder
from vrx.edits import Editor
from vrx.graphs.scg import SCGBuilder
from vrx.machine import keep_freed_memory

keep_freed_memory()  # as the commands do: the suite takes less time


@pytest.fixture(scope="session")
def photo_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``train`` and ``val`` folders of three classes; each class' photos share a part of its own colour."""
    return planted.write_tree(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def source(photo_tree: Path) -> PhotoFolder:
    return planted.photo_folder(photo_tree)


@pytest.fixture(scope="session")
def colour_f() -> Classifier:
    return planted.colour_classifier()


@pytest.fixture(scope="session")
def bank(colour_f: Classifier, source: PhotoFolder) -> ConceptBank:
    extractor = planted.make_extractor()
    photos = planted.discovery_photos(colour_f, source, extractor.segmenter)
    return planted.make_discovery(extractor)(colour_f, photos)


@pytest.fixture(scope="session")
def builder(colour_f: Classifier, bank: ConceptBank) -> SCGBuilder:
    sources = ("head", "head_area", "gradact", "grad_diff", "shape")
    return SCGBuilder(colour_f, bank, planted.make_extractor(), Editor("blur", 0.03), sources, rest=True)


@pytest.fixture(scope="session")
def word_bank(colour_f: Classifier, source: PhotoFolder) -> ConceptBank:
    """Concepts of the same world as visual words."""
    return planted.word_discovery()(colour_f, planted.word_photos(colour_f, source))
