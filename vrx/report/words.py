"""An explanation in plain words, made from its numbers alone (3.3: "why" and "why not")."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vrx.bank import ConceptBank
from vrx.explanation import Explanation
from vrx.reasons import expected_relations, shown_relations, welcome_absences
from vrx.report.phrases import (
    called,
    capital,
    join,
    relation_ends,
    relation_kind,
    relation_words,
    short_name,
    signed,
)
from vrx.report.trust import trust
from vrx.report.why_not import wanted_text

NAMED_SHARE = 0.2  # a concept is named from this share of the strongest of its graph on
MOST_CONCEPTS, MOST_RELATIONS = 3, 2  # named at most
FILLS = {"blur": "blurred", "mean": "mean colour"}  # what is left of a photo without detail
NO_RELATIONS = "No relation between concepts stands clear of the noise"
VERBS = {1: "supported by", -1: "opposed by"}


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
        owner = explanation.class_names[absence.graph]
        name = short_name(explanation, absence.graph, absence.concept)
        parts.append(f"no {name} ({owner})" if name else f"no concept {absence.concept + 1} of {owner}")
        costs.append(signed(float(absence.measured[own])))
    return f"The photo shows {join(parts)}: {join(costs)} if it did." if parts else ""


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
