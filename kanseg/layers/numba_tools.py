"""What the kernels of learned activations on a CPU share. They are compiled by Numba: one pass over
memory forward and one backward.

Polynomials and tables are a handful of operations a value. As operations of PyTorch each of them is
a pass over memory of its own, which took three to five times as long as SiLU (measured); here they
take little more than SiLU. Numba needs no compiler on the user's machine. Where it is missing,
`kanseg.layers.horner` and `kanseg.layers.lookup` compute the same by PyTorch's operations.

Arrays: x, grad, y are (R, n), rows of one channel each; row r has the function of channel r mod C.
"""

from __future__ import annotations

import math
import os
import threading
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
CACHED = 1 << 17  # entries that are computed together, for each thread
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


def empty_rows(x: Tensor, by_sample: bool) -> tuple[Tensor, Tensor]:
    """A tensor like x, and rows for its values: of its own memory where the layouts agree."""
    y = torch.empty_like(x)
    if by_sample and x.dtype == torch.float32:
        return y, y.view(x.shape[0] * x.shape[1], -1)
    count = x.shape[0] * x.shape[1] if by_sample else x.shape[1]
    return y, torch.empty(count, x.numel() // count)


def from_rows(y: Tensor, values: Tensor, by_sample: bool) -> Tensor:
    """y, with the values of rows that `empty_rows` made for it."""
    if by_sample:
        return y if y.dtype == torch.float32 else y.copy_(values.view(y.shape))
    moved = y.movedim(1, 0)
    moved.copy_(values.view(moved.shape))
    return y


def run(kernel: Callable, x: Tensor, arguments: Callable[[int], tuple], sigmoid: bool) -> None:
    """Call kernel(*arguments(part), sigmoids, first, start, stop) for all rows of x (R, n), several
    at a time, with the sigmoids of the rows from `first` on: (rows, n), or one zero.

    PyTorch's sigmoid is faster than one in a kernel (0.5 against 1 ns a value); the rows are few
    enough for these values to stay in the cache.
    """
    num_rows, length = x.shape
    threads = torch.get_num_threads()
    step = max(1, CACHED * threads // max(length, 1))
    if sigmoid:
        buffer = _buffer(min(step, num_rows) * length).view(-1, length)
    else:
        buffer = torch.zeros(1, 1)
    for first in range(0, num_rows, step):
        stop = min(first + step, num_rows)
        if sigmoid:
            torch.sigmoid(x[first:stop], out=buffer[: stop - first])
        fixed = buffer.numpy(), first
        parts = max(1, min(threads, stop - first, (stop - first) * length // PARALLEL_FROM))
        if parts == 1:
            kernel(*arguments(0), *fixed, first, stop)
            continue
        borders = np.linspace(first, stop, parts + 1).astype(int).tolist()
        pool = _pool(os.getpid())
        jobs = [
            pool.submit(kernel, *arguments(i), *fixed, borders[i], borders[i + 1])
            for i in range(parts)
        ]
        for job in jobs:
            job.result()


def _buffer(size: int) -> Tensor:
    """Memory of this thread, kept from call to call: fresh pages would cost more than the work."""
    if size > 2 * CACHED * torch.get_num_threads():
        return torch.empty(size)  # of very long rows; too much to keep
    kept: dict[str, Tensor] = vars(_of_thread)
    if "buffer" not in kept or len(kept["buffer"]) < size:
        with torch.inference_mode(False):
            kept["buffer"] = torch.empty(size)
    return kept["buffer"][:size]


_of_thread = threading.local()


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads of this process; those of a parent do not live in its forked children."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="kanseg")
