"""What the scripts share: clear errors, quiet libraries, objects from configs, loggers, and the folder of a run."""

from __future__ import annotations

import difflib
import functools
import json
import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from vrx.errors import VRXError
from vrx.machine import device_of, first_process, keep_freed_memory, quiet_logs
from vrx.pipeline import Pipeline
from vrx.storage import json_safe, write_text

if TYPE_CHECKING:
    from vrx.tracking import Tracker  # imports wandb, which takes a second

log = logging.getLogger("vrx")

CONFIG = str(Path(__file__).parent / "conf")  # a link to conf/ in a checkout, the files themselves in a wheel


def script(main: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Wrap a script's main: one clear line instead of a traceback for errors that a user can fix, and for Ctrl-C."""

    @functools.wraps(main)
    def wrapped(cfg: DictConfig) -> Any:
        try:
            quiet_libraries()
            keep_freed_memory()
            if os.getcwd() not in sys.path:
                sys.path.insert(0, os.getcwd())  # your own network lies where you are, also for console commands
            return main(cfg)
        except (VRXError, MissingMandatoryValue) as error:
            if in_multirun():
                raise  # vrx.sweep keeps it, and the next trial starts
            if isinstance(error, VRXError):
                _end(f"error: {' '.join(str(error).split())}", 1)
            _end(f"error: {error.full_key} is not given: add {error.full_key}=<value> (--cfg job shows all)", 1)
        except BaseException as error:
            if not was_interrupted(error):
                raise
            _end("interrupted: what was finished is kept; the same command goes on from there.", 130)

    return wrapped


def _end(line: str, code: int) -> NoReturn:
    if code == 1 or first_process():
        print(f"\n{line}", file=sys.stderr, flush=True)
    sys.exit(code)


def was_interrupted(error: BaseException) -> bool:
    """Whether Ctrl-C is behind an exception; Lightning turns it into ``sys.exit(1)``."""
    return isinstance(error.__context__ if isinstance(error, SystemExit) else error, KeyboardInterrupt)


def quiet_libraries() -> None:
    """Silence what libraries log about themselves; our own warnings stay, and only the first process speaks."""
    quiet_logs()
    if not first_process():
        log.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning|torch|timm|faiss|wandb).*")


def build(cfg: Any, **kwargs: Any) -> Any:
    """``hydra.utils.instantiate``, with the errors that a user can fix (VRXError) as they were raised."""
    try:
        return instantiate(cfg, _convert_="all", **kwargs)
    except InstantiationException as error:
        if isinstance(error.__cause__, VRXError):
            raise error.__cause__ from None
        raise


def build_pipeline(cfg: DictConfig, logger: Logger | bool = False) -> Pipeline:
    """The pipeline of a composed config."""
    graph = plain(cfg.graph)
    builder = graph.pop("builder")
    graph.pop("hypotheses", None)  # the builder's
    return Pipeline(
        discovery=build(cfg.concepts),
        builder=build(builder),
        data=build(graph),
        grn=build(cfg.model.grn),
        optimizer=build(cfg.model.optimizer),
        scheduler=build(cfg.model.scheduler) if cfg.model.get("scheduler") else None,
        distillation=build(cfg.model.distillation),
        trainer=build(cfg.trainer),
        callbacks=[build(callback) for callback in cfg.callbacks.values()],
        cache=Path(cfg.paths.cache_dir),
        methods=build(cfg.contributions),
        seed=cfg.seed,
        workers=cfg.graph.workers,
        logger=logger,
    )


def plain(cfg: Any) -> dict[str, Any]:
    """A config as plain dictionaries and lists."""
    return {str(k): v for k, v in OmegaConf.to_container(cfg, resolve=True).items()}  # type: ignore[union-attr]


def require(cfg: DictConfig, key: str, remedy: str) -> None:
    """Refuse a command without one of its settings."""
    if OmegaConf.is_missing(cfg, key) or cfg.get(key) is None:
        raise VRXError(f"{key} is not given: {remedy}.")


def use_local_run(cfg: DictConfig) -> None:
    """Make ``cfg.run`` a folder: where it names a W&B artifact, what that run keeps there is downloaded, once."""
    if not Path(str(cfg.run)).exists():
        from vrx.tracking import local_run

        cfg.run = str(local_run(str(cfg.run), Path(cfg.artifacts)))


