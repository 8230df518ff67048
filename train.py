"""Explain a classifier from end to end: ``python train.py [experiment=...]``.

Compose the config, fit F if asked, discover the concepts, build and cache the graphs, distil the GRN, test it, write
the report. Returns the objective of a sweep.
"""

from __future__ import annotations

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import seed_everything
from pytorch_lightning.utilities import rank_zero_only

from vrx.data.scg_datamodule import SCGDataModule
from vrx.edits import Editor
from vrx.explain.explainer import Explainer
from vrx.graphs.scg import SCGBuilder
from vrx import runtime


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@runtime.script
def main(cfg: DictConfig) -> float:
    """Run every stage; what an earlier run with the same settings finished is read from the cache."""
    runtime.quiet_libraries()
    seed_everything(cfg.seed, workers=True, verbose=False)
    run = runtime.Run(cfg, Path(HydraConfig.get().runtime.output_dir))

    with run.stage("data"):
        source = instantiate(cfg.data)
    with run.stage("classifier"):
        classifier, spec = runtime.build_classifier(run, source)
    with run.stage("concepts"):
        extractor = runtime.build_extractor(cfg)
        bank = runtime.build_bank(run, source, classifier, extractor)
        runtime.save_galleries(run, bank)
    with run.stage("graphs"):
        editor = Editor(cfg.concepts.fill, cfg.concepts.margin)
        graph = cfg.graph
        builder = SCGBuilder(classifier, bank, extractor, editor, graph.sources, graph.layers, graph.rest)
        data = SCGDataModule(
            source,
            builder,
            editor,
            cfg.paths.cache_dir,
            second_editor=Editor(cfg.concepts.second_fill, cfg.concepts.margin),
            masking=graph.masking,
            variants=graph.variants,
            batch_size=cfg.model.batch_size,
            build_batch_size=graph.build_batch_size,
            workers=graph.workers,
            seed=cfg.seed,
        )
        if cfg.trainer.get("strategy") is None:  # with several processes each builds its share when training starts
            data.setup()
    with run.stage("distillation"):
        grn = runtime.distil(run, data, classifier)
    if rank_zero_only.rank == 0:
        with run.stage("evaluation"):
            method = runtime.evaluate(run, data, grn)
        explainer = Explainer(classifier, builder, grn, editor, method, {"run": str(run.folder)})
        explainer.save(run.folder, spec)
        with run.stage("report"):
            page = runtime.report(run, source, data, explainer)
        run.finish()
        runtime.summarise(run, page)
    return float(run.metrics.get(cfg.objective, float("nan")))


if __name__ == "__main__":
    main()
