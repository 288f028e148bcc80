"""Fixed lists of few-shot episodes: the same seed, the same questions, for every model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Episode(NamedTuple):
    """Numbers of records: one question, and its examples in the order in which few shots take them."""

    category: int
    query: int
    supports: tuple[int, ...]


def draw_episodes(
    members: dict[int, Sequence[int]], count: int, shots: int, seed: int, *, repeat: bool = False
) -> list[Episode]:
    """Draw class, question and examples, uniformly (HSNet's protocol).

    Args:
        members: class -> numbers of the records that show it.
        shots: examples per episode; no record is its own example, nor twice one.
        repeat: allow an example twice where a class has too few records; otherwise such classes are left out.

    Raises:
        ValueError: if no class has enough records.
    """
    needed = 2 if repeat else shots + 1
    classes = sorted(c for c, numbers in members.items() if len(numbers) >= needed)
    if not classes:
        raise ValueError(
            f"no class of {len(members)} has {needed} pictures, which {shots} examples and a question need"
        )
    rng = np.random.default_rng(seed)
    episodes = []
    for _ in range(count):
        category = classes[rng.integers(len(classes))]
        numbers = members[category]
        query = int(numbers[rng.integers(len(numbers))])
        others = [int(n) for n in numbers if n != query]
        supports = rng.choice(others, shots, replace=len(others) < shots)
        episodes.append(Episode(category, query, tuple(int(s) for s in supports)))
    return episodes


def ask_each_once(members: dict[int, Sequence[int]], shots: int, seed: int) -> list[Episode]:
    """Every record of every class is the question once (FSS-1000's protocol); only the examples are drawn.

    Raises:
        ValueError: if a class has too few records.
    """
    rng = np.random.default_rng(seed)
    episodes = []
    for category, numbers in sorted(members.items()):
        if len(numbers) <= shots:
            raise ValueError(f"class {category} has {len(numbers)} pictures; {shots} examples and a question need more")
        for query in numbers:
            others = [int(n) for n in numbers if n != query]
            supports = rng.choice(others, shots, replace=False)
            episodes.append(Episode(category, int(query), tuple(int(s) for s in supports)))
    return episodes


def draw_examples(members: dict[int, Sequence[int]], shots: int, seed: int) -> dict[int, list[int]]:
    """`shots` records of each class, or all that it has: class -> numbers."""
    rng = np.random.default_rng(seed)
    return {
        category: [int(n) for n in rng.choice(numbers, min(shots, len(numbers)), replace=False)]
        for category, numbers in sorted(members.items())
    }


def members_by_category(categories: Sequence[set[int]]) -> dict[int, list[int]]:
    """Record -> classes, turned round: class -> numbers of its records, ascending."""
    members = defaultdict(list)
    for number, found in enumerate(categories):
        for category in found:
            members[category].append(number)
    return dict(members)
