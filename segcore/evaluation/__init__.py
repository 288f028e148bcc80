"""Evaluation of panoptic, instance and semantic segmentation on registered data sets."""

from .builder import build_evaluator, evaluate_tasks
from .instance_evaluator import InstanceEvaluator
from .panoptic_evaluator import PanopticEvaluator
from .panoptic_quality import PanopticStat, panoptic_quality
from .protocols import PROTOCOL_REGISTRY
from .results import metrics_table, write_metrics
from .semantic_evaluator import SemanticEvaluator

__all__ = [
    "PROTOCOL_REGISTRY",
    "InstanceEvaluator",
    "PanopticEvaluator",
    "PanopticStat",
    "SemanticEvaluator",
    "build_evaluator",
    "evaluate_tasks",
    "metrics_table",
    "panoptic_quality",
    "write_metrics",
]
