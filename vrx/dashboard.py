"""The W&B dashboard as code: ``python -m vrx.dashboard project=<entity>/<project>`` shows what runs log there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wandb
from omegaconf import DictConfig, OmegaConf
from wandb.errors import Error

import vrx.commands  # noqa: F401 (silences what libraries warn of when they are imported)
from vrx.errors import VRXError
from vrx.runtime import CONFIG, script
from vrx.tracking import logged_in

try:
    from wandb_workspaces import workspaces
    from wandb_workspaces.reports import v2 as wr
except ImportError:  # the extra [wandb]
    workspaces = None  # type: ignore[assignment]

log = logging.getLogger("vrx")

REMEDY = "python -m vrx.dashboard project=<entity>/<project>"
PICTURE = "image-file"  # what W&B calls a picture in a summary
EPOCH = "distillation/epoch"
NUMBERS = ("objective", "fidelity/agreement", "fidelity/l1", "faithfulness/spearman", "absence/confirmed")
CURVES = {
    "Fidelity: agreement with the classifier": ("val/agreement", "val/agreement_masked"),
    "Fidelity: L1": ("val/l1", "val/l1_masked"),
    "Faithfulness: rank agreement with measured effects": ("val/spearman",),
}
BARS = {
    "Concepts (shares, of test photos)": ("concepts/significant", "concepts/purity", "concepts/consistency"),
    "Faithfulness against simpler scores": (
        "faithfulness/spearman", "faithfulness/spearman_area", "faithfulness/spearman_random", "faithfulness/ceiling",
    ),
    "Relations": ("relations/spearman", "relations/spearman_product", "relations/ceiling", "surrogate/r2"),
    "Stability": ("stability/top_concept", "stability/rank", "stability/iou"),
}  # fmt: skip


def dashboard(entity: str, project: str, pictures: Sequence[str] = (), knobs: Sequence[str] = ()) -> Any:
    """The workspace: overview, concepts, faithfulness, errors, sweep.

    Args:
        pictures: the keys under which the runs show pictures: ``concepts/<class>``, ``relations/<class>``, ...
        knobs: settings that sweeps vary, by their dotted names.
    """
    panels = [_overview(), _concepts(pictures), _faithfulness(pictures), _errors(pictures), _sweep(knobs)]
    names = ("overview", "concepts", "faithfulness", "errors", "sweep")
    sections = [
        workspaces.Section(name=name, panels=some, is_open=True) for name, some in zip(names, panels, strict=True)
    ]
    return workspaces.Workspace(entity=entity, project=project, name="VRX", sections=sections)


def _overview() -> list[Any]:
    curves: list[tuple[str, str, list[Any]]] = [
        ("Fit of the classifier", "fit/epoch", ["fit/val_accuracy", "fit/train_accuracy"]),
        ("Distillation", EPOCH, ["val/objective"]),
    ]
    return [
        *(wr.ScalarChart(title=name, metric=wr.SummaryMetric(name)) for name in NUMBERS),
        *(wr.LinePlot(title=title, x=x, y=y) for title, x, y in curves),
        wr.MediaBrowser(title="Report", media_keys=["report"], num_columns=1),
    ]


def _media(pictures: Sequence[str], prefix: str, title: str) -> list[Any]:
    keys = [key for key in pictures if key.startswith(prefix)]
    return [wr.MediaBrowser(title=title, media_keys=keys, num_columns=2)] if keys else []


def _bars(*titles: str) -> list[Any]:
    return [wr.BarPlot(title=title, metrics=list(BARS[title])) for title in titles]


def _concepts(pictures: Sequence[str]) -> list[Any]:
    return [*_media(pictures, "concepts/", "Concepts of each class"), *_bars("Concepts (shares, of test photos)")]


def _faithfulness(pictures: Sequence[str]) -> list[Any]:
    return [
        *(wr.LinePlot(title=title, x=EPOCH, y=list(names)) for title, names in CURVES.items()),
        *_bars("Faithfulness against simpler scores", "Relations", "Stability"),
        *_media(pictures, "relations/", "What the relations of each class add"),
    ]


def _errors(pictures: Sequence[str]) -> list[Any]:
    matrices = [
        wr.CustomChart(
            query={"summaryTable": {"tableKey": f"confusion/{name}_table"}},
            chart_name="wandb/confusion_matrix/v1",
            chart_fields={"Actual": "Actual", "Predicted": "Predicted", "nPredictions": "nPredictions"},
            chart_strings={"title": title},
        )
        for name, title in (("classifier", "The classifier, by label"), ("grn", "The graph network, by prediction"))
    ]
    table = wr.WeavePanelSummaryTable(table_name="photos")
    return [*matrices, table, *_media(pictures, "explanations/", "Explanations")]


def _sweep(knobs: Sequence[str]) -> list[Any]:
    wanted: list[Any] = [*map(wr.Config, knobs), wr.SummaryMetric("objective")]
    return [
        wr.ParallelCoordinatesPlot(columns=[wr.ParallelCoordinatesPlotColumn(metric=metric) for metric in wanted]),
        wr.ParameterImportancePlot(with_respect_to="objective"),
        wr.ScalarChart(title="time before training (s)", metric=wr.SummaryMetric("time/before_training_s")),
    ]


def swept() -> list[str]:
    """The settings that ``sweep=grn`` varies."""
    return list(OmegaConf.load(Path(CONFIG) / "sweep" / "grn.yaml").hydra.sweeper.params)


def pictures_of(project: str) -> list[str]:
    """The keys under which the newest runs of a project show pictures."""
    runs = wandb.Api(timeout=20).runs(project, per_page=5)[:5]
    values = [(key, run.summary[key]) for run in runs for key in run.summary.keys()]  # noqa: SIM118 (not a dict)
    return list(dict.fromkeys(key for key, value in values if hasattr(value, "keys") and value.get("_type") == PICTURE))


@script
def save(cfg: DictConfig) -> None:
    """Lay out the dashboard and save it as a new view of the project."""
    if "project" not in cfg or str(cfg.project).count("/") != 1:
        given = f"project={cfg.project}: " if "project" in cfg else "project is not given: "
        raise VRXError(f"{given}{REMEDY}.")
    if workspaces is None:
        raise VRXError("The dashboard needs the package wandb-workspaces: pip install 'vrx[wandb]'.")
    if not logged_in():
        raise VRXError("Nobody is logged in to W&B, where the dashboard is kept: run `wandb login`.")
    entity, project = str(cfg.project).split("/")
    try:
        made = dashboard(entity, project, pictures_of(str(cfg.project)), swept()).save()
    except (Error, ValueError, OSError) as error:  # requests' errors are OSErrors
        reason = str(error).split("\n")[0]
        raise VRXError(f"project={cfg.project} on W&B: {reason}; check the name and the network.") from error
    log.info("Open %s", made.url)


if __name__ == "__main__":
    save(OmegaConf.from_cli())
