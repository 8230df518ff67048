"""One bar for a whole training: it says how long the rest takes. Lightning's own starts anew with every epoch."""

from __future__ import annotations

import math
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from tqdm import tqdm


class TrainingBar(Callback):
    """Steps of all epochs, with the time that remains and what the module logs for the bar."""

    def __init__(self, desc: str = "distilling") -> None:
        self.desc = desc
        self._bar: tqdm[Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps = float(trainer.estimated_stepping_batches)
        total = int(steps) if math.isfinite(steps) else None
        done, quiet = trainer.global_step, not trainer.is_global_zero
        self._bar = tqdm(total=total, initial=done, desc=self.desc, unit="step", disable=quiet)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is not None:
            self._bar.update(trainer.global_step - self._bar.n)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._bar is not None:
            shown = {name: f"{float(value):.3f}" for name, value in trainer.progress_bar_metrics.items()}
            self._bar.set_postfix({"epoch": f"{trainer.current_epoch + 1}/{trainer.max_epochs}", **shown})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._bar is not None:
            self._bar.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)
