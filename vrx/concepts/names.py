"""What people call the concepts of a run: ``concepts/names.yaml`` (``fire engine: {1: ladder, 3: light bar}``)."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from vrx.bank import ConceptBank
from vrx.errors import VRXError
from vrx.storage import write_text

FILE = "names.yaml"
TEXT, NOTHING = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null"


def load_bank(folder: Path) -> ConceptBank:
    """The bank in ``folder``, with the names that people gave its concepts there.

    Raises:
        VRXError: no bank, a damaged one, or names that do not fit it.
    """
    bank = ConceptBank.load(folder)
    return replace(bank, names=read_names(folder / FILE, bank))


def save_bank(folder: Path, bank: ConceptBank) -> None:
    """Write what :func:`load_bank` reads; a file that gives the same names stays as people wrote it.

    Raises:
        VRXError: there are names already that do not fit the bank.
    """
    bank.save(folder)
    rows = zip(bank.class_names, bank.names, strict=False)  # a bank without names has no rows
    given = {c: named for c, row in rows if (named := {k: name for k, name in enumerate(row, 1) if name})}
    if given and read_names(folder / FILE, bank) != bank.names:
        write_text(folder / FILE, yaml.safe_dump(given, allow_unicode=True, sort_keys=False))


def read_names(path: Path, bank: ConceptBank) -> list[list[str]]:
    """The names of a file, ``[n][N]``; "" for a concept without one, and for all where there is no file.

    Args:
        path: class -> number of the concept as pages show it, from 1 -> name.
        bank: the concepts.

    Raises:
        VRXError: the file cannot be read, or names what the bank does not have, or anything twice.
    """
    names = [[""] * bank.num_concepts for _ in bank.class_names]
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    except FileNotFoundError:
        return names
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise VRXError(f"{path} cannot be read ({error}). {_remedy(bank)}") from error
    for name, concepts in _entries(path, root, bank):
        if name not in bank.class_names:
            near = ", ".join(difflib.get_close_matches(name, bank.class_names, 3, 0.0))
            raise VRXError(f"{_at(path, concepts)}: {name!r} is not a class of this run; nearest: {near}.")
        index = bank.class_names.index(name)
        for number, value in _entries(path, concepts, bank):
            concept = _concept(number, f"{_at(path, value)}: {name}", bank.present[index])
            _check(value, _at(path, value), f"{name}, concept {number}", names[index])
            names[index][concept] = " ".join(value.value.split())
    return names


def example(bank: ConceptBank) -> str:
    """A line of the file that names the first concept there is."""
    index, concept = [*np.argwhere(bank.present).tolist(), [0, 0]][0]
    entry = {bank.class_names[index]: {concept + 1: "a name"}}
    return str(yaml.safe_dump(entry, default_flow_style=None, allow_unicode=True, width=1000)).strip()


def _entries(path: Path, node: yaml.Node | None, bank: ConceptBank) -> list[tuple[str, yaml.Node]]:
    """Keys, as they are written, and values of a mapping, none of them twice; nothing for an empty one."""
    if node is None or node.tag == NOTHING:
        return []
    if not isinstance(node, yaml.MappingNode):
        raise VRXError(f"{_at(path, node)}: no mapping. {_remedy(bank)}")
    found: dict[str, yaml.Node] = {}
    for key, value in node.value:
        text = str(key.value)
        if text in found:
            raise VRXError(f"{_at(path, key)}: {text} occurs twice, first in line {_line(found[text])}: join the two.")
        found[text] = value
    return list(found.items())


def _concept(number: str, where: str, present: np.ndarray) -> int:
    """The place of a concept that exists."""
    known = [str(k + 1) for k in np.flatnonzero(present)]
    if number not in known:
        has = f"its concepts are {', '.join(known)}" if known else "it has no concepts of its own: leave it out"
        raise VRXError(f"{where} has no concept {number!r}; {has}.")
    return int(number) - 1


def _check(value: yaml.Node, where: str, what: str, taken: list[str]) -> None:
    """Refuse a name that is no text, or that another concept of the class has."""
    scalar = isinstance(value, yaml.ScalarNode)
    if value.tag != TEXT or not value.value.strip():
        given = (value.value or "nothing") if scalar else "a list or mapping"
        raise VRXError(f'{where}: the name of {what} is {given}, which is no text: write a name, in quotes ("...").')
    name = " ".join(value.value.split()).casefold()
    if name in (same := [used.casefold() for used in taken]):
        raise VRXError(
            f"{where}: the name of {what} is {value.value}, as that of concept {same.index(name) + 1}: "
            "give each concept of a class its own."
        )


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _at(path: Path, node: yaml.Node) -> str:
    return f"{path}, line {_line(node)}"


def _remedy(bank: ConceptBank) -> str:
    return f"Write a line per class, such as: {example(bank)}"
