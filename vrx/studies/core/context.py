"""The studies of 4.2 to 4.4: does the explanation hold, and does it help?

``diagnose.py`` builds a :class:`StudyContext` from a finished run and calls the study that ``study=<name>`` names: the
``_target_`` of ``conf/study/<name>.yaml`` with ``__call__(self, context: StudyContext) -> dict[str, float]``, which
returns the metrics and leaves in ``context.folder`` its records, from which the same command goes on, table and page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vrx.data.sources import PhotoSource
from vrx.errors import VRXError
from vrx.explain.explainer import Explainer
from vrx.pipeline import Pipeline
from vrx.storage import content_key
from vrx.studies.core.records import Records

COUNTS = ("max_photos", "max_edits", "errors_per_cause", "calibration_errors", "seeds", "examples")
"""Settings of studies that decide how many records there are, not what is in them."""

CODE = tuple(
    f"vrx.{name}" for name in ("classifier", "concepts", "edits", "graphs", "models", "scores", "explain", "studies")
)
"""Where the code is that makes records."""


def at_least(study: object, **least: int) -> None:
    """Refuse settings of a study (VRXError) below these bounds; None is none."""
    for name, bound in least.items():
        value = getattr(study, name)
        if value is not None and value < bound:
            raise VRXError(f"study.{name}={value}: use at least {bound}.")


@dataclass(frozen=True)
class StudyContext:
    """What every study gets."""

    explainer: Explainer  # of the run
    source: PhotoSource  # the run's photos by split, as its config (and data of the command) says
    folder: Path  # where the study leaves its results; exists
    settings: Mapping[str, Any]  # of the study itself, plain: the keys of conf/study/<name>.yaml
    pipeline: Callable[[Mapping[str, Any]], Pipeline] | None = None  # of the run, with settings changed by dotted name

    def key(self, **decisive: Any) -> str:
        """Hash of the run, the code, the study's settings and ``decisive``: other records are of another study.

        How many photos, edits, errors or seeds (``COUNTS``) does not count: a widened study keeps what it has.
        """
        explainer = self.explainer
        return content_key(
            CODE,
            {
                "classifier": explainer.classifier.version,
                "bank": explainer.bank.digest,
                "grn": {k: v.double().sum().item() for k, v in explainer.grn.state_dict().items()},
                "contributions": explainer.method,
                "editor": explainer.editor.settings(),
                "settings": {k: v for k, v in self.settings.items() if k not in COUNTS},
                "decisive": decisive,
            },
        )

    def records(self, **decisive: Any) -> Records:
        """What the study has found so far, of this :meth:`key`."""
        return Records(self.folder / "records.jsonl", self.key(**decisive))
