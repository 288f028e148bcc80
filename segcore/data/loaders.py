"""Data loaders over Detectron2's, with the mapper chosen by name."""

from __future__ import annotations

from detectron2.data import (
    DatasetCatalog,
    build_detection_test_loader,
)
from fvcore.common.registry import Registry

MAPPER_REGISTRY = Registry("MAPPER")
MAPPER_REGISTRY.__doc__ = """
Classes that turn a dataset dict into a model's input, `Mapper(cfg, is_train)`;
INPUT.DATASET_MAPPER_NAME names one.
"""


def build_mapper(cfg, is_train: bool):
    """The mapper that INPUT.DATASET_MAPPER_NAME names.

    Raises:
        ValueError: no mapper of that name is registered.
    """
    name = cfg.INPUT.DATASET_MAPPER_NAME
    if name not in MAPPER_REGISTRY:
        known = ", ".join(sorted(known for known, _ in MAPPER_REGISTRY)) or "none: import oneformer.data or seggpt.data"
        raise ValueError(f"INPUT.DATASET_MAPPER_NAME is {name!r}; registered mappers: {known}")
    return MAPPER_REGISTRY.get(name)(cfg, is_train)


def build_test_loader(cfg, dataset_name: str):
    """A loader that gives each image of `dataset_name` once, one per step, split over the processes.

    Raises:
        ValueError: an unknown mapper or data set.
    """
    _check_names([dataset_name], "the data set to test on")
    return build_detection_test_loader(cfg, dataset_name, mapper=build_mapper(cfg, False))


def _check_names(names, key: str) -> None:
    if not names:
        raise ValueError(f"{key} is empty; name at least one registered data set")
    unknown = [name for name in names if name not in DatasetCatalog]
    if unknown:
        known = ", ".join(sorted(n for n in DatasetCatalog.list() if "panoptic" in n))
        raise ValueError(
            f"{key}: {unknown[0]!r} is not registered (segcore.data.register_panoptic does it); "
            f"known panoptic data sets: {known}"
        )
