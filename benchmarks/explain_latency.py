"""How long a finished run takes to explain a photo, everything measured, and to write what ``explain.py`` writes of it.

python -m benchmarks.explain_latency <run folder> <photo or folder> [--photos 12]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from benchmarks.workload import counting, forward_seconds, median, now
from vrx.commands.explain import find_images
from vrx.explain.explainer import Explainer
from vrx.machine import keep_freed_memory
from vrx.report.pages import write_explanation

FORMATS = (("html",), ("html", "png", "json"))
EDITS = 16  # photos a pass, as the classifier is asked about edits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--photos", type=int, default=12)
    args = parser.parse_args()
    keep_freed_memory()
    explainer = Explainer.load(args.run)
    photos = find_images(args.images)[: args.photos]
    explainer.explain(photos[0])  # warm
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for photo in photos:
            start = now()
            with counting(explainer.classifier) as passes:
                explanation = explainer.explain(photo)
            seconds = [now() - start]
            for formats in FORMATS:
                start = now()
                write_explanation(Path(folder), explanation, explainer.bank, formats)
                seconds.append(now() - start)
            asked = forward_seconds(explainer.classifier, explanation.x.expand(EDITS, -1, -1, -1).contiguous())
            rows.append((*seconds, passes.forward, passes.backward, asked))
    explained, page, all_formats, forward, backward, asked = (median(column) for column in zip(*rows, strict=True))
    print(f"{args.run}, {torch.get_num_threads()} threads, median of {len(rows)} photos")
    print(f"explain, everything measured   {explained:.2f} s; slowest {max(row[0] for row in rows):.2f} s")
    print(f"write the page                 {page:.2f} s")
    print(f"write page, PNG and JSON       {all_formats:.2f} s")
    print(f"passes of the classifier       {forward:.0f} forward, {backward:.0f} backward")
    print(f"one forward pass in a batch    {asked:.4f} s a photo; explain = {explained / asked:.0f} of them")


if __name__ == "__main__":
    main()
