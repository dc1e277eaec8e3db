"""Graphs -> files, the description in them."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from kanseg.export.network import Deployed
from kanseg.inference.exported import INSTALL, METADATA
from kanseg.utils.errors import InputError

EXAMPLE = (
    64,
    96,
)  # height and width of the images that the graph is traced with; any others will do


def trace(
    network: Deployed, *, batch: int | None = None, image_size: tuple[int, int] | None = None
) -> ExportedProgram:
    """The graph of a network in evaluation mode.

    Args:
        network: what is exported.
        batch: the only number of images that it takes; None for any.
        image_size: the only (height, width) that it takes; None for any.

    Raises:
        InputError: torch.export cannot see into the network.
    """
    if not hasattr(Dim, "DYNAMIC"):
        raise InputError(f"exporting needs torch 2.6 or newer; this is {torch.__version__}")
    images = torch.rand(batch or 2, network.preprocess.channels, *(image_size or EXAMPLE))
    free = dict.fromkeys([*([] if batch else [0]), *([] if image_size else [2, 3])], Dim.DYNAMIC)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(network, (images,), dynamic_shapes=(free or None,))
    except RuntimeError as error:
        raise InputError(
            f"torch.export cannot export this network: {' '.join(str(error).split())[:300]}"
        ) from None
    _forget_the_code(program)
    return program


def _forget_the_code(program: ExportedProgram) -> None:
    """Where the code lay on this machine is nobody's business, and makes the file twice as
    large.
    """
    graphs = [
        module
        for module in program.graph_module.modules()
        if isinstance(module, torch.fx.GraphModule)
    ]
    for node in (node for graph in graphs for node in graph.graph.nodes):
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn"):
            node.meta.pop(key, None)


def write_torch(
    program: ExportedProgram, path: Path, description: Mapping[str, Any], opset: int | None = None
) -> None:
    """A .pt2 file; `opset` means nothing here."""
    if opset is not None:
        raise InputError("--opset is for ONNX files")
    torch.export.save(program, path, extra_files={f"{METADATA}.json": json.dumps(description)})


def write_onnx(
    program: ExportedProgram, path: Path, description: Mapping[str, Any], opset: int | None = None
) -> None:
    """An ONNX file that holds its weights itself.

    Raises:
        InputError: no onnx or onnxscript here, or a graph that ONNX of this opset cannot express.
    """
    onnx_package()
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=["images"],
                output_names=[description["output"]],
            )
        for node in made.model.graph.all_nodes():
            node.metadata_props.clear()
        made.model.metadata_props[METADATA] = json.dumps(
            {**description, "opset": made.model.opset_imports[""]}
        )
        made.save(str(path), external_data=False)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"no ONNX file{'' if opset is None else f' of opset {opset}'} can be made:"
            f" {' '.join(str(error).split())[:300]}"
        ) from None


WRITERS: dict[str, Callable[..., None]] = {"onnx": write_onnx, "torch": write_torch}
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}


def onnx_package() -> Any:
    """The package onnx; an InputError where it or onnxscript is missing."""
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch.onnx.export asks for it late, with a traceback
    except ImportError as error:
        raise InputError(f"ONNX files need {error.name}: {INSTALL}") from None
    return onnx
