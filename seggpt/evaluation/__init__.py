"""SegGPT's evaluations; importing this registers them under the names that TEST.PROTOCOL takes.

counts.py     intersections and unions, mIoU, FB-IoU
episodes.py   fixed lists of few-shot episodes
few_shot.py   "few_shot": COCO-20i, PASCAL-5i, FSS-1000 and whatever is registered
"""

from . import few_shot  # noqa: F401  (its import registers)
