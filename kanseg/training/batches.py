"""The batches of a training. They depend only on (seed, epoch), so a run can be resumed in the
middle of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


class BatchPlan:
    """A batch sampler for one process: batches of (epoch, index) keys.

    Every process gets the same number of samples: the order of an epoch is repeated from its start
    until it divides evenly.

    Args:
        num_samples: in the training set.
        batch_size: keys per batch; the last batch of an epoch may be smaller, and a single
            remaining key joins the batch before it (batch norm cannot train on one sample).
        seed: of the order, together with the epoch.
        rank: number of this process, from 0.
        world_size: number of processes.
    """

    def __init__(
        self, num_samples: int, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1
    ):
        self.num_samples, self.batch_size = num_samples, batch_size
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.epoch = self.start = 0

    @property
    def batches_per_epoch(self) -> int:
        """Batches of a whole epoch, the same in every process."""
        count, size = self.samples_per_process, self.batch_size
        if size > 1 and count > 1 and count % size == 1:
            return count // size  # the single sample joins the batch before it
        return -(-count // size)

    @property
    def samples_per_process(self) -> int:
        """Samples of a whole epoch, the same in every process."""
        return -(-self.num_samples // self.world_size)

    @property
    def sizes(self) -> tuple[int, int]:
        """Samples in the smallest and in the largest batch."""
        before = (self.batches_per_epoch - 1) * self.batch_size
        last = self.samples_per_process - before
        if not before:
            return last, last
        return min(last, self.batch_size), max(last, self.batch_size)

    def go_to(self, epoch: int, start: int = 0) -> None:
        """Start the next iteration at batch `start` of `epoch`."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return self.batches_per_epoch - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_samples)
        padded = np.resize(order, self.samples_per_process * self.world_size)
        mine = padded[self.rank :: self.world_size]
        for number in range(self.start, self.batches_per_epoch):
            end = (number + 1) * self.batch_size
            if number == self.batches_per_epoch - 1:
                end = len(mine)
            indices = mine[number * self.batch_size : end]
            yield [(self.epoch, int(index)) for index in indices]
