"""CPU time of a forward pass with freed memory kept for the next tensor, as the commands keep it, and without."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import timm
import torch

from vrx.machine import keep_freed_memory


def milliseconds(network: str, batch: int, side: int, repeats: int = 3) -> float:
    """CPU time of one photo in a forward pass of a batch, one thread, milliseconds."""
    torch.set_num_threads(1)
    model = timm.create_model(network, pretrained=False).eval()
    x = torch.randn(batch, 3, side, side)
    with torch.inference_mode():
        model(x)
        start = time.process_time()
        for _ in range(repeats):
            model(x)
    return 1e3 * (time.process_time() - start) / repeats / batch


def main() -> None:
    """Print a table; each figure comes from a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="mobilenetv2_100")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--one", nargs=2, metavar=("BATCH", "KEEP"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        batch, keep = (int(value) for value in arguments.one)
        if keep:
            keep_freed_memory()
        print(milliseconds(arguments.network, batch, arguments.side))
        return
    print("| photos in a batch | ms a photo, as it is | freed memory kept | times faster |\n|---|---|---|---|")
    command = [sys.executable, "-m", "benchmarks.freed_memory", "--network", arguments.network]
    for batch in arguments.batches:
        found = []
        for keep in ("0", "1"):
            one = [*command, "--side", str(arguments.side), "--one", str(batch), keep]
            found.append(float(subprocess.run(one, check=True, capture_output=True, text=True).stdout))
        print(f"| {batch} | {found[0]:.1f} | {found[1]:.1f} | {found[0] / found[1]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
