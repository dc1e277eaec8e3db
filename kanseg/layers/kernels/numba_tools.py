"""Shared code of the Numba kernels for learned activations on a CPU.

Each kernel makes one pass over memory forward and one backward. A polynomial or a table takes a
handful of operations per value; as PyTorch operations each of them would be a pass over memory, and
they took three to five times as long as SiLU (measured). The kernels take little more than SiLU.
They compute sigmoids themselves: PyTorch's are faster in the cache, but a pass for them would read
and write memory (per value 2.6 instead of 1.9 ns forward, 3.9 instead of 2.8 ns backward; SiLU
takes 1.8 and 2.2). Numba needs no compiler on the user's computer. Without Numba, `horner` and
`lookup` compute the same with PyTorch operations.

Arrays: x, grad and y are (R, n), with one channel per row; row r has the function of channel
r mod C.
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

# Not all of "fast": NaN and infinity must be kept.
FAST = {"reassoc", "contract", "nsz", "arcp"}
MIN_ENTRIES_PER_THREAD = 1 << 16  # with fewer, starting a thread costs more than it saves
MIN_ROW_LENGTH = 32  # shorter rows of one channel and sample are joined over the samples first
FLOAT = np.float32
ZERO, ONE = FLOAT(0), FLOAT(1)
LOG2_E = FLOAT(1 / math.log(2))
EXP2 = [FLOAT(math.log(2) ** n / math.factorial(n)) for n in range(7)]  # Taylor: error 1e-7
_, E1, E2, E3, E4, E5, E6 = EXP2
HALF = FLOAT(0.5)
LOWEST, HIGHEST = FLOAT(-126), FLOAT(128)  # 2^128 is infinite, so that x sigmoid(x) ends at 0


# Compiled at the first call of a process, in about a second. Numba's cache on disk is not used: it
# would have to be trusted, and repaired when it is damaged or cannot be written.
jit = numba.njit(nogil=True, fastmath=FAST, error_model="numpy")


@intrinsic
def _float_of_bits(typing, bits):  # noqa: ANN001, ANN202 - Numba's own protocol
    def generate(context, builder, signature, arguments):  # noqa: ANN001, ANN202
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.int32), generate


@numba.njit(inline="always")
def sigmoid(x):  # noqa: ANN001, ANN202
    """1 / (1 + 2^z) with z = -x / ln 2, written out because math.exp is not vectorized."""
    z = -x * LOG2_E
    # Not min and max, which lose NaN.
    z = LOWEST if z < LOWEST else z
    z = HIGHEST if z > HIGHEST else z
    whole = np.floor(z + HALF)
    f = z - whole
    power = ONE + f * (E1 + f * (E2 + f * (E3 + f * (E4 + f * (E5 + f * E6)))))
    bits = np.int32((np.int32(whole) + np.int32(127)) << np.int32(23))
    return ONE / (ONE + power * _float_of_bits(bits))


def has_rows_per_sample(x: Tensor) -> bool:
    """True if each channel of each sample of x (B, C, *S) is contiguous and long enough for a row
    of its own.
    """
    if x.dim() <= 2 or not x.is_contiguous():
        return False
    return x.numel() >= MIN_ROW_LENGTH * x.shape[0] * x.shape[1]


def to_rows(x: Tensor, per_sample: bool) -> Tensor:
    """x (B, C, *S) as float32 rows of one channel: (B * C, S) if `per_sample`, else (C, B * S)."""
    x = x.detach().float()
    if per_sample:
        return x.contiguous().view(x.shape[0] * x.shape[1], -1)
    return x.movedim(1, 0).reshape(x.shape[1], -1).contiguous()


def from_rows(values: Tensor, x: Tensor, per_sample: bool) -> Tensor:
    """Inverse of `to_rows`: rows of values as a tensor of the shape and dtype of x (B, C, *S)."""
    if per_sample and x.dtype == torch.float32:
        # Not a view: autograd forbids operations in place on views that a function returned.
        return torch.from_numpy(values.numpy().reshape(x.shape))
    y = torch.empty_like(x)
    target = y
    if not per_sample:
        target = y.movedim(1, 0)
    target.copy_(values.view(target.shape))
    return y


def run_kernel(kernel: Callable, x: Tensor, arguments: Callable[[int], tuple]) -> Tensor:
    """Run kernel(x, y, *arguments(part), start, stop) over all rows of x (R, n), in parallel.

    The kernel writes y (R, n), which is returned.

    Args:
        arguments: further arguments of the kernel for part 0, 1, ..., which run at the same time.
    """
    y = torch.empty_like(x)
    arrays = x.numpy(), y.numpy()
    threads, entries = torch.get_num_threads(), x.numel()
    parts = max(1, min(threads, len(x), entries // MIN_ENTRIES_PER_THREAD))
    if parts == 1:
        kernel(*arrays, *arguments(0), 0, len(x))
        return y
    borders = np.linspace(0, len(x), parts + 1).astype(int).tolist()
    pool = _pool(os.getpid())
    futures = []
    for part in range(parts):
        rows = borders[part], borders[part + 1]
        futures.append(pool.submit(kernel, *arrays, *arguments(part), *rows))
    for future in futures:
        future.result()
    return y


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """The thread pool of a process: threads do not survive a fork, so a child needs its own."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="kanseg")
