"""A small world with known truth: photos of coloured parts, and a classifier that counts colours and nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vrx.bank import ConceptBank
from vrx.classifier.classifier import Classifier
from vrx.classifier.preprocessing import Preprocessing
from vrx.concepts.assembly import DiscoveryPhoto
from vrx.concepts.attention import GradCAMAttention, GradientAttention
from vrx.concepts.candidates import CandidateExtractor
from vrx.concepts.discovery import ConceptDiscovery
from vrx.concepts.encoders import PatchEncoder, PooledEncoder
from vrx.concepts.patches import Segmenter
from vrx.concepts.word_discovery import WordDiscovery
from vrx.data.images import PhotoFolder
from vrx.data.part_masks import PhotoFolderWithParts
from vrx.data.prepared import Segment
from vrx.data.scg_cache import SCGCache
from vrx.data.scg_datamodule import SCGDataModule
from vrx.edits import Editor
from vrx.graphs.scg import SCGBuilder
from vrx.graphs.variants import concept_variants
from vrx.structures import Patches

SIDE = 64
CLASSES = ("berry", "leaf", "sky")  # a red, a green, a blue disc; all have a yellow square
COLOURS = ((220, 30, 30), (30, 200, 30), (30, 30, 220))
YELLOW = (230, 220, 20)
RADIUS = 11
PARTS = ("disc", "square")
COUNTS = {"discovery": 14, "train": 5, "val": 3}


class ColourNet(nn.Module):
    """Logit of a class = how much of its colour there is. Yellow and brightness are seen, but count for nothing."""

    def __init__(self) -> None:
        super().__init__()
        look = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1], [1, 1, 1]])
        self.features = nn.Sequential(nn.Conv2d(3, 5, 4, 4), nn.ReLU(), nn.Conv2d(5, 5, 2, 2), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(5, 3)
        first, second = self.features[0], self.features[2]
        assert isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d)
        assert first.bias is not None and second.bias is not None
        with torch.no_grad():
            first.weight.copy_(look[:, :, None, None].expand(-1, -1, 4, 4) / 16)
            first.bias.copy_(torch.tensor([-0.6, -0.6, -0.6, -1.2, 3.0]))
            second.weight.copy_(torch.eye(5)[:, :, None, None].expand(-1, -1, 2, 2) / 4)
            second.bias.zero_()
            self.head.weight.copy_(20 * torch.eye(5)[:3])
            self.head.bias.copy_(torch.tensor([0.1, 0.0, -0.1]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.features(x)).flatten(1))


def colour_classifier() -> Classifier:
    preprocessing = Preprocessing((SIDE, SIDE), (SIDE, SIDE), "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return Classifier(ColourNet(), CLASSES, None, preprocessing)


def picture(label: int, part: tuple[int, int], square: tuple[int, int], seed: int) -> Image.Image:
    """Smooth grey noise with a disc of the class' colour at ``part`` and a yellow square at ``square`` (x, y)."""
    rng = np.random.default_rng(seed)
    grey = Image.fromarray(rng.integers(60, 190, (6, 6), dtype=np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pixels = np.repeat(np.asarray(grey)[..., None], 3, axis=2).copy()
    pixels[square[1] - 6 : square[1] + 6, square[0] - 6 : square[0] + 6] = YELLOW
    pixels[disc(part)] = COLOURS[label]
    return Image.fromarray(pixels)


def disc(part: tuple[int, int]) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    inside: np.ndarray = (x - part[0]) ** 2 + (y - part[1]) ** 2 <= RADIUS**2
    return inside


def part_of(path: str) -> np.ndarray:
    """Pixels of the class' part, from the file's name."""
    found = re.search(r"x(\d+)y(\d+)", path)
    assert found
    return disc((int(found[1]), int(found[2])))


def write_tree(root: Path, train: int = 22, val: int = 4) -> Path:
    rng = np.random.default_rng(7)
    for split, count in (("train", train), ("val", val)):
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for k in range(count):
                part = (int(rng.integers(14, 50)), int(rng.integers(14, 50)))
                square = ((part[0] + 32) % SIDE, (part[1] + 32) % SIDE)
                square = (min(max(square[0], 7), SIDE - 7), min(max(square[1], 7), SIDE - 7))
                image = picture(label, part, square, seed=1000 * label + k + 100 * len(split))
                image.save(folder / f"{k:03d}_x{part[0]}y{part[1]}.png")
    return root


def photo_folder(root: Path) -> PhotoFolder:
    return PhotoFolder(root, list(CLASSES), **COUNTS)


def with_labels(root: Path) -> Path:
    """Label PNGs for all photos of a tree: the disc is part 1, the yellow square part 2."""
    for photo in sorted(root.glob("*/*/*.png")):
        pixels = np.asarray(Image.open(photo)).astype(int)
        labels = (np.abs(pixels - YELLOW).sum(2) == 0) * 2
        labels[part_of(str(photo))] = 1
        (photo.parent / "parts").mkdir(exist_ok=True)
        Image.fromarray(labels.astype(np.uint8)).save(photo.parent / "parts" / photo.name)
    return root


def folder_with_parts(root: Path) -> PhotoFolderWithParts:
    return PhotoFolderWithParts(root, PARTS, classes=list(CLASSES), **COUNTS)


def make_extractor(tau: float = 0.0, encoder: PatchEncoder | None = None) -> CandidateExtractor:
    segmenter = Segmenter((10, 25), compactness=10.0, min_area=0.01)
    return CandidateExtractor(segmenter, GradCAMAttention(tau), encoder or PooledEncoder())


def make_discovery(extractor: CandidateExtractor, **kwargs: object) -> ConceptDiscovery:
    settings: dict[str, object] = {"num_concepts": 3, "clusters": 6, "min_patches": 5, "max_exemplars": 10}
    parts = (extractor.segmenter, extractor.attention, extractor.encoder, Editor("blur", 0.03))
    return ConceptDiscovery(*parts, **{**settings, **kwargs})  # type: ignore[arg-type]


def word_discovery(**kwargs: object) -> WordDiscovery:
    """The default way, by visual words."""
    return WordDiscovery(GradientAttention(0.25), Editor("blur", 0.03), **{"num_concepts": 3, **kwargs})  # type: ignore[arg-type]


def word_photos(f: Classifier, source: PhotoFolder) -> dict[str, list[DiscoveryPhoto]]:
    """The discovery photos as :class:`WordDiscovery` reads them."""
    return discovery_photos(f, source, word_discovery().extractor.segmenter)


def inputs(f: Classifier, source: PhotoFolder, segmenter: Segment, split: str) -> tuple[Tensor, list[Patches]]:
    x = torch.stack([f.transform(source.read(p)) for p in source.photos(split)])
    return x, [segmenter(pixels) for pixels in f.pixels(x)]


def discovery_photos(f: Classifier, source: PhotoFolder, segmenter: Segment) -> dict[str, list[DiscoveryPhoto]]:
    found: dict[str, list[DiscoveryPhoto]] = {name: [] for name in f.class_names}
    x, superpixels = inputs(f, source, segmenter, "discovery")
    for photo, image, patches in zip(source.photos("discovery"), x, superpixels, strict=True):
        found[f.class_names[photo.label]].append(DiscoveryPhoto(photo.path, image, patches))
    return found


def make_data(source: PhotoFolder, bank: ConceptBank, cache: Path, **kwargs: object) -> SCGDataModule:
    """A data module with everything built anew, as another run would."""
    f, editor = colour_classifier(), Editor("blur", 0.03)
    graph = {k: kwargs.pop(k) for k in ("sources", "layers", "rest", "hypotheses") if k in kwargs}
    builder = SCGBuilder(f, bank, make_extractor(), editor, **{"sources": ("head_area", "shape"), **graph})  # type: ignore[arg-type]
    settings: dict[str, object] = {"variants": 4, "shard_size": 4, "build_batch_size": 3, "workers": 0, "batch_size": 4}
    return SCGDataModule(source, builder, editor, cache, **{**settings, **kwargs})  # type: ignore[arg-type]


def graphs_table(builder: SCGBuilder, source: PhotoFolder, split: str) -> dict[str, Tensor]:
    """The graphs of a split as the cache would hold them, with every concept deleted once."""
    x, regions = inputs(builder.classifier, source, builder.extractor.segmenter, split)
    graphs = builder(x, regions)
    variants = concept_variants(builder.classifier, builder.editor, x, graphs)
    scg, labels = graphs.scg, torch.tensor([p.label for p in source.photos(split)])
    table = {"nodes": scg.nodes, "centroids": scg.centroids, "detected": scg.detected, "links": scg.links}
    return table | {"logits": graphs.logits, "label": labels, "drop": variants.drop, "of_node": variants.of_node}


def build_in_process(root: str, bank: str, cache: str) -> None:
    """What another process does: fill the cache. Importable, for ``multiprocessing`` to spawn."""
    torch.set_num_threads(1)
    make_data(photo_folder(Path(root)), ConceptBank.load(Path(bank)), Path(cache)).setup()


def build_in_rank(rank: int, world: int, root: str, bank: str, cache: str, meet: str) -> None:
    """One of several gloo processes that build the graphs together; leaves a file of the shards that it wrote."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{meet}", rank=rank, world_size=world)
    data = make_data(photo_folder(Path(root)), ConceptBank.load(Path(bank)), Path(cache))
    strategy = SimpleNamespace(barrier=lambda name: torch.distributed.barrier())
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world, strategy=strategy)  # type: ignore[assignment]
    written: list[str] = []
    write = SCGCache.write

    def noted(cache: SCGCache, shard: int, *args: object) -> None:
        written.append(f"{cache.key}-{shard}")
        write(cache, shard, *args)  # type: ignore[arg-type]

    SCGCache.write = noted  # type: ignore[method-assign]
    data.setup()
    (Path(cache) / f"rank{rank}").write_text(" ".join(written))
    torch.distributed.destroy_process_group()
