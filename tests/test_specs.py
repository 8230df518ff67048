"""Descriptions of objects, and objects from them."""

from functools import partial

import pytest
import torch

from vrx.concepts.attention import GradCAMAttention
from vrx.concepts.candidates import CandidateExtractor
from vrx.concepts.encoders import CropEncoder
from vrx.concepts.patches import Segmenter
from vrx.edits import Editor
from vrx.errors import VRXError
from vrx.specs import describe, find, make


def test_an_object_describes_itself_as_the_config_files_do() -> None:
    assert describe(Editor("grey", 0.05)) == {"_target_": "vrx.edits.Editor", "fill": "grey", "margin": 0.05}


def test_nested_objects_and_lists_come_back_as_they_were() -> None:
    extractor = CandidateExtractor(Segmenter((7, 9), compactness=3.0), GradCAMAttention(0.2), CropEncoder(5))
    described = describe({"one": extractor, "two": [1, None, "x"]})
    again = make(described)
    assert isinstance(again["one"], CandidateExtractor) and again["one"].segmenter.segments == (7, 9)
    assert describe(again) == described


def test_a_partial_is_described_with_its_arguments() -> None:
    made = partial(torch.optim.AdamW, lr=0.1)
    assert describe(made)["lr"] == 0.1 and describe(made)["_target_"].endswith("AdamW")
    assert describe(partial(torch.optim.AdamW, lr=0.2)) != describe(made)


@pytest.mark.parametrize("name", ["vrx.edits.Eraser", "nowhere.at.all", "plain", ""])
def test_a_name_that_leads_nowhere_is_named(name: str) -> None:
    with pytest.raises(VRXError, match=f"_target_={name}"):
        find(name)


def test_what_does_not_describe_itself_is_refused() -> None:
    with pytest.raises(TypeError, match="no settings"):
        describe(object())
