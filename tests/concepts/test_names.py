"""``concepts/names.yaml``: what a person writes is what the bank says, and what does not fit is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from vrx.bank import ConceptBank
from vrx.concepts.names import example, load_bank, read_names, save_bank
from vrx.errors import VRXError

CLASSES = ("fire engine", "tank", "no", "2012")  # the last two are no text to YAML


@pytest.fixture
def bank() -> ConceptBank:
    """Three places a class; the fire engine has three concepts, the tank none, the others one."""
    radius = np.full((4, 3), -1, np.float32)
    radius[0], radius[2:, 0] = 1, 1
    numbers = np.ones((4, 3), np.float32)
    return ConceptBank(
        CLASSES, np.zeros((4, 3, 2), np.float32), radius, numbers, numbers, np.zeros((4, 3, 0, 8, 8, 3), np.uint8)
    )


def write(folder: Path, text: str) -> Path:
    path = folder / "names.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_names_stand_at_their_numbers(bank: ConceptBank, tmp_path: Path) -> None:
    text = "fire engine: {1: ladder, 3: 'light   bar'}\ntank:\nno:\n  1: Größe & <b>$x$\n2012: {'1': '5'}\n"
    assert read_names(write(tmp_path, text), bank) == [
        ["ladder", "", "light bar"],
        ["", "", ""],
        ["Größe & <b>$x$", "", ""],
        ["5", "", ""],
    ]


def test_names_are_saved_with_the_bank(bank: ConceptBank, tmp_path: Path) -> None:
    save_bank(tmp_path / "none", bank)
    assert load_bank(tmp_path / "none").names == [[""] * 3] * 4 and not (tmp_path / "none" / "names.yaml").exists()
    names = [["ladder", "", "5"], [""] * 3, ["Größe & <b>$x$", "", ""], ["yes", "", ""]]
    save_bank(tmp_path, replace(bank, names=names))
    assert load_bank(tmp_path).names == names
    path = write(tmp_path, "# mine\n" + (tmp_path / "names.yaml").read_text(encoding="utf-8"))
    save_bank(tmp_path, load_bank(tmp_path))
    assert path.read_text(encoding="utf-8").startswith("# mine"), "what people wrote stays"
    save_bank(tmp_path, replace(bank, names=[["cab", "", ""], *names[1:]]))
    assert load_bank(tmp_path).names[0] == ["cab", "", ""]


@pytest.mark.parametrize("text", [None, "", "# nothing yet\n", "tank:\n"])
def test_no_names(text: str | None, bank: ConceptBank, tmp_path: Path) -> None:
    path = tmp_path / "names.yaml" if text is None else write(tmp_path, text)
    assert read_names(path, bank) == [[""] * 3] * 4


def test_the_bank_of_a_folder_has_its_names(bank: ConceptBank, tmp_path: Path) -> None:
    replace(bank, parts=[["cab", "wheel", ""], *[[""] * 3] * 3]).save(tmp_path)
    assert load_bank(tmp_path).name(0, 0) == "cab"
    write(tmp_path, "fire engine: {1: ladder}")
    named = load_bank(tmp_path)
    assert [named.name(0, k) for k in range(3)] == ["ladder", "wheel", ""]
    assert named.digest == bank.digest  # graphs that are cached stay valid


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fire engin: {1: ladder}", ["line 1", "'fire engin'", "nearest: fire engine"]),
        ("fire engine:\n  4: ladder", ["line 2", "no concept '4'", "1, 2, 3"]),
        ("fire engine: {0: ladder}", ["no concept '0'"]),
        ("fire engine: {-1: ladder}", ["no concept '-1'"]),
        ("fire engine: {one: ladder}", ["no concept 'one'"]),
        ("fire engine: {1.0: ladder}", ["no concept '1.0'"]),
        ("no: {2: ladder}", ["no has no concept '2'", "its concepts are 1"]),
        ("tank: {1: track}", ["'1'", "no concepts of its own"]),
        ("fire engine: {1: wheel, 2: ' Wheel '}", ["Wheel", "concept 2", "concept 1", "its own"]),
        ("fire engine: {1: ladder, 1: wheel}", ["1 occurs twice", "line 1"]),
        ("fire engine: {1: ladder}\nno: {1: a}\nfire engine: {2: wheel}", ["line 3", "fire engine occurs twice"]),
        ("fire engine: {1: 5}", ["is 5", "no text", "quotes"]),
        ("fire engine: {1: yes}", ["is yes", "no text"]),
        ("fire engine: {1: }", ["is nothing"]),
        ("fire engine: {1: ' '}", ["no text"]),
        ("fire engine: {1: [ladder, wheel]}", ["a list or mapping"]),
        ("fire engine: [ladder, wheel]", ["no mapping", "fire engine: {1: a name}"]),
        ("ladder", ["no mapping"]),
        ("fire engine: {1: ladder", ["cannot be read", "fire engine: {1: a name}"]),
        ("fire engine: {1: a}\n---\ntank: {}", ["cannot be read"]),
        ("fire engine: {1: !!python/name:os.system x}", ["no text"]),
        ("<<: {1: a}", ["'<<'"]),
    ],
)
def test_what_does_not_fit_is_refused(text: str, said: list[str], bank: ConceptBank, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(VRXError) as error:
        read_names(path, bank)
    for words in [str(path), *said]:
        assert words in str(error.value)


def test_a_file_that_is_no_text(bank: ConceptBank, tmp_path: Path) -> None:
    path = tmp_path / "names.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(VRXError, match="cannot be read"):
        read_names(path, bank)
    path.unlink()
    path.mkdir()
    with pytest.raises(VRXError, match="cannot be read"):
        read_names(path, bank)


def test_the_example_can_be_read_back(bank: ConceptBank, tmp_path: Path) -> None:
    assert example(bank) == "fire engine: {1: a name}"
    odd = replace(bank, class_names=("a: #b", "no", "x", "y"))
    assert read_names(write(tmp_path, example(odd)), odd)[0] == ["a name", "", ""]
    assert yaml.safe_load(example(odd)) == {"a: #b": {1: "a name"}}
