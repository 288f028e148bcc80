"""Intersections and unions over episodes (HSNet's protocol, arXiv:2104.01538, sec. 5).

mIoU: per class the intersections over the unions of all its episodes, then the mean over the classes.
FB-IoU: the same over the two classes "foreground" and "background", whatever the class asked for.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np


class OverlapCounter:
    """Sums up the overlaps of predicted and true masks, by class."""

    def __init__(self):
        self._foreground: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(2, np.int64))
        self._background = np.zeros(2, np.int64)
        self.episodes = 0

    def add(self, category: int, predicted: np.ndarray, truth: np.ndarray, valid: np.ndarray | None = None) -> None:
        """Count one episode.

        Args:
            predicted, truth: (H, W) bool. valid: (H, W) bool, False where nothing counts.

        Raises:
            ValueError: if the shapes differ.
        """
        if predicted.shape != truth.shape:
            raise ValueError(f"the prediction is {predicted.shape} (height, width), the truth {truth.shape}")
        if valid is not None:
            predicted, truth = predicted[valid], truth[valid]
        self._foreground[category] += _overlap(predicted, truth)
        self._background += _overlap(~predicted, ~truth)
        self.episodes += 1

    def merge(self, other: OverlapCounter) -> None:
        """Add what another process counted."""
        for category, counts in other._foreground.items():
            self._foreground[category] += counts
        self._background += other._background
        self.episodes += other.episodes

    def __getstate__(self) -> tuple:
        return dict(self._foreground), self._background, self.episodes

    def __setstate__(self, state: tuple) -> None:
        self.__init__()
        self._foreground.update(state[0])
        self._background, self.episodes = state[1:]

    def class_iou(self) -> dict[int, float]:
        """Percent per class; a class whose union is empty has none."""
        return {c: 100 * i / u for c, (i, u) in sorted(self._foreground.items()) if u}

    def results(self) -> dict[str, float]:
        """{"mIoU", "FB-IoU": percent, "episodes": count}; NaN where nothing was counted."""
        per_class = list(self.class_iou().values())
        foreground = sum(self._foreground.values(), np.zeros(2, np.int64))
        both = [100 * i / u if u else np.nan for i, u in (foreground, self._background)]
        return {
            "mIoU": float(np.mean(per_class)) if per_class else float("nan"),
            "FB-IoU": float(np.mean(both)),
            "episodes": self.episodes,
        }


def _overlap(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.array([(predicted & truth).sum(), (predicted | truth).sum()])
