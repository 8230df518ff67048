"""Wall time and peak memory of ``python train.py``, all its processes together.

python -m benchmarks.demo [overrides of train.py ...]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil


def memory_of(process: psutil.Process) -> int:
    """Bytes that a process and its children hold; pages that they share count once (proportional set size)."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            full = one.memory_full_info()
            total += getattr(full, "pss", 0) or full.rss
        except psutil.Error:
            continue
    return total


def main() -> None:
    start, peak = time.perf_counter(), 0
    root = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as empty:  # nothing cached from earlier runs
        folders = [f"paths.runs_dir={empty}/runs", f"paths.cache_dir={empty}/cache"]
        run = subprocess.Popen([sys.executable, str(root / "train.py"), *folders, *sys.argv[1:]], cwd=root)
        try:
            while run.poll() is None:
                try:
                    peak = max(peak, memory_of(psutil.Process(run.pid)))
                except psutil.NoSuchProcess:
                    break
                time.sleep(0.5)
        finally:
            if run.poll() is None:
                run.terminate()
            run.wait()
    print(f"exit {run.returncode}, {(time.perf_counter() - start) / 60:.1f} min, peak {peak / 2**30:.2f} GB")
    sys.exit(run.returncode)


if __name__ == "__main__":
    main()
