"""From diagnosed errors to advice: cause profile of each confused pair, and which data would help, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vrx.data.images import Photo
from vrx.data.sources import HasPoses
from vrx.report.phrases import join
from vrx.studies.diagnosis.causes import ERROR_CAUSES, FALSE_ALARM, SHARED, UNSEEN

RARE = 0.25  # a pose is missing when training has fewer photos of it than this share of an even spread
IN_WORDS = {
    SHARED: "concepts that both classes share",
    FALSE_ALARM: "false alarms in concept detection",
    UNSEEN: "structure or viewpoint not seen in training",
}


@dataclass(frozen=True)
class Advice:
    """What to do about one confused pair."""

    true: int  # label of the photos
    predicted: int  # what the classifier predicts instead
    profile: Mapping[str, int]  # errors by cause
    missing: Mapping[str, int]  # pose that is rare in training -> unseen errors in it, most first
    text: str  # all of it in a sentence


def missing_poses(errors: Sequence[str], training: Sequence[str]) -> dict[str, int]:
    """Poses of the errors that are rare in training, with the errors in them, most first."""
    seen, wanted = Counter(training), Counter(errors)
    even = len(training) / max(len(seen | wanted), 1)
    return {pose: count for pose, count in wanted.most_common() if seen[pose] < RARE * even or not training}


def advise(
    rows: Sequence[dict[str, Any]],
    class_names: Sequence[str],
    source: HasPoses | None = None,
    training: Sequence[Photo] = (),
) -> list[Advice]:
    """Advice for every confused pair, the most frequent first.

    With a ``source`` that knows poses every error gets its ``pose``, and those rare in ``training`` are named.
    """
    found, poses = [], dict[int, list[str]]()
    if source is not None:
        for photo in training:
            poses.setdefault(photo.label, []).append(source.pose_name(photo))
        for row in rows:
            row["pose"] = source.pose_name(Photo(row["photo"], row["true"], row["split"]))
    for (true, predicted), _ in Counter((int(r["true"]), int(r["predicted"])) for r in rows).most_common():
        own = [r for r in rows if (r["true"], r["predicted"]) == (true, predicted)]
        profile = {c: sum(r["cause"] == c for r in own) for c in ERROR_CAUSES}
        unseen = [r["pose"] for r in own if r["cause"] == UNSEEN and source is not None]
        missing = missing_poses(unseen, poses.get(true, ()))
        text = sentence(class_names[true], class_names[predicted], profile, list(missing))
        found.append(Advice(true, predicted, profile, missing, text))
    return found


def sentence(true: str, predicted: str, profile: Mapping[str, int], missing: Sequence[str]) -> str:
    """The advice on one pair in words, made from the numbers."""
    cause, total = max(profile, key=lambda c: profile[c]), sum(profile.values())
    start = f"{true} -> {predicted}: {profile[cause]} of {total} error{'s' * (total != 1)} from {IN_WORDS[cause]}"
    poses = f"add photos of {true} from more viewpoints."
    if missing:
        several = len(missing) > 1
        poses = (
            f"pose{'s' * several} {join(missing)} missing in training: add photos of {true} in "
            f"{'those poses' if several else 'that pose'}."
        )
    if cause == UNSEEN:
        return f"{start}{', ' if missing else ': '}{poses}"
    remedy = {
        SHARED: f"add photos in which {true} and {predicted} show the shared parts, so that the rest decides.",
        FALSE_ALARM: f"add photos of {true} with parts of {predicted} in the background, or train with that "
        "background cut.",
    }[cause]
    also = f" Another {profile[UNSEEN]} from {IN_WORDS[UNSEEN]}, {poses}" if missing else ""
    return f"{start}: {remedy}{also}"


def wanted_photos(advice: Sequence[Advice], budget: int) -> dict[tuple[int, str], int]:
    """Spend a budget of photos on the missing poses, (label, pose), in proportion to the errors in them.

    They add up to the budget; none when no advice names a pose.
    """
    errors: Counter[tuple[int, str]] = Counter()
    for one in advice:
        errors.update({(one.true, pose): count for pose, count in one.missing.items()})
    exact = {key: budget * count / errors.total() for key, count in errors.items()}
    shares = {key: int(value) for key, value in exact.items()}
    for key in sorted(exact, key=lambda k: shares[k] - exact[k])[: budget - sum(shares.values())]:
        shares[key] += 1  # largest remainders
    return {key: count for key, count in shares.items() if count}