def in_multirun() -> bool:
    """Whether this is one job of ``-m``."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def in_sweep() -> bool:
    """Whether this is one job of ``-m``, or one run of a W&B agent."""
    return in_multirun() or "WANDB_SWEEP_ID" in os.environ


def check_config(cfg: DictConfig) -> None:
    """Refuse what would only fail after a long time: a value that is not given, no such GPU, a launcher in a sweep."""
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        wanted = " ".join(f"{name}=..." for name in missing)
        raise VRXError(f"{', '.join(missing)} must be given: add {wanted} to the command.")
    device_of(cfg.trainer.get("accelerator", "auto"))
    if in_multirun() and cfg.trainer.get("strategy") is not None:
        raise VRXError(
            f"trainer.strategy={cfg.trainer.strategy} in a sweep (-m): use trainer=cpu or trainer=gpu there."
        )


def no_logger(**_: Any) -> bool:
    """Log nothing."""
    return False


class Run:
    """One run of ``train.py``: its folder, clock, metrics and logger. Only the first process writes."""

    def __init__(self, cfg: DictConfig, folder: Path) -> None:
        self.cfg, self.folder, self.started = cfg, folder, time.perf_counter()
        self.metrics: dict[str, float] = {}
        self.notes: list[str] = []  # every warning, for the report
        self._collector = logging.Handler(logging.WARNING)
        self._collector.emit = lambda record: self.notes.append(record.getMessage())  # type: ignore[method-assign]
        log.addHandler(self._collector)
        self.settings = plain(cfg)
        self._write("config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
        self.logger: Logger | None = build(cfg.logger, save_dir=str(folder / "logs")) or None
        if self.logger is not None:
            self.logger.log_hyperparams(self.settings)

    @rank_zero_only
    def _write(self, name: str, text: str) -> None:
        write_text(self.folder / name, text)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage into ``time/<name>_s`` and say when it starts."""
        log.info("== %s", name)
        start = time.perf_counter()
        yield
        self.log({f"time/{name}_s": time.perf_counter() - start})

    def log(self, metrics: Mapping[str, float]) -> None:
        """Keep metrics for ``metrics.json`` and log them."""
        self.metrics |= metrics
        if self.logger is not None:
            self.logger.log_metrics(dict(metrics))

    @property
    def tracker(self) -> Tracker | None:
        """W&B, when that is the logger, in the first process alone."""
        return cast("Tracker", self.logger) if isinstance(self.logger, WandbLogger) and first_process() else None

    @property
    def objective(self) -> float:
        """What a sweep maximises."""
        wanted = self.cfg.objective
        if wanted not in self.metrics:
            near = difflib.get_close_matches(wanted, self.metrics, 3, 0.0)
            log.warning("objective=%s is not in metrics.json; nearest: %s.", wanted, ", ".join(near))
        return float(self.metrics.get(wanted, float("nan")))

    def write_metrics(self) -> None:
        """``metrics.json``: flat name -> number; null where there was nothing to measure."""
        self._write("metrics.json", json.dumps(json_safe(dict(sorted(self.metrics.items()))), indent=1))

    def close(self, succeeded: bool) -> None:
        """End the logs; the next job of a sweep starts its own."""
        log.removeHandler(self._collector)
        if self.logger is not None:
            self.logger.finalize("success" if succeeded else "failed")
        if self.tracker is not None:
            self.tracker.experiment.finish(0 if succeeded else 1)


@contextmanager
def running(cfg: DictConfig, folder: Path) -> Iterator[Run]:
    """A run from start to end. One that fails for a reason that the user can fix leaves no folder, save in a sweep."""
    fresh = not any(path.suffix != ".log" for path in folder.glob("*"))  # Hydra has put its log there
    run: Run | None = None
    try:
        check_config(cfg)
        run = Run(cfg, folder)
        yield run
        run.close(succeeded=True)
    except BaseException as error:
        if run is not None:
            run.close(succeeded=False)
        if isinstance(error, VRXError) and fresh and first_process() and not in_sweep():
            shutil.rmtree(folder, ignore_errors=True)
        raise
