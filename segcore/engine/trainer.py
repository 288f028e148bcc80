"""The training run: what Detectron2's DefaultTrainer wires up, wired for exact resumption."""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable

import torch
from detectron2.data import DatasetFromList
from detectron2.engine import DefaultTrainer, create_ddp_model, hooks
from detectron2.engine.train_loop import TrainerBase
from detectron2.evaluation import verify_results
from detectron2.modeling import build_model
from detectron2.utils import comm
from torch import nn

from segcore import solver
from segcore.checkpoint import Checkpointer
from segcore.data import build_test_loader
from segcore.data.catalog import make_datasets
from segcore.data.loaders import build_mapper
from segcore.data.training_set import load_training_set
from segcore.engine.ema import AverageWeights, WeightAverage
from segcore.engine.evaluation import detectron2_form, evaluate, log_table, report
from segcore.engine.hooks import EvalAfterSuccess, KeepHistory, WriteMetrics, build_writers
from segcore.engine.replay import ReplayBatchSampler, build_replay_loader, orientation_groups
from segcore.engine.sharding import ShardedCheckpointer, is_sharded, shard, whole_copy
from segcore.engine.step import StepTrainer, build_precision, unwrap
from segcore.evaluation import build_evaluator

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Trains the model that a config describes; evaluates it and reports at the end.

    An iteration is one optimizer step: `SOLVER.ACCUMULATE` batches of
    `SOLVER.IMS_PER_BATCH` images over all processes. Interrupted and resumed
    (`resume_or_load(True)`), a run continues with the weights, optimizer, schedule,
    batches, augmentation and dropout that it would have had.

    Args:
        cfg: frozen, validated (`segcore.engine.setup`).
    """

    def __init__(self, cfg) -> None:
        # DefaultTrainer's own constructor builds a CUDA-only loop; everything else of it is inherited.
        TrainerBase.__init__(self)
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        self.cfg = cfg
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER

        model = self.build_model(cfg)
        sharded = cfg.SOLVER.PARALLEL == "fsdp" and comm.get_world_size() > 1
        if sharded:
            shard(model, comm.get_world_size())
        optimizer = self.build_optimizer(cfg, model)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        # A negative SEED asks for a fresh one; the checkpoint keeps it.
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        self.sampler, loader = self.build_replay_loader(cfg, seed)
        self.average = WeightAverage(model, cfg.SOLVER.EMA.DECAY) if cfg.SOLVER.EMA.ENABLED else None
        self._trainer = StepTrainer(
            model if sharded else _distribute(model, cfg.SOLVER.STATIC_GRAPH and cfg.SOLVER.ACCUMULATE == 1),
            loader,
            optimizer,
            clipper=solver.build_gradient_clipper(cfg),
            precision=build_precision(cfg, torch.device(cfg.MODEL.DEVICE)),
            accumulate=cfg.SOLVER.ACCUMULATE,
            seed=seed,
        )
        averaged = {} if self.average is None else {"ema": self.average}
        checkpointer = ShardedCheckpointer if sharded else Checkpointer
        self.checkpointer = checkpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self), **averaged)
        self.register_hooks(self.build_hooks())

    # -- parts --------------------------------------------------------------------

    @classmethod
    def build_model(cls, cfg) -> nn.Module:
        """The model on its device, its size logged."""
        model = build_model(cfg)
        count = sum(p.numel() for p in model.parameters())
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        logger.info("%s: %.2f M parameters, %.2f M trained", type(model).__name__, count / 1e6, trained / 1e6)
        return model

    @classmethod
    def build_optimizer(cls, cfg, model: nn.Module) -> torch.optim.Optimizer:
        """See `segcore.solver.build_optimizer`."""
        return solver.build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer: torch.optim.Optimizer):
        """See `segcore.solver.build_lr_scheduler`."""
        return solver.build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_mapper(cls, cfg) -> Callable[[dict], dict]:
        """The training mapper that `INPUT.DATASET_MAPPER_NAME` names."""
        return build_mapper(cfg, is_train=True)

    @classmethod
    def build_replay_loader(cls, cfg, seed: int):
        """The sampler and the loader of the training batches; see `segcore.engine.replay`."""
        items, sources = _load_items(cfg)
        weights = list(cfg.DATASETS.TRAIN_WEIGHTS)
        sampler = ReplayBatchSampler(
            len(items),
            cfg.SOLVER.IMS_PER_BATCH,
            seed,
            rank=comm.get_rank(),
            world_size=comm.get_world_size(),
            groups=orientation_groups(items) if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None,
            sources=sources if weights else None,
            weights=weights or None,
        )
        # Serialised once and shared: forked workers do not copy the annotations.
        loader = build_replay_loader(
            DatasetFromList(items, copy=False), cls.build_mapper(cfg), sampler, cfg.DATALOADER.NUM_WORKERS
        )
        return sampler, loader

    @classmethod
    def build_train_loader(cls, cfg):
        """The training loader alone, from its first batch."""
        return cls.build_replay_loader(cfg, max(cfg.SEED, 0))[1]

    def build_hooks(self) -> list:
        """Timer, schedule, weight average, checkpoint, evaluation, writers, in this order."""
        cfg = self.cfg
        precise_bn = cfg.TEST.PRECISE_BN
        return [
            hook
            for hook in (
                hooks.IterationTimer(),
                hooks.LRScheduler(),
                hooks.PreciseBN(
                    cfg.TEST.EVAL_PERIOD, self.model, self.build_train_loader(cfg), precise_bn.NUM_ITER
                )
                if precise_bn.ENABLED
                else None,
                AverageWeights(self.average, unwrap(self.model)) if self.average is not None else None,
                KeepHistory(),
                hooks.PeriodicCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD)
                if comm.is_main_process() or is_sharded(self.model)
                else None,
                EvalAfterSuccess(cfg.TEST.EVAL_PERIOD, self._evaluate) if cfg.DATASETS.TEST else None,
                WriteMetrics(lambda start_iter: build_writers(cfg, start_iter))
                if comm.is_main_process()
                else None,
            )
            if hook is not None
        ]

    # -- running --------------------------------------------------------------------

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue from the last checkpoint of `OUTPUT_DIR` if there is one, else load `MODEL.WEIGHTS`."""
        super().resume_or_load(resume)
        if self.start_iter == 0:
            return
        self.sampler.start_at(self.start_iter * self._trainer.accumulate, self._trainer.seed)
        if self.average is not None and self.average.n_averaged == 0:
            logger.warning("the checkpoint holds no weight average: SOLVER.EMA starts from its weights")

    def train(self) -> OrderedDict | None:
        """Run to `SOLVER.MAX_ITER`; returns the final evaluation's results, if there is a test set."""
        if self.start_iter >= self.max_iter:
            logger.info("training had finished at iteration %d; evaluating it", self.start_iter)
            self._evaluate()
        else:
            TrainerBase.train(self, self.start_iter, self.max_iter)
        results = getattr(self, "_last_results", None)
        if not results:
            return None
        report(self.cfg, results)
        single = detectron2_form(results)
        if len(self.cfg.TEST.EXPECTED_RESULTS) and comm.is_main_process():
            verify_results(self.cfg, single)
        return single

    def _evaluate(self) -> dict:
        """Evaluate the averaged weights where there are some, else the model's."""
        if not self.cfg.DATASETS.TEST:
            return {}
        model = self.model if self.average is None else self.average.module
        if is_sharded(model):
            model = whole_copy(model, build_model(self.cfg)).train(model.training)
        self._last_results = evaluate(self.cfg, model)
        if self.iter < self.max_iter:  # `train` reports the final ones
            log_table(self._last_results)
        return detectron2_form(self._last_results)

    @classmethod
    def test(cls, cfg, model: nn.Module, evaluators=None) -> OrderedDict:
        """Evaluate, print the table, write `metrics_final.json`.

        Args:
            cfg: `DATASETS.TEST` and `TEST.TASKS` say on what.
            model: with its weights loaded.
            evaluators: as in Detectron2, one for each test set; then nothing is printed or written.

        Returns:
            The results of the only test set, or {data set: results}.
        """
        if evaluators is not None:
            return super().test(cfg, model, evaluators)
        results = evaluate(cfg, model)
        report(cfg, results)
        return detectron2_form(results)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name: str):
        """See `segcore.data.loaders.build_test_loader`."""
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name: str):
        """See `segcore.evaluation.build_evaluator`."""
        return build_evaluator(dataset_name, list(cfg.TEST.TASKS), cfg.OUTPUT_DIR)


def _load_items(cfg) -> tuple[list[dict], list[int]]:
    """The annotations of `DATASETS.TRAIN`, and the number of the set of each."""
    names = list(cfg.DATASETS.TRAIN)
    # The first process reads first: some sets are made on first use.
    if comm.is_main_process():
        make_datasets(names)
    comm.synchronize()
    # Images without a segment stay in: they teach what is not there.
    return load_training_set(names, cfg.DATASETS.CLASSES or None, cfg.DATASETS.CHECK_LABELS)


def _distribute(model: nn.Module, static_graph: bool) -> nn.Module:
    """Wrap for distributed training where there are several processes.

    With a static graph the order of gradients is learnt in the first step; that step may not be accumulated.
    """
    on_gpu = next(model.parameters()).device.type == "cuda"
    where = {} if on_gpu else {"device_ids": None}
    # The graph is the same in every step, so no search for unused parameters.
    return create_ddp_model(
        model,
        broadcast_buffers=False,
        find_unused_parameters=False,
        gradient_as_bucket_view=True,
        static_graph=static_graph,
        **where,
    )
