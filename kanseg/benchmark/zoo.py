"""Parameters, multiply-adds and memory of every network and basis."""

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
of a forward pass, including the functions (one per operation and entry); of functions: the
functions alone. saved MiB: saved for backward by a forward pass in training mode; every storage
counts once, parameters and the loss do not count; a dash where a norm gets a single value."""
Row = dict[str, object]


def zoo_rows(names: Sequence[str], bases: Sequence[str], size: int) -> Iterator[Row]:
    """Compute the costs of networks and encoders for one image of 3 x size x size.

    Args:
        names: of networks and encoders; all for an empty list.
        bases: each network is built with each of them.
        size: height and width of the image.

    Raises:
        InputError: an unknown name or basis, or a size below 1.
    """
    check_names("model or encoder", [*list_models(), *list_encoders()], names)
    check_names("basis", list_bases(), bases)
    if size < 1:
        raise InputError(f"size must be at least 1, got {size}")
    wanted = [("model", name) for name in list_models()]
    for name in list_encoders():
        if name in list_models("segmentation"):
            wanted.append(("encoder", name))
    for kind, name in wanted:
        if names and name not in names:
            continue
        for basis in bases:
            if kind == "encoder":
                network = create_encoder(name, 3, basis=basis)
            elif name in CLASSIFIERS:
                network = create_model(name, 3, CLASSES, basis=basis, image_size=(size, size))
            else:
                network = create_model(name, 3, CLASSES, basis=basis)
            row = {"network": name, "kind": kind, "basis": basis}
            yield row | _costs(network, (1, 3, size, size))


def _costs(model: nn.Module, shape: tuple[int, ...]) -> Row:
    try:
        total = profile(model, shape, runs=0).total
        saved = total.saved_bytes / 2**20
    except ValueError:  # a norm over a single value, in training only
        total = profile(model, shape, runs=0, training=False).total
        saved = nan
    return {
        "parameters": total.num_parameters,
        "parts": total.parameters,
        "multiply_adds": total.multiply_adds,
        "functions": total.functions,
        "saved_mib": saved,
    }


def zoo_table(rows: Sequence[Row]) -> str:
    """Format the rows as a Markdown table; `EXPLAINED` describes the columns."""
    lines = []
    for row in rows:
        saved = "-" if isnan(row["saved_mib"]) else f"{row['saved_mib']:.1f}"
        lines.append(
            [
                str(row["network"]),
                str(row["kind"]),
                str(row["basis"]),
                f"{row['parameters']:,}",
                f"{row['multiply_adds'] / 1e6:,.1f}",
                f"{row['functions'] / 1e6:,.1f}",
                saved,
            ]
        )
    return markdown_table(HEADER, lines, text_columns=3)
