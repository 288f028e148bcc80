"""Which record a record is shown with: one of the same source that shares a category."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from .annotations import categories_of


class ContextIndex:
    """The records of a training set by source and category.

    Args:
        records: dataset dicts, each with its "source" (the number of its data set in DATASETS.TRAIN).
        things_only: per source, whether stuff counts as background there.
    """

    def __init__(self, records: Sequence[dict], things_only: Sequence[bool]):
        self.records = records
        by_category: dict[tuple[int, int], list[int]] = defaultdict(list)
        by_source: dict[int, list[int]] = defaultdict(list)
        self.things_only = things_only
        for number, record in enumerate(records):
            source = record["source"]
            by_source[source].append(number)
            for category in categories_of(record, things_only[source]) or ():
                by_category[source, category].append(number)
        # Arrays: forked workers share their pages, lists they would copy one by one.
        self._by_category = {key: np.array(numbers) for key, numbers in by_category.items()}
        self._by_source = {key: np.array(numbers) for key, numbers in by_source.items()}

    def draw(self, rng: np.random.Generator, record: dict) -> dict:
        """Another record that shares a category with this one; this one if there is no other.

        The category is drawn first, then the record, so that what shares a rare category is drawn as often
        as what shares a common one. Where records do not tell their categories (label PNGs), any record of
        the source: the caller draws again if they turn out to share none.
        """
        source = record["source"]
        categories = categories_of(record, self.things_only[source])
        if categories is None:
            numbers = self._by_source[source]
        else:
            known = self._shared(source, categories)
            if not known:
                return record
            numbers = self._by_category[source, known[rng.integers(len(known))]]
        other = self.records[int(numbers[rng.integers(len(numbers))])]
        if other["file_name"] == record["file_name"] and len(numbers) > 1:
            other = self.records[int(numbers[rng.integers(len(numbers))])]
        return other

    def _shared(self, source: int, categories: Iterable[int]) -> list[int]:
        """Those of the categories that another record of the source has too, in order."""
        return sorted(c for c in categories if len(self._by_category.get((source, c), ())) > 1)
