"""SegGPT's evaluations; importing this registers them under the names that TEST.PROTOCOL takes.

counts.py     intersections and unions, mIoU, FB-IoU
episodes.py   fixed lists of few-shot episodes
few_shot.py   "few_shot": any registered data set by its classes
few_shot_sets.py   registers COCO-20i, PASCAL-5i, FSS-1000
semantic.py   "semantic_tuned" and "semantic_by_examples": all classes of a data set
panoptic.py   "panoptic_tuned": classes and objects by a tuned prompt each, merged
place_decoding.py   objects out of a painting by place
vos.py        clips after their first frame: DAVIS's numbers, submission files
vos_measures.py, vos_benchmarks.py
"""

from . import few_shot, panoptic, semantic  # noqa: F401  (its import registers)
from .few_shot_sets import register_few_shot_sets

__all__ = ["register_few_shot_sets"]
