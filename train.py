"""Explain a classifier from end to end: ``python train.py [experiment=...]``.

Compose the config, fit F if asked, discover the concepts, build and cache the graphs, distil the GRN, test it, write
the report. Returns the objective of a sweep.
"""

from __future__ import annotations

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pytorch_lightning import seed_everything

from vrx import stages
from vrx.explain.explainer import Explainer
from vrx.runtime import build, first_process, running, script


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@script
def main(cfg: DictConfig) -> float:
    """Run every stage; what an earlier run with the same settings finished is read from the cache."""
    seed_everything(cfg.seed, workers=True, verbose=False)
    with running(cfg, Path(HydraConfig.get().runtime.output_dir)) as run:
        with run.stage("data"):
            source = build(cfg.data)
        with run.stage("classifier"):
            classifier, spec = stages.build_classifier(run, source)
        with run.stage("concepts"):
            extractor = stages.build_extractor(cfg)
            bank = stages.build_bank(run, source, classifier, extractor)
            stages.save_galleries(run, bank)
        with run.stage("graphs"):
            builder, data = stages.build_graphs(run, source, classifier, bank, extractor)
        with run.stage("distillation"):
            grn = stages.distil(run, data, builder)
        if not first_process():  # the first process does the rest
            return run.objective
        with run.stage("evaluation"):
            method = stages.evaluate(run, data, grn)
        grn = grn.to(classifier.device)
        explainer = Explainer(classifier, builder, grn, data.editor, method, {"run": str(run.folder)})
        with run.stage("report"):
            page = stages.report(run, source, data, explainer)
        run.write_metrics()
        explainer.save(run.folder, spec)  # the last: it makes the folder a finished run
        stages.summarise(run, page)
        return run.objective


if __name__ == "__main__":
    main()
