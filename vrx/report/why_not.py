"""Why not another class, in words: what it lacks, what lies elsewhere, what speaks against it (3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vrx.explanation import Counterfactual, Explanation
from vrx.reasons import Relation, contrary_relations, opponents, opposing_relations, wanted
from vrx.report.phrases import direction, join, plural, relation_words, short_name, signed, the

FARTHER = 1.2  # times as far is too far


def wanted_text(explanation: Explanation, index: int) -> str:
    """What is missing for a class, or lies elsewhere; where nothing is, what else speaks most against it; or ""."""
    numbered, groups = list[Counterfactual](), list[list[Counterfactual]]()
    for reason in wanted(explanation, index):
        group = numbered if reason.added and not _name(explanation, reason) else []
        groups += [] if group else [group]
        group.append(reason)  # those without a name go in one phrase
    reasons = [
        _missing(explanation, group) if group[0].added else _misplaced(explanation, group[0]) for group in groups
    ]
    return "; ".join(reasons) or _against(explanation, index)


def _against(explanation: Explanation, index: int) -> str:
    """A relation between concepts of a class that speaks against it; else the concept of another class, or the relation
    between concepts of the predicted one, that does most; or "".
    """
    if own := opposing_relations(explanation, index):
        return relation_words(explanation, index, own[0])
    others = [
        (relation.measured, _contrary(explanation, relation)) for relation in contrary_relations(explanation, index)
    ]
    others += [(one[2], _opponent(explanation, *one)) for one in opponents(explanation, index)]
    return min(others)[1] if others else ""


def _contrary(explanation: Explanation, relation: Relation) -> str:
    """That a relation of the predicted class speaks against another one."""
    owner, ends = explanation.predicted, (relation.source, relation.target)
    names, numbers = [short_name(explanation, owner, k) for k in ends], [str(k + 1) for k in ends]
    named, of = all(names), f"of {explanation.class_names[owner]}"
    one, other = [f"the {name}" for name in names] if named else [f"concept {number}" for number in numbers]
    of = f"({join(numbers)} {of})" if named else of
    if not relation.arranged:
        return f"{one} and {other} {of} speak against it together ({signed(relation.measured)})"
    places, many = explanation.centroids[owner], named and plural(explanation, owner, relation.source)
    where = direction(places[relation.source], places[relation.target], explanation.superpixels.shape)
    lies, moved = ("lie", "they are moved") if many else ("lies", "it is moved")
    return f"that {one} {lies} {where} {other} {of} speaks against it ({signed(-relation.measured)} when {moved})"


def _opponent(explanation: Explanation, owner: int, concept: int, effect: float) -> str:
    name, number = short_name(explanation, owner, concept), f"{concept + 1} of {explanation.class_names[owner]}"
    called_so = f"the {name} ({number})" if name else f"concept {number}"
    return f"{called_so} speak{'s' * (not plural(explanation, owner, concept))} against it ({signed(effect)})"


def _name(explanation: Explanation, reason: Counterfactual) -> str:
    return short_name(explanation, reason.graph, reason.concept)


def _missing(explanation: Explanation, reasons: Sequence[Counterfactual]) -> str:
    """One missing concept with a name, or all that have none."""
    first = reasons[0]
    gains = join([signed(float(reason.measured[reason.graph])) for reason in reasons])
    if name := _name(explanation, first):
        one = "any" if plural(explanation, first.graph, first.concept) else "one"
        return f"no {name} ({gains} if there were {one})"
    numbers = join([str(reason.concept + 1) for reason in reasons])
    if len(reasons) == 1:
        return f"its concept {numbers} is missing ({gains} if it were there)"
    return f"its concepts {numbers} are missing ({gains} if they were there)"


def _misplaced(explanation: Explanation, reason: Counterfactual) -> str:
    index, shape, gain = reason.graph, explanation.superpixels.shape, signed(float(reason.measured[reason.graph]))
    places, belongs = explanation.centroids[index], np.array(reason.place, np.float32)
    concept, anchor = (the(explanation, index, k) for k in (reason.concept, reason.anchor))
    many, its = plural(explanation, index, reason.concept), plural(explanation, index, reason.anchor)
    lies, it, were = ("lie", "they", "they were") if many else ("lies", "it", "it were")
    now, then = (direction(place, places[reason.anchor], shape) for place in (places[reason.concept], belongs))
    if now != then:
        return f"{concept} {lies} {now} {anchor}, not {then} {'them' if its else 'it'} ({gain} if {it} did)"
    far, right = (
        float(np.hypot(*((place - places[reason.anchor]) * shape[::-1]))) for place in (places[reason.concept], belongs)
    )
    if far > FARTHER * right:
        return f"{concept} {lies} too far {now} {anchor} ({gain} if {were} nearer)"
    if right > FARTHER * far:
        return f"{concept} {lies} too close {now} {anchor} ({gain} if {were} farther)"
    return f"{concept} {lies} {now} {anchor}, but not where {it} should ({gain} if {it} did)"
