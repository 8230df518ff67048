"""An explanation in plain words, made from its numbers alone (3.3: "why" and "why not")."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vrx.bank import ConceptBank
from vrx.explanation import Counterfactual, Explanation
from vrx.reasons import Relation, expected_relations, opponents, shown_relations, wanted, welcome_absences
from vrx.report.trust import trust

NAMED_SHARE = 0.2  # a concept is named from this share of the strongest of its graph on
MOST_CONCEPTS, MOST_RELATIONS = 3, 2  # named at most
FARTHER = 1.2  # times as far is too far
SAME_PLACE = 0.03  # centroids nearer than this share of the photo's diagonal have no direction
LONGEST = 32  # characters of a concept's name and number in a sentence
FILLS = {"blur": "blurred", "mean": "mean colour"}  # what is left of a photo without detail
NO_RELATIONS = "No relation between concepts stands clear of the noise"
VERBS = {1: "supported by", -1: "opposed by"}


def signed(value: float) -> str:
    """A number in logits with its sign: ``+1.8``, ``−0.04``, ``0.0``; ``–`` for NaN."""
    if not np.isfinite(value):
        return "–"
    digits = 0 if abs(value) >= 99.5 else 1 if abs(value) >= 0.095 else 2
    return "0.0" if float(f"{value:.2f}") == 0 else f"{value:+.{digits}f}".replace("-", "−")


def shorten(text: str, length: int) -> str:
    """At most ``length`` characters, the middle left out."""
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[: length - 1 - half]}…{text[-half:]}"


def join(parts: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def capital(text: str) -> str:
    """The same with a capital letter first."""
    return text[:1].upper() + text[1:]


def called(explanation: Explanation, index: int, concept: int) -> str:
    """A concept of a class by name, where it has one, and number: ``ladder (1)``, ``3``."""
    return shorten(explanation.concept(index, concept), LONGEST)


def direction(source: NDArray[np.float32], target: NDArray[np.float32], shape: tuple[int, int]) -> str:
    """Where the source lies as seen from the target: above, below, left of, right of, or at the place of it.

    Places (x, y) in [0, 1], y downwards; ``shape``: height and width of the photo in pixels.
    """
    dx, dy = (np.asarray(source, float) - target) * shape[::-1]
    if np.hypot(dx, dy) < SAME_PLACE * np.hypot(*shape):
        return "at the place of"
    if abs(dy) >= abs(dx):
        return "above" if dy < 0 else "below"
    return "left of" if dx < 0 else "right of"


def relation_ends(explanation: Explanation, index: int, relation: Relation) -> str:
    """The two concepts of a relation by number: ``1 + 3``; where the arrangement counts, ``2 above 4``."""
    between = "+"
    if relation.arranged:
        places = explanation.centroids[index]
        between = direction(places[relation.source], places[relation.target], explanation.superpixels.shape)
    return f"{relation.source + 1} {between} {relation.target + 1}"


def relation_kind(relation: Relation) -> str:
    """What it is that counts, as the network expects it: ``count together``, ``its place counts``."""
    if relation.arranged:
        return "its place counts" if relation.predicted > 0 else "its place counts against"
    return "count together" if relation.predicted > 0 else "count less together"


def relation_words(explanation: Explanation, index: int, relation: Relation) -> str:
    """A relation that the classifier confirms, and what was measured: ``1 and 3 count together (+0.8)``."""
    source, target = (the(explanation, index, k) for k in (relation.source, relation.target))
    if not relation.arranged:
        return f"{source} and {target} {relation_kind(relation)} ({signed(relation.measured)})"
    places, many = explanation.centroids[index], plural(explanation, index, relation.source)
    where = direction(places[relation.source], places[relation.target], explanation.superpixels.shape)
    counts = f"count{'s' * (not many)}{' against it' * (relation.predicted < 0)}"
    lies, moved = ("they lie", "they are moved") if many else ("it lies", "it is moved")
    return f"{source} {counts} because {lies} {where} {target}: {signed(-relation.measured)} when {moved}"


def the(explanation: Explanation, index: int, concept: int) -> str:
    """A concept as a noun: ``the ladder (1)``, ``3``."""
    name = called(explanation, index, concept)
    return name if name.isdigit() else f"the {name}"


def plural(explanation: Explanation, index: int, concept: int) -> bool:
    """Whether the name of a concept reads as several things: ``wheels``."""
    name = explanation.name_of(index, concept).lower()
    return " and " in name or (name.endswith("s") and not name.endswith(("ss", "us", "is")))


def relations_text(explanation: Explanation, index: int) -> str:
    """A sentence on the strongest relations of the predicted class, or that none matters; "" where nobody asked."""
    if explanation.relations is None:
        return ""
    shown = expected_relations(explanation, index)
    true = sorted((r for r in shown if r.confirmed), key=lambda relation: relation.arranged)
    pairs = {frozenset((r.source, r.target)): r for r in true}  # of both kinds the last: the arrangement says more
    strongest = sorted(pairs.values(), key=lambda relation: -abs(relation.predicted))[:MOST_RELATIONS]
    if strongest:
        return capital("; ".join(relation_words(explanation, index, relation) for relation in strongest)) + "."
    if shown:
        return "The classifier confirms none of the relations that the graph network expects."
    return f"{NO_RELATIONS}." * (not any(shown_relations(explanation, c) for c in explanation.shown()))


def absences_text(explanation: Explanation) -> str:
    """A sentence on what speaks for the predicted class by being missing, or ""."""
    own, parts, costs = explanation.predicted, list[str](), list[str]()
    for absence in welcome_absences(explanation):
        owner, name = explanation.class_names[absence.graph], _name(explanation, absence)
        parts.append(f"no {name} ({owner})" if name else f"no concept {absence.concept + 1} of {owner}")
        costs.append(signed(float(absence.measured[own])))
    return f"The photo shows {join(parts)}: {join(costs)} if it did." if parts else ""


def wanted_text(explanation: Explanation, index: int) -> str:
    """What is missing for a class, or lies elsewhere; where nothing is, the strongest relation or concept of another
    class against it; or "".
    """
    numbered, groups = list[Counterfactual](), list[list[Counterfactual]]()
    for reason in wanted(explanation, index):
        group = numbered if reason.added and not _name(explanation, reason) else []
        groups += [] if group else [group]
        group.append(reason)  # those without a name go in one phrase
    reasons = [
        _missing(explanation, group) if group[0].added else _misplaced(explanation, group[0]) for group in groups
    ]
    against = [relation_words(explanation, index, r) for r in shown_relations(explanation, index) if r.predicted < 0]
    against += [_opponent(explanation, *one) for one in opponents(explanation, index)]
    return "; ".join(reasons or against[:1])


def _opponent(explanation: Explanation, owner: int, concept: int, effect: float) -> str:
    name = explanation.name_of(owner, concept)
    number = f"{concept + 1} of {explanation.class_names[owner]}"
    called_so = f"the {shorten(name, LONGEST)} ({number})" if name else f"concept {number}"
    return f"{called_so} speak{'s' * (not plural(explanation, owner, concept))} against it ({signed(effect)})"


def _name(explanation: Explanation, reason: Counterfactual) -> str:
    return shorten(explanation.name_of(reason.graph, reason.concept), LONGEST)


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


def evidence(explanation: Explanation, index: int, sign: int) -> str:
    """The concepts of a class that support (1) or oppose (-1) it, strongest first; or ""."""
    scores = sign * np.nan_to_num(explanation.node_scores[index, index]) * explanation.detected[index]
    least = max(NAMED_SHARE * float(np.abs(scores).max(initial=0)), 1e-6)
    strong = np.flatnonzero(scores >= least).tolist()
    concepts = [
        called(explanation, index, k)
        for k in sorted(strong, key=lambda k: (-round(float(scores[k]), 1), k))[:MOST_CONCEPTS]
    ]
    return f"its concept{'s' * (len(concepts) > 1)} {join(concepts)}" if concepts else ""


def elsewhere(explanation: Explanation, index: int, sign: int) -> str:
    """The class whose concepts do most for (1) or against (-1) another one, in brackets; or ""."""
    totals = np.nan_to_num(explanation.node_scores[index]).sum(1)
    totals[index] = 0
    other = int(np.argmax(sign * totals))
    name, total = explanation.class_names[other], float(totals[other])
    return f" (the concepts of {name} add {signed(total)})" if sign * total >= 0.05 else ""


def why(explanation: Explanation, index: int) -> str:
    """What supports the predicted class, or what opposes another one, what it lacks and what lies elsewhere."""
    own = index == explanation.predicted
    label = " (the label)" if not own and index == explanation.true_class else ""
    parts = [f"Why {'not ' * (not own)}{explanation.class_names[index]}{label}?"]
    reasons = "" if own else wanted_text(explanation, index)
    concepts = _concepts(explanation, index, 1 if own else -1, bool(reasons))
    if concepts.startswith(VERBS[1].capitalize()) and reasons:  # nothing else speaks against it
        concepts, reasons = "", f"{concepts[:-1]}, but {reasons}"
    parts += [concepts, f"{capital(reasons)}." if reasons else ""]
    parts += [relations_text(explanation, index), absences_text(explanation)] if own else []
    return " ".join(part for part in [*parts, without_detail(explanation, index)] if part)


def _concepts(explanation: Explanation, index: int, sign: int, reasons: bool) -> str:
    """The concepts of a class that support (1) or oppose (-1) it, and the others; that none does, without reasons."""
    if not explanation.detected[index].any():
        none = "None of its concepts was found" if explanation.present[index].any() else "It has no concepts of its own"
        return f"{none}{elsewhere(explanation, index, sign)}."
    own, contrary = evidence(explanation, index, sign), evidence(explanation, index, -sign)
    if not own and not reasons:
        own = f"none of its concepts{elsewhere(explanation, index, sign)}"
    sides = [f"{verb} {some}" for verb, some in ((VERBS[sign], own), (VERBS[-sign], contrary)) if some]
    return f"{capital('; '.join(sides))}." if sides else ""


def without_detail(explanation: Explanation, index: int) -> str:
    """What it means for a class that photos without detail are called so; "" for all other classes."""
    if index != explanation.fallback:
        return ""
    others = np.arange(len(explanation.class_names)) != index
    found, known = int(explanation.detected[others].sum()), int(explanation.present[others].sum())
    if not known:
        return ""
    verb = "was" if found == 1 else "were"
    count = f"{found} of the {known} concepts of the other classes {verb} found"
    called_so = f"A photo without any detail is called {explanation.class_names[index]}"
    if index != explanation.predicted:
        return f"{called_so}, but here {count}." if found else ""
    if 2 * found >= known:
        return f"{called_so}, too; still, {count}."
    also = "also " * bool(evidence(explanation, index, 1))
    missing = f"{known - found} of" if found else "all"
    return f"{called_so}, too: it is predicted {also}because {missing} the {known} concepts of the others are missing."


def blank_line(bank: ConceptBank) -> str:
    """What the classifier calls photos without any detail, fill by fill; "" where nobody asked."""
    if not bank.featureless:
        return ""
    mean = np.mean(list(bank.featureless.values()), axis=0)
    index = int(mean.argmax())
    each = ", ".join(f"{FILLS.get(fill, fill)} {shares[index]:.2f}" for fill, shares in bank.featureless.items())
    text = f"{bank.class_names[index]} ({mean[index]:.2f}; {each})"
    if bank.fallback is None:
        return f"A photo without any detail is called no class clearly: at most {text}."
    return f"A photo without any detail is called {text}."


def sentence(explanation: Explanation, classes: Sequence[int] | None = None) -> str:
    """What the classifier predicted, why, and why not the other classes: all :func:`sentences`."""
    return " ".join(sentences(explanation, classes))


def sentences(explanation: Explanation, classes: Sequence[int] | None = None) -> list[str]:
    """What the classifier predicted; why; and why not each of the other ``classes`` (:meth:`Explanation.shown`)."""
    names, predicted, true = explanation.class_names, explanation.predicted, explanation.true_class
    shares = [f"{p:.2f}" for p in explanation.probabilities]
    ties = [n for c, n in enumerate(names) if c != predicted and shares[c] == shares[predicted]]
    text = f"Predicted {names[predicted]} ({shares[predicted]})" + (f", tied with {join(ties)}" if ties else "")
    if true is not None:
        text += ", as labelled" if true == predicted else f", but the label is {names[true]} ({shares[true]})"
    text += "."
    grn = int(explanation.grn_logits.argmax())
    if grn != predicted:
        other = f"{names[grn]} ({explanation.grn_probabilities[grn]:.2f})"
        text += f" The graph network predicts {other} instead: these may not be the classifier's reasons."
    shown = explanation.shown() if classes is None else classes
    return [text, *(why(explanation, c) for c in [predicted, *(c for c in shown if c != predicted)])]


def trust_line(explanation: Explanation) -> str:
    """One line on how far this photo's explanation can be trusted: ``Trust: high. ...``, relations apart."""
    return " ".join(f"{level}. {text}" for level, text in trust_parts(explanation))


