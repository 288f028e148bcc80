"""Training batches as a function of (seed, iteration): what makes a resumed run exact.

The stream of samples is `shuffle(range(size)) + shuffle(range(size)) + ...`, drawn
from one seed. Sample number n of that stream carries a seed of its own, derived
from (seed, n); its augmentation draws from that and from nothing else. So batch b
is the same whether the run started at batch 0 or at batch b, with any number of
loader workers, and whether one process takes it or several share it.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler


def derive_seed(*numbers: int) -> int:
    """A well-mixed 63-bit seed from non-negative integers; another tuple, another stream."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_everything(seed: int) -> None:
    """Seed python's, numpy's and torch's (CPU and CUDA) global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def sample_randomness(seed: int) -> Iterator[None]:
    """Within the block the global CPU generators start from `seed`; afterwards they are as before."""
    saved = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # Not torch.manual_seed: that would reseed the CUDA generators too, which nobody restores.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])
        torch.set_rng_state(saved[2])


class Sample(NamedTuple):
    """One draw of the stream: which item, and the seed of its augmentation."""

    index: int
    seed: int


class ReplayBatchSampler(Sampler):
    """An endless stream of this process's batches, which can start at any batch.

    Args:
        size: number of items in the data set.
        batch_size: images per batch over all processes.
        seed: of the whole stream; the same in every process.
        rank, world_size: this process takes members rank, rank + world_size, ... of each batch.
        groups: (size,) ints or None. If given, a batch holds items of one group only
            (landscape and portrait pictures apart, to save padding).
        sources, weights: (size,) ints from 0, and a weight for each of them, or None. If given, each draw
            takes a source with a probability in proportion to its weight, and of that the next item of a
            shuffled pass of its own; without them every item comes once in each pass.

    Raises:
        ValueError: if the data set is empty or the batch cannot be shared evenly.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        groups: Sequence[int] | None = None,
        sources: Sequence[int] | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        if size < 1:
            raise ValueError("the training set has no images")
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(
                f"SOLVER.IMS_PER_BATCH is {batch_size}; expected a positive multiple of the "
                f"number of processes, {world_size}"
            )
        if groups is not None and len(groups) != size:
            raise ValueError(f"got {len(groups)} group labels for {size} images")
        self.pools = None if weights is None else _pools(sources, weights, size)
        self.weights = weights
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.groups = groups
        self.first_batch = 0

    def start_at(self, batch: int, seed: int) -> None:
        """Make the next iteration begin with batch number `batch` of the stream of `seed`."""
        self.first_batch = batch
        self.seed = seed

    def __iter__(self) -> Iterator[list[Sample]]:
        # Skipping walks over integers only: a million batches take about a second.
        for batch in itertools.islice(self._global_batches(), self.first_batch, None):
            mine = batch[self.rank :: self.world_size]
            yield [Sample(index, derive_seed(self.seed, number)) for number, index in mine]

    def _indices(self) -> Iterator[int]:
        if self.pools is None:
            return _passes(range(self.size), self.seed)
        streams = [_passes(pool, derive_seed(self.seed, k)) for k, pool in enumerate(self.pools)]
        return (next(streams[k]) for k in _draws(self.weights, self.seed))

    def _global_batches(self) -> Iterator[list[tuple[int, int]]]:
        open_batches: dict[int, list[tuple[int, int]]] = {}
        for number, index in enumerate(self._indices()):
            group = 0 if self.groups is None else self.groups[index]
            batch = open_batches.setdefault(group, [])
            batch.append((number, index))
            if len(batch) == self.batch_size:
                yield open_batches.pop(group)


def _passes(items: Sequence[int], seed: int) -> Iterator[int]:
    """The items in one random order after the other, without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from (items[i] for i in torch.randperm(len(items), generator=generator).tolist())


def _draws(weights: Sequence[float], seed: int) -> Iterator[int]:
    """Numbers of weights, each drawn in proportion to its weight, without end."""
    generator = torch.Generator().manual_seed(seed)
    shares = torch.tensor(weights, dtype=torch.float64)
    while True:
        yield from torch.multinomial(shares, 4096, replacement=True, generator=generator).tolist()


def _pools(sources: Sequence[int], weights: Sequence[float], size: int) -> list[list[int]]:
    """The items of each source."""
    if len(sources) != size or min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(f"got {len(sources)} sources for {size} images, and weights {list(weights)} >= 0, not all 0")
    pools: list[list[int]] = [[] for _ in weights]
    for item, source in enumerate(sources):
        pools[source].append(item)
    empty = [k for k, pool in enumerate(pools) if not pool and weights[k] > 0]
    if empty:
        raise ValueError(f"source {empty[0]} of the training set has a weight of {weights[empty[0]]} and no image")
    return pools


class ReplayDataset(Dataset):
    """Items of a sequence through a mapper, each with the randomness of its `Sample`."""

    def __init__(self, items: Sequence[dict], mapper: Callable[[dict], dict]) -> None:
        self.items = items
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, sample: Sample) -> dict:
        item = self.items[sample.index]
        with sample_randomness(sample.seed):
            mapped = self.mapper(item)
        if mapped is None:
            # Taking another image instead would hide the fault and break the replay.
            raise ValueError(f"the data-set mapper returned None for {item.get('file_name', item)!r}")
        return mapped


def orientation_groups(items: Sequence[dict]) -> list[int]:
    """0 for landscape pictures, 1 for the others, from the items' width and height."""
    return [0 if item["width"] > item["height"] else 1 for item in items]


def _as_list(batch: list[dict]) -> list[dict]:
    return batch


def build_replay_loader(
    items: Sequence[dict], mapper: Callable[[dict], dict], sampler: ReplayBatchSampler, num_workers: int
) -> DataLoader:
    """An endless loader of lists of mapped items."""
    return DataLoader(
        ReplayDataset(items, mapper),
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=_as_list,
        # Its own generator: making the iterator must not draw from the model's.
        generator=torch.Generator().manual_seed(0),
    )
