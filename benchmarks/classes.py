"""What a photo costs as the number of classes grows: graphs of all classes, or of its most probable ones alone.

python -m benchmarks.classes [--classes 6 60 600] [--hypotheses none 5]

A small network with as many outputs as the largest number of classes, random weights, and a made-up bank: five visual
words a class, ten of which are seen; of these every class has eight as concepts. So a photo shows the same whatever the
number of classes. Every row runs in a process of its own. Seconds are of the CPU and one thread; with --device cuda, of
the wall (memory is the host's in any case).
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from benchmarks.workload import classifier, forward_seconds, median, natural_photos, pixels_of, word_bank
from vrx.api import EVIDENCE
from vrx.concepts.attention import GradientAttention
from vrx.concepts.candidates import WordExtractor
from vrx.data.memory import MemoryPhotos
from vrx.data.scg_datamodule import SCGDataModule, batch_of
from vrx.edits import Editor
from vrx.explain.explainer import Explainer
from vrx.graphs.scg import SCGBuilder
from vrx.models.additive import AdditiveGRN
from vrx.models.distillation import Distillation

COLUMNS = ["classes", "hypotheses", "bank MB", "forward s", "edits", "graphs s", "graphs peak MB", "cached kB",
           "GRN step ms", "explain s", "explain peak MB"]  # fmt: skip
BATCH, SHOWN = 16, 10
LOSSES = {"softmax_l1": 3.0, "logits": 1.0, "difference": 3.0, "correlation": 8.0, "coalition": 3.0, "interaction": 3.0}
MB = 2**20


def measure(args: argparse.Namespace, n: int, hypotheses: int | None) -> None:
    """Print one row: everything is of one photo, but the bank."""
    global clock
    torch.set_num_threads(args.threads)
    if args.device != "cpu":
        clock = time.perf_counter
    names = [f"class {c}" for c in range(n)]
    f = classifier(args.network, input_size=args.input_size, classes=names, outputs=max(args.classes)).to(args.device)
    pictures, editor = natural_photos(), Editor()
    x, pixels = pixels_of(f, pictures)
    x, bank = x.to(args.device), word_bank(f, shown=SHOWN, unseen=5 * n)
    extractor = WordExtractor(GradientAttention())
    regions = [extractor.segmenter(p) for p in pixels]
    builder = SCGBuilder(f, bank, extractor, editor, EVIDENCE, rest=True, relations=True, hypotheses=hypotheses)
    source = MemoryPhotos({name: pictures for name in names})
    data = SCGDataModule(source, builder, editor, "unused", Editor("inpaint"), coalitions=12)

    def graphs(photo: int) -> dict[str, Tensor]:
        with torch.no_grad():
            (_, local), = builder.problems(x[photo : photo + 1])  # fmt: skip
            return data._table(local, x[photo : photo + 1], [regions[photo]], "train")

    _, forward, _ = timed(lambda photo: forward_seconds(f, x[photo : photo + 1]), args.repeats)
    rows, seconds, peak = timed(graphs, args.repeats)
    cached = sum(value.numel() * value.element_size() for value in rows[0].values())
    edits = sum(float(row["valid"].sum() + row["coalition_members"].any(2).sum()) for row in rows) / len(rows)
    few = {} if builder.hypotheses is None else {"all_classes": n}
    grn = AdditiveGRN(builder.num_classes, builder.num_nodes, builder.node_features,
                      link_features=builder.link_features, **few)  # fmt: skip
    module = Distillation(grn, partial(torch.optim.AdamW, lr=1e-3), weights=LOSSES, variants_per_step=0)
    module.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    extra = {"label": torch.zeros(1, dtype=torch.long), "index": torch.zeros(1, dtype=torch.long)}
    table = {k: torch.cat([rows[i % len(rows)][k] for i in range(BATCH)]) for k in rows[0]}
    batch = batch_of(table | {k: v.expand(BATCH) for k, v in extra.items()})

    def step(_: int) -> None:
        module.training_step(batch, 0).backward()

    _, stepped, _ = timed(step, args.repeats)
    explainer = Explainer(f, builder, grn.to(args.device), editor)
    _, explained, explained_peak = timed(lambda photo: explainer.explain_input(x[photo], measure=True), args.repeats)
    size = sum(v.nbytes for v in [bank.centroids, bank.exemplars, *bank.state.values()]) / MB
    kept, step_ms = f"{cached / 2**10:.0f}", f"{1000 * stepped / BATCH:.1f}"
    cells = [n, hypotheses or "all", f"{size:.1f}", f"{forward:.3f}", f"{edits:.0f}", f"{seconds:.2f}", f"{peak:.0f}",
             kept, step_ms, f"{explained:.2f}", f"{explained_peak:.0f}"]  # fmt: skip
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


clock = time.process_time


def timed(call: Callable[[int], Any], repeats: int) -> tuple[list[Any], float, float]:
    """Results of a call for each photo, median of its seconds, warm, and by how much memory peaks above before, MB."""
    call(0)
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed does not count
    before = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")  # from now on the peak is this call's
    results, seconds = [], []
    for repeat in range(repeats):
        start = clock()
        results.append(call(repeat % 4))
        seconds.append(clock() - start)
    peak = (
        next(
            int(line.split()[1])
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("VmHWM")
        )
        * 1024
    )
    return results, median(seconds), (peak - before) / MB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", nargs="+", type=int, default=[6, 60, 600])
    parser.add_argument("--hypotheses", nargs="+", default=["5"], help="numbers, or none: all classes")
    parser.add_argument("--network", default="timm/resnet10t")
    parser.add_argument("--input-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        measure(args, int(args.row[0]), None if args.row[1] == "none" else int(args.row[1]))
        return
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
    for hypotheses in args.hypotheses:
        for n in args.classes:
            row = [sys.executable, "-m", "benchmarks.classes", *sys.argv[1:], "--row", str(n), hypotheses]
            subprocess.run(row, check=True)


if __name__ == "__main__":
    main()
