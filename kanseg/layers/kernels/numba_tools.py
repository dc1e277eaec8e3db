"""What the kernels of learned activations on a CPU share. They are compiled by Numba: one pass over
memory forward and one backward.

Polynomials and tables are a handful of operations a value. As operations of PyTorch each of them is
a pass over memory of its own, which took three to five times as long as SiLU (measured); here they
take little more than SiLU. Numba needs no compiler on the user's machine. Where it is missing,
`horner` and `lookup` compute the same by PyTorch's operations.

Arrays: x, grad and y, which may hold sigmoids first, are (R, n), rows of one channel each; row r
has the function of channel r mod C.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numba
import numpy as np
import torch
from numba import types
from numba.extending import intrinsic
from torch import Tensor

# NaN and infinity must stay what they are, so that not all of "fast" is allowed.
FAST = {"reassoc", "contract", "nsz", "arcp"}
CACHED = 1 << 18  # entries that are computed together, for each thread
PARALLEL_FROM = 1 << 16  # entries for each thread, below which a thread costs more than it does
SHORTEST_ROW = 32  # of values of one channel that lie together; shorter rows are gathered first
FLOAT = np.float32
ZERO, ONE = FLOAT(0), FLOAT(1)
LOG2_E = FLOAT(1 / math.log(2))
EXP2 = [FLOAT(math.log(2) ** n / math.factorial(n)) for n in range(7)]  # Taylor: error 1e-7
_, E1, E2, E3, E4, E5, E6 = EXP2
HALF, LOWEST, HIGHEST = FLOAT(0.5), FLOAT(-126), FLOAT(126)


# Compiled at the first call of a process, in about a second; Numba's cache on disk would have to be
# trusted, and looked after when it is damaged or cannot be written.
jit = numba.njit(nogil=True, fastmath=FAST, error_model="numpy")


@intrinsic
def _float_of_bits(typing, bits):  # noqa: ANN001, ANN202 - Numba's own protocol
    def generate(context, builder, signature, arguments):  # noqa: ANN001, ANN202
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.int32), generate


@numba.njit(inline="always")
def sigmoid(x):  # noqa: ANN001, ANN202
    """1 / (1 + 2^z) with z = -x / ln 2; written out, since a library's exp is not vectorized."""
    z = -x * LOG2_E
    # Not min and max, which lose NaN.
    z = LOWEST if z < LOWEST else z
    z = HIGHEST if z > HIGHEST else z
    whole = np.floor(z + HALF)
    f = z - whole
    power = ONE + f * (E1 + f * (E2 + f * (E3 + f * (E4 + f * (E5 + f * E6)))))
    bits = np.int32((np.int32(whole) + np.int32(127)) << np.int32(23))
    return ONE / (ONE + power * _float_of_bits(bits))


def lies_by_sample(x: Tensor) -> bool:
    """True if the values of one channel of a sample lie together, enough of them to be a row."""
    return x.dim() > 2 and x.is_contiguous() and x.numel() >= SHORTEST_ROW * x.shape[0] * x.shape[1]


def rows(x: Tensor, by_sample: bool) -> Tensor:
    """x (B, C, *S) as float32 rows of one channel each: (B * C, S), or (C, B * S)."""
    x = x.detach().float()
    if by_sample:
        return x.contiguous().view(x.shape[0] * x.shape[1], -1)
    return x.movedim(1, 0).reshape(x.shape[1], -1).contiguous()


def from_rows(values: Tensor, x: Tensor, by_sample: bool) -> Tensor:
    """Values in rows as a tensor like x (B, C, *S)."""
    if by_sample and x.dtype == torch.float32:
        return values.view(x.shape)
    y = torch.empty_like(x)
    moved = y if by_sample else y.movedim(1, 0)
    moved.copy_(values.view(moved.shape))
    return y


def run(kernel: Callable, x: Tensor, arguments: Callable[[int], tuple], sigmoid: bool) -> Tensor:
    """Call kernel(x, y, *arguments(part), start, stop) for all rows of x (R, n), several at a time;
    returns y (R, n), which the kernel writes. It finds there the sigmoids of x where they are asked
    for.

    PyTorch's sigmoid is faster than one in a kernel (0.5 against 1 ns a value); the rows are few
    enough for these values to stay in the cache.
    """
    num_rows, length = x.shape
    threads = torch.get_num_threads()
    step = max(1, CACHED * threads // length)
    y = torch.empty_like(x)
    arrays = x.numpy(), y.numpy()
    for first in range(0, num_rows, step):
        stop = min(first + step, num_rows)
        if sigmoid and stop - first == num_rows:
            torch.sigmoid(x, out=y)
        elif sigmoid:
            torch.sigmoid(x[first:stop], out=y[first:stop])
        parts = max(1, min(threads, stop - first, (stop - first) * length // PARALLEL_FROM))
        if parts == 1:
            kernel(*arrays, *arguments(0), first, stop)
            continue
        borders = np.linspace(first, stop, parts + 1).astype(int).tolist()
        pool = _pool(os.getpid())
        jobs = [
            pool.submit(kernel, *arrays, *arguments(i), borders[i], borders[i + 1])
            for i in range(parts)
        ]
        for job in jobs:
            job.result()
    return y


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads of this process; those of a parent do not live in its forked children."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="kanseg")
