"""The W&B dashboard as code, without a network: what it shows is what runs log."""

from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from vrx import dashboard as module
from vrx.dashboard import dashboard, save, swept

Workspace = pytest.importorskip("wandb_workspaces.workspaces", reason="pip install 'vrx[wandb]'").Workspace
PICTURES = ["concepts/tank", "relations/tank", "explanations/01", "photos"]


def refused(capsys: pytest.CaptureFixture[str], **given: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        save(OmegaConf.create(given))
    assert exit_.value.code == 1
    return capsys.readouterr().err.strip()


def test_the_sections_are_those_that_people_ask_for() -> None:
    made = dashboard("me", "vrx", PICTURES, swept())
    assert [section.name for section in made.sections] == ["overview", "concepts", "faithfulness", "errors", "sweep"]
    assert all(section.panels and section.is_open for section in made.sections)
    sent = made._to_model().model_dump(by_alias=True, exclude_none=True)  # what W&B would get
    sections = sent["spec"]["section"]["panelBankConfig"]["sections"]
    shown = {section["name"]: str(section["panels"]) for section in sections}
    assert "concepts/tank" in shown["concepts"] and "relations/tank" in shown["faithfulness"]
    assert "explanations/01" in shown["errors"] and "confusion/classifier_table" in shown["errors"]
    assert "'photos'" in shown["errors"] and "report" in shown["overview"]
    assert all(f"config:model.value.{knob}" in shown["sweep"] for knob in ("optimizer.lr", "grn.dropout"))
    assert "distillation/epoch" in shown["faithfulness"] and "val/spearman" in shown["faithfulness"]


def test_a_project_without_pictures_has_all_sections() -> None:
    assert len(dashboard("me", "vrx").sections) == 5


def test_what_is_missing_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(capsys) == f"error: project is not given: {module.REMEDY}."
    assert "project=vrx: python -m" in refused(capsys, project="vrx")
    monkeypatch.setattr(module, "logged_in", lambda: False)
    assert "run `wandb login`" in refused(capsys, project="me/vrx")
    monkeypatch.setattr(module, "workspaces", None)
    assert "pip install 'vrx[wandb]'" in refused(capsys, project="me/vrx")


def test_the_dashboard_is_saved_where_the_runs_are(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []
    monkeypatch.setattr(module, "logged_in", lambda: True)
    values = {"concepts/tank": {"_type": "image-file"}, "photos": {"_type": "table-file"}, "objective": 1.0}
    run = SimpleNamespace(summary=values)
    monkeypatch.setattr("wandb.Api", lambda **_: SimpleNamespace(runs=lambda *_, **__: [run, run]))
    monkeypatch.setattr(Workspace, "save", lambda self: saved.append(self) or self, raising=True)
    monkeypatch.setattr(Workspace, "url", "https://wandb.ai/me/vrx", raising=True)
    save(OmegaConf.create({"project": "me/vrx"}))
    (made,) = saved
    assert (made.entity, made.project) == ("me", "vrx")
    shown = [key for section in made.sections for panel in section.panels for key in getattr(panel, "media_keys", ())]
    assert shown == ["report", "concepts/tank"]
