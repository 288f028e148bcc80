"""All tasks of a data set at once: one set of evaluators, one pass of the model over the images."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluators, inference_on_dataset
from torch import nn

from .cityscapes import CityscapesInstanceEvaluator, CityscapesSemanticEvaluator
from .ground_truth import PanopticGroundTruth
from .instance_evaluator import InstanceEvaluator
from .panoptic_evaluator import PanopticEvaluator
from .semantic_evaluator import SemanticEvaluator
from .submission import PackedEvaluators

_EVALUATORS = {
    "panoptic": PanopticEvaluator,
    "instance": InstanceEvaluator,
    "semantic": SemanticEvaluator,
}
_CITYSCAPES = {
    "panoptic": PanopticEvaluator,  # the rules and the numbers of cityscapesscripts' own
    "instance": CityscapesInstanceEvaluator,
    "semantic": CityscapesSemanticEvaluator,
}
# metadata.evaluator_type -> task -> evaluator; every other type has COCO's, which all measure all tasks.
_OF_TYPE = {
    "cityscapes_panoptic_seg": _CITYSCAPES,
    "cityscapes_instance": {"instance": CityscapesInstanceEvaluator},
    "cityscapes_sem_seg": {"semantic": CityscapesSemanticEvaluator},
    "coco": {"instance": InstanceEvaluator},
    "sem_seg": {"semantic": SemanticEvaluator},
}
ALL_TASKS = "all"


def build_evaluator(
    dataset_name: str,
    tasks: Sequence[str] = tuple(_EVALUATORS),
    output_dir: str | None = None,
    *,
    save_predictions: bool = False,
    distributed: bool = True,
    method: str = "model",
) -> DatasetEvaluators:
    """The evaluators of the asked tasks over one data set, sharing its decoded ground truth.

    Args:
        dataset_name: a registered data set.
        tasks: some of "panoptic", "instance", "semantic"; each adds "panoptic_seg", "segm", "sem_seg" to the
            results.
        output_dir: where predictions go if `save_predictions`, in the benchmark's form.
        method: what the names of COCO's submission files call the model.

    Raises:
        ValueError: an unknown task, a task twice, none at all, one that the labels cannot measure, or metadata
            that a task needs is missing.
    """
    options = {
        "save_predictions": save_predictions,
        "distributed": distributed,
        "ground_truth": PanopticGroundTruth(dataset_name),
    }
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type", None)
    evaluators = _OF_TYPE.get(kind, _EVALUATORS)
    for task in _checked(tasks):
        if task not in evaluators:
            raise ValueError(
                f"the labels of data set '{dataset_name}' (evaluator_type {kind!r}) cannot measure the {task} task, "
                f"only {', '.join(evaluators)}; change TEST.TASKS or DATASETS.TEST"
            )
    built = [evaluators[task](dataset_name, output_dir, **options) for task in _checked(tasks)]
    return PackedEvaluators(built, dataset_name, output_dir, method) if save_predictions else DatasetEvaluators(built)


def evaluate_tasks(
    model: nn.Module,
    data_loader: Iterable[list[dict]],
    dataset_name: str,
    tasks: Sequence[str] = tuple(_EVALUATORS),
    output_dir: str | None = None,
    *,
    save_predictions: bool = False,
    distributed: bool = True,
    method: str = "model",
) -> OrderedDict:
    """Run a model once over a data set and measure each task with its own task token.

    With several tasks every image is asked for "all": the model runs what the tasks share once, and decodes
    each result with that task's token. With one task, only that one is asked.

    Args:
        model: called with a list of input dicts that carry "task"; returns Detectron2's output dicts.
        data_loader: yields lists of input dicts, and has a length.

    Returns:
        {"panoptic_seg" | "segm" | "sem_seg": {metric: percent}} on the main process, {} on the others.
    """
    tasks = _checked(tasks)
    evaluator = build_evaluator(
        dataset_name,
        tasks,
        output_dir,
        save_predictions=save_predictions,
        distributed=distributed,
        method=method,
    )
    return inference_on_dataset(model, _WithTask(data_loader, tasks[0] if len(tasks) == 1 else ALL_TASKS), evaluator)


class _WithTask:
    """A data loader whose inputs ask for one given task."""

    def __init__(self, data_loader, task: str):
        self._data_loader, self._task = data_loader, task

    def __len__(self) -> int:
        return len(self._data_loader)

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in self._data_loader:
            yield [{**image, "task": self._task} for image in batch]


def _checked(tasks: Sequence[str]) -> list[str]:
    tasks = [tasks] if isinstance(tasks, str) else list(tasks)
    unknown = [task for task in tasks if task not in _EVALUATORS]
    if unknown or not tasks or len(set(tasks)) != len(tasks):
        raise ValueError(f"tasks to evaluate must be distinct and some of {sorted(_EVALUATORS)}, got {tasks}")
    return tasks
