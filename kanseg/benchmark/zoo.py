"""Every network there is, by what it costs: one row a network and basis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isnan, nan

from torch import nn

from kanseg.benchmark.report import check_names
from kanseg.models import (
    CLASSIFIERS,
    create_encoder,
    create_model,
    list_bases,
    list_encoders,
    list_models,
)
from kanseg.models.profile import profile
from kanseg.utils.errors import InputError
from kanseg.utils.tables import markdown_table

CLASSES = 2
HEADER = ["network", "kind", "basis", "parameters", "Mmadds", "of functions", "saved MiB"]
EXPLAINED = """As create_model and create_encoder build them by default: functions are shared by
channel, but each edge has its own in ukan and the flat networks. Mmadds: millions of multiply-adds
of a forward pass, evaluating the functions included (one per operation and entry), and these alone.
saved MiB: what a forward pass in training mode keeps for backward, every storage once, parameters
and the loss left out; a dash where a norm would see a single value."""
Row = dict[str, object]


def zoo_rows(names: Sequence[str], bases: Sequence[str], size: int) -> Iterator[Row]:
    """Rows of the networks and encoders of these names (all of them for no names), for one image
    of 3 x size x size.

    Raises:
        InputError: an unknown name or basis, or a size below 1.
    """
    check_names("model or encoder", [*list_models(), *list_encoders()], names)
    check_names("basis", list_bases(), bases)
    if size < 1:
        raise InputError(f"size must be at least 1, got {size}")
    for kind, known in (
        ("model", list_models()),
        ("encoder", [name for name in list_encoders() if name in list_models("segmentation")]),
    ):
        for name in known:
            for basis in bases if not names or name in names else ():
                fixed = {"image_size": (size, size)} if name in CLASSIFIERS else {}
                model = (
                    create_model(name, 3, CLASSES, basis=basis, **fixed)
                    if kind == "model"
                    else create_encoder(name, 3, basis=basis)
                )
                yield {"network": name, "kind": kind, "basis": basis} | _costs(
                    model, (1, 3, size, size)
                )


def _costs(model: nn.Module, shape: tuple[int, ...]) -> Row:
    try:
        found = profile(model, shape, runs=0)
        saved = found.total.saved_bytes / 2**20
    except ValueError:  # a norm over a single value, in training only
        found, saved = profile(model, shape, runs=0, training=False), nan
    total = found.total
    work = {"multiply_adds": total.multiply_adds, "functions": total.functions}
    return (
        {"parameters": total.num_parameters, "parts": total.parameters}
        | work
        | {"saved_mib": saved}
    )


def zoo_table(rows: Sequence[Row]) -> str:
    """As Markdown; what the columns are is told by `EXPLAINED`."""
    lines = []
    for row in rows:
        work = [f"{row[key] / 1e6:,.1f}" for key in ("multiply_adds", "functions")]
        saved = "-" if isnan(row["saved_mib"]) else f"{row['saved_mib']:.1f}"
        lines.append(
            [
                str(row["network"]),
                str(row["kind"]),
                str(row["basis"]),
                f"{row['parameters']:,}",
                *work,
                saved,
            ]
        )
    return markdown_table(HEADER, lines, text_columns=3)
