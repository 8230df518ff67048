"""How long one new photo takes to explain, warm, beside the plain forward passes that it needs and the superpixels.

python -m benchmarks.explain_latency [--precision bf16]
"""

from __future__ import annotations

import argparse
import time

import torch

from benchmarks.workload import builder, classifier, counting, forward_seconds, median, natural_photos, pixels_of
from vrx.edits import Editor
from vrx.explain.explainer import Explainer
from vrx.models.grn import GRN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="timm/legacy_xception")
    parser.add_argument("--input-size", type=int)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--method", default="knockout", choices=["knockout", "gradient"])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    f = classifier(args.network, args.precision, args.input_size)
    made = builder(f, "words")
    grn = GRN(len(f.class_names), made.num_nodes, made.node_features)
    explainer = Explainer(f, made, grn, Editor("blur", 0.027), args.method)
    photo = natural_photos()[0]
    x, pixels = pixels_of(f, [photo])
    with counting(f) as passes:
        explainer.explain(photo)
    edits = passes.forward - 2  # the photo and its reference
    batch = x.expand(max(edits, 1), -1, -1, -1).contiguous()
    rows = []
    for _ in range(args.repeats):
        alone, together = forward_seconds(f, x), forward_seconds(f, batch)
        start = time.perf_counter()
        made.extractor.segmenter(pixels[0])
        superpixels = time.perf_counter() - start
        start = time.perf_counter()
        explainer.explain(photo)
        total = time.perf_counter() - start
        asked = alone + edits * together + superpixels
        rows.append(
            (total, superpixels, alone, together, total / asked, total / (asked + alone * (1 + 2 * passes.backward)))
        )
    total, superpixels, alone, together, ratio, full = (median(column) for column in zip(*rows, strict=True))
    print(
        f"{args.network} {args.precision}, {torch.get_num_threads()} threads, {args.method}, median of {args.repeats}"
    )
    print(f"explain                          {total:.2f} s")
    print(f"superpixels                      {superpixels:.3f} s")
    print(f"forward of F, 1 photo / batched  {alone:.3f} / {together:.3f} s a photo")
    print(f"edits asked; backward passes     {edits}; {passes.backward}")
    print(f"x (1 + edits) forward + superpixels                      {ratio:.2f}")
    print(f"x the same + reference + backward passes as 2 forwards   {full:.2f}")


if __name__ == "__main__":
    main()
