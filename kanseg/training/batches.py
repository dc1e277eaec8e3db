"""Which samples are in which batch: a function of (seed, epoch) alone, so that a run can go on in
the middle of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


class BatchPlan:
    """Batches of (epoch, index) keys for one process; the order of an epoch depends on (seed,
    epoch) only.

    Every process gets the same number of samples: the order is continued from its start until it
    divides evenly.

    Args:
        num_samples: in the training set.
        batch_size: keys a batch; the last one of an epoch may be smaller, and a single key left
            over joins the batch before it (a batch norm learns nothing from one).
        seed: of the order.
        rank, world_size: this process and their number.
    """

    def __init__(
        self, num_samples: int, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1
    ):
        self.num_samples, self.batch_size = num_samples, batch_size
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.epoch = self.start = 0

    @property
    def batches_per_epoch(self) -> int:
        """Batches of a whole epoch, the same on every process."""
        mine = -(-self.num_samples // self.world_size)
        alone = mine % self.batch_size == 1 and mine > 1 < self.batch_size
        return mine // self.batch_size if alone else -(-mine // self.batch_size)

    @property
    def sizes(self) -> tuple[int, int]:
        """Samples in the smallest and in the largest batch."""
        before = (self.batches_per_epoch - 1) * self.batch_size
        last = -(-self.num_samples // self.world_size) - before
        return (min(last, self.batch_size), max(last, self.batch_size)) if before else (last, last)

    def go_to(self, epoch: int, start: int = 0) -> None:
        """The next iteration yields the batches of `epoch` from number `start` on."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return self.batches_per_epoch - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_samples)
        mine = np.resize(order, -(-self.num_samples // self.world_size) * self.world_size)[
            self.rank :: self.world_size
        ]
        for number in range(self.start, self.batches_per_epoch):
            end = (
                len(mine)
                if number == self.batches_per_epoch - 1
                else (number + 1) * self.batch_size
            )
            chosen = mine[number * self.batch_size : end]
            yield [(self.epoch, int(index)) for index in chosen]
