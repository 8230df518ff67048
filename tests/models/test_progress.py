"""The bar of a training: all steps of all epochs, from where it goes on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from vrx.models import progress
from vrx.models.progress import TrainingBar


class Line(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        loss: torch.Tensor = self.layer(batch).square().mean()
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore")
def test_the_bar_counts_the_steps_of_all_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[Any] = []

    class Recorded(progress.tqdm):  # type: ignore[type-arg]
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            bars.append((settings, self))

    monkeypatch.setattr(progress, "tqdm", Recorded)

    def train(epochs: int, last: str | None = None) -> None:
        trainer = Trainer(
            default_root_dir=tmp_path, accelerator="cpu", max_epochs=epochs, logger=False,
            callbacks=[TrainingBar("line")], enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(Line(), DataLoader(torch.ones(6, 1), batch_size=2), ckpt_path=last)
        trainer.save_checkpoint(tmp_path / "last.ckpt")

    train(2)
    train(5, str(tmp_path / "last.ckpt"))
    (first, first_bar), (second, second_bar) = bars
    assert (first["desc"], first["total"], first["initial"], first_bar.n) == ("line", 6, 0, 6)
    assert (second["total"], second["initial"], second_bar.n) == (15, 6, 15)
    assert "epoch=5/5" in second_bar.postfix and "loss=" in second_bar.postfix
    assert first_bar.disable and second_bar.disable, "both are closed"