def trust_parts(explanation: Explanation) -> list[tuple[str, str]]:
    """``Trust: high`` and what the checks found, the worst first; ``Relations: low`` and the same, where checked."""
    result = trust(explanation)
    parts = [(f"Trust: {result.level}", f"{capital('; '.join(result.reasons))}.")]
    return parts + [(f"Relations: {result.relations_level}", f"{capital(result.relations)}.")] * bool(result.relations)


def panel_text(explanation: Explanation, index: int) -> str:
    """A class' panel in words, for those who cannot see it."""

    def each(concepts: NDArray[np.bool_]) -> list[tuple[int, str]]:
        named = explanation.names[index] if explanation.names else ()
        found = np.flatnonzero(concepts).tolist()
        return [(k, "concept " * (not (named and named[k])) + called(explanation, index, k)) for k in found]

    parts = [
        f"{name} contributes {signed(float(explanation.node_scores[index, index, k]))}"
        + (f" (measured {signed(measured)})" if np.isfinite(measured := float(explanation.measured[index, k])) else "")
        for k, name in each(explanation.detected[index])
    ]
    texts = [why(explanation, index)]
    if parts:
        texts.append(f"{capital('; '.join(parts))}.")
    for relation in shown_relations(explanation, index):
        both = f"contribution {signed(relation.predicted)}, measured {signed(relation.measured)}"
        texts.append(f"{relation_ends(explanation, index, relation)}: {relation_kind(relation)} ({both}).")
    if explanation.perhaps[index].any():
        texts.append(f"Perhaps there: {join([name for _, name in each(explanation.perhaps[index])])}.")
    return " ".join(texts)
