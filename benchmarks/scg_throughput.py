"""How fast graphs are made, by encoder, precision and node, beside F's plain forward pass: the limit.

python -m benchmarks.scg_throughput [--encoders pooled crop] [--precisions fp32 bf16] [--nodes evidence paper deep]
"""

from __future__ import annotations

import argparse
import resource

import torch

from benchmarks.workload import (
    STAGES,
    Clock,
    builder,
    classifier,
    count_cpu_time,
    counting,
    forward_seconds,
    median,
    natural_photos,
    now,
    pixels_of,
)
from vrx.structures import SCG

REFERENCE_S = 264.0  # the reference implementation on 2 cores: 44 s a photo and class, 6 classes
REFERENCE_PASS_S = 0.17  # a forward pass of Xception (fp32) on that machine, idle


def measure(args: argparse.Namespace, encoder: str, precision: str, node: str) -> None:
    """Print one row of the table; forward passes and graphs are timed in turn, so that both meet the same load."""
    f = classifier(args.network, precision, args.input_size)
    deep = [layer.name for layer in f.layers[-2:]] if node == "deep" else []
    made = builder(f, encoder, node == "paper", deep, args.relations)
    count = 1 if encoder == "crop" else args.batch
    x, pixels = pixels_of(f, natural_photos()[:count])
    segment = made.extractor.segmenter
    if args.warm:
        made(x, [segment(p) for p in pixels])
    totals, limits, rows, clock = [], [], [], Clock()
    clock.watch(made)
    plain = classifier(args.network, "fp32", args.input_size)
    with counting(f) as passes:
        for _ in range(args.repeats):
            limits.append((forward_seconds(plain, x), forward_seconds(f, x)))
            clock.seconds.clear()
            start = now()
            graphs = made(x, [made.extractor.segmenter(p) for p in pixels])
            total = now() - start
            clock.seconds["evidence"] = total - sum(clock.seconds.values())
            totals.append(total / count)
            rows.append([clock.seconds[stage] / count for stage in STAGES])
    assert isinstance(graphs.scg, SCG) and (encoder == "words" or bool(graphs.scg.detected.all()))
    photos = args.repeats * count
    forward, backward = passes.forward / photos - 1, passes.backward / photos
    took, exact = median(totals), median([a for a, _ in limits])
    own = median([b for _, b in limits])
    ratio = median([total / a for total, (a, _) in zip(totals, limits, strict=True)])
    cells = [
        encoder,
        precision,
        node,
        f"{sum(map(len, graphs.patches)) / count:.0f}",
        f"{took:.2f}",
        f"{1 / took:.2f}",
        *(f"{median([row[i] for row in rows]):.3f}" for i in range(len(STAGES))),
        f"{forward:.0f} + {backward:.0f}",
        f"{exact:.3f} / {own:.3f}",
        f"{took / (own * (forward + backward)):.2f}",
        f"{REFERENCE_S / took:.0f}",
        f"{REFERENCE_S / (ratio * REFERENCE_PASS_S):.0f}",
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f}",
    ]
    print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--encoders", nargs="+", default=["words", "pooled", "crop"], choices=["words", "pooled", "crop"]
    )
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--nodes", nargs="+", default=["evidence", "deep", "paper"])
    parser.add_argument("--relations", action="store_true", help="the graphs hold what pairs count for, as by default")
    parser.add_argument("--network", default="timm/legacy_xception")
    parser.add_argument("--input-size", type=int)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--warm", type=int, default=1, help="0: no untimed run first")
    parser.add_argument("--cpu-time", action="store_true", help="seconds computed, on one thread: for a busy machine")
    args = parser.parse_args()
    if args.cpu_time:
        args.threads = 1
        count_cpu_time()
    torch.set_num_threads(args.threads)
    names = ["encoder", "precision", "node", "patches", "s / photo", "photos / s", *(f"{s} s" for s in STAGES)]
    names += [
        "passes, forward + backward",
        "forward s, fp32 / own",
        "of the limit",
        "x reference",
        "x, load divided out",
    ]
    names += ["peak GB"]
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names), flush=True)
    for encoder in args.encoders:
        for precision in args.precisions:
            for node in args.nodes:
                measure(args, encoder, precision, node)


if __name__ == "__main__":
    main()
