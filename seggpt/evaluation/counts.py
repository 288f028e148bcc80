"""Intersections and unions over episodes (HSNet's protocol, arXiv:2104.01538, sec. 5).

mIoU: per class the intersections over the unions of all its episodes, then the mean over the classes.
FB-IoU: the same over the two classes "foreground" and "background", whatever the class asked for.
"""

from __future__ import annotations

import numpy as np

RESAMPLES = 1000


class OverlapCounter:
    """Keeps the overlaps of predicted and true masks, episode by episode."""

    def __init__(self):
        # Per episode: class, then intersection and union of the foreground, and of the background.
        self._rows: list[tuple[int, int, int, int, int]] = []

    @property
    def episodes(self) -> int:
        return len(self._rows)

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
        self._rows.append((category, *_overlap(predicted, truth), *_overlap(~predicted, ~truth)))

    def merge(self, other: OverlapCounter) -> None:
        """Add what another process counted."""
        self._rows += other._rows

    def class_iou(self) -> dict[int, float]:
        """Percent per class; a class whose union is empty has none."""
        rows = self._array()
        classes = np.unique(rows[:, 0])
        iou = _class_iou(rows, classes)
        return {int(c): float(v) for c, v in zip(classes, iou) if not np.isnan(v)}

    def results(self) -> dict[str, float]:
        """{"mIoU", "FB-IoU": percent, "mIoU+-": see `interval`, "episodes": count}; NaN where nothing was counted."""
        per_class = list(self.class_iou().values())
        sums = self._array()[:, 1:].sum(0)
        both = [100 * i / u if u else np.nan for i, u in (sums[:2], sums[2:])]
        low, high = self.interval()
        return {
            "mIoU": float(np.mean(per_class)) if per_class else float("nan"),
            "FB-IoU": float(np.mean(both)),
            "mIoU+-": (high - low) / 2,
            "episodes": self.episodes,
        }

    def interval(self, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
        """Where the mIoU of other episodes of the same kind would lie, by resampling these (bootstrap).

        It says how far the number would move with another list of episodes; what another training would give is
        another question.
        """
        rows = self._array()
        if not len(rows):
            return float("nan"), float("nan")
        rng = np.random.default_rng(seed)
        classes = np.unique(rows[:, 0])
        drawn = [np.nanmean(_class_iou(rows[rng.integers(0, len(rows), len(rows))], classes)) for _ in range(RESAMPLES)]
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def _array(self) -> np.ndarray:
        return np.array(self._rows, np.int64).reshape(-1, 5)


def _class_iou(rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Percent for each of the ascending classes, NaN where its union is empty."""
    places = np.searchsorted(classes, rows[:, 0])
    intersection, union = (np.bincount(places, rows[:, k], len(classes)) for k in (1, 2))
    return 100 * np.divide(intersection, union, out=np.full(len(classes), np.nan), where=union > 0)


def _overlap(predicted: np.ndarray, truth: np.ndarray) -> tuple[int, int]:
    return int((predicted & truth).sum()), int((predicted | truth).sum())
