from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.classifier.toy import random_classifier
from vrx.classifier.classifier import Classifier


@pytest.fixture(scope="session")
def cached() -> Callable[[str], Classifier]:
    """Networks by name, each built once."""
    built: dict[str, Classifier] = {}
    return lambda name: built.setdefault(name, built[name] if name in built else random_classifier(name))
