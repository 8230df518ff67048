"""``train.py`` as several processes: started by Lightning or by torchrun, and one of them dying."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.pipeline import Finished, finished_run

ROOT = Path(__file__).parents[1]
TWO = ("trainer=ddp_cpu", "trainer.max_epochs=2", "graph.variants=1", "report.quality=0", "report.relations=0")
DYING = '''"""train.py, whose second process dies after its first shard of graphs."""
import os, sys
sys.path.insert(0, {root!r})
from vrx.data.scg_cache import SCGCache
from vrx.errors import VRXError
import vrx.commands.train as train
write = SCGCache.write
def dying(cache, *args):
    write(cache, *args)
    if os.environ.get("LOCAL_RANK", "0") == {rank!r}:
        raise VRXError("the disk of this node is full")
SCGCache.write = dying
train.main()
'''


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finished_run(tmp_path_factory.getbasetemp() / "finished")


def run(finished: Finished, *command: str) -> subprocess.CompletedProcess[str]:
    """A command of Python in an environment that knows of no other processes."""
    known = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "PL_GLOBAL_SEED", "MASTER_ADDR", "MASTER_PORT")
    environment = {k: v for k, v in os.environ.items() if k not in known} | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(
        [sys.executable, *command], cwd=finished.home, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.slow
def test_a_process_that_dies_stops_the_others_and_torchrun_goes_on(finished: Finished, tmp_path: Path) -> None:
    """First the process that started the other dies, then the other one; both leave what they have built."""
    overrides = [*finished.overrides, *TWO, "+graph.shard_size=2", "name=dying"]
    start = time.time()
    for rank in ("0", "1"):
        script = tmp_path / f"dying{rank}.py"
        script.write_text(DYING.format(root=str(ROOT), rank=rank))
        died = run(finished, str(script), f"--config-path={ROOT / 'conf'}", *overrides)
        assert died.returncode != 0 and "the disk of this node is full" in died.stderr, died.stderr[-2000:]
        left = [p.pid for p in psutil.process_iter(["cmdline"]) if str(script) in (p.info["cmdline"] or [])]
        assert not left, "no process goes on alone"
    caches = (finished.home / "cache" / "scgs").rglob("shard-*")
    kept = {path: stamp for path in caches if (stamp := path.stat().st_mtime_ns) > start * 1e9}
    assert len(kept) >= 2
    starts = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(ROOT / "train.py"))
    done = run(finished, *starts, *overrides)
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items()), "what was built is kept"
    (folder,) = [p.parent for p in (finished.home / "runs" / "dying").glob("*/explainer.json")]
    assert {"config.yaml", "metrics.json", "reports"} <= {p.name for p in folder.iterdir()}
    assert "fidelity/agreement" in json.loads((folder / "metrics.json").read_text())
    assert (done.stderr + done.stdout).count("== distillation") == 1, "one process speaks"


@pytest.mark.slow
def test_submitit_runs_the_jobs_of_a_sweep(finished: Finished) -> None:
    """Its local executor does what its Slurm executor does, on this machine."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra slurm")
    short = ("trainer.max_epochs=1", "report.quality=0", "report.relations=0", "name=jobs")
    done = run(finished, str(ROOT / "train.py"), "-m", "hydra/launcher=submitit_local", *finished.overrides, *short)
    assert done.returncode == 0, done.stderr[-3000:]
    (job,) = (finished.home / "runs" / "jobs").glob("sweep_*/0")
    assert "fidelity/agreement" in json.loads((job / "metrics.json").read_text())
    assert any((job.parent / ".submitit").rglob("*_result.pkl"))
