"""Trace a network, and write the graph and its description to a file."""

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
from kanseg.inference.onnx_file import INSTALL, METADATA
from kanseg.utils.errors import InputError
from kanseg.utils.text import one_line

EXAMPLE = (64, 96)  # height and width of the images for tracing
SOURCE_LOCATIONS = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn")


def trace(
    network: Deployed, *, batch: int | None = None, image_size: tuple[int, int] | None = None
) -> ExportedProgram:
    """Trace a network with torch.export.

    Args:
        network: in evaluation mode.
        batch: fixed batch size; None for a dynamic one.
        image_size: fixed (height, width); None for dynamic ones.

    Raises:
        InputError: torch.export cannot trace the network.
    """
    if not hasattr(Dim, "DYNAMIC"):
        raise InputError(f"exporting needs torch 2.6 or newer; this is {torch.__version__}")
    images = torch.rand(batch or 2, network.preprocess.channels, *(image_size or EXAMPLE))
    dynamic = {}
    if batch is None:
        dynamic[0] = Dim.DYNAMIC
    if image_size is None:
        dynamic |= {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(network, (images,), dynamic_shapes=(dynamic or None,))
    except RuntimeError as error:
        raise InputError(f"torch.export cannot export this network: {one_line(error)}") from None
    _remove_source_locations(program)
    return program


def _remove_source_locations(program: ExportedProgram) -> None:
    """Remove the paths of the source code: they are private, and double the size of the file."""
    for module in program.graph_module.modules():
        if not isinstance(module, torch.fx.GraphModule):
            continue
        for node in module.graph.nodes:
            for key in SOURCE_LOCATIONS:
                node.meta.pop(key, None)


def write_torch(
    program: ExportedProgram, path: Path, description: Mapping[str, Any], opset: int | None = None
) -> None:
    """Write a .pt2 file; `opset` must be None."""
    if opset is not None:
        raise InputError("--opset is for ONNX files")
    torch.export.save(program, path, extra_files={f"{METADATA}.json": json.dumps(description)})


def write_onnx(
    program: ExportedProgram, path: Path, description: Mapping[str, Any], opset: int | None = None
) -> None:
    """Write an ONNX file that contains its weights.

    Raises:
        InputError: onnx or onnxscript is missing, or ONNX of this opset cannot express the graph.
    """
    onnx_package()
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            onnx_program = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=["images"],
                output_names=[description["output"]],
            )
        model = onnx_program.model
        for node in model.graph.all_nodes():
            node.metadata_props.clear()
        model.metadata_props[METADATA] = json.dumps(
            {**description, "opset": model.opset_imports[""]}
        )
        onnx_program.save(str(path), external_data=False)
    except (RuntimeError, ValueError) as error:
        version = "torch's default opset" if opset is None else f"opset {opset}"
        raise InputError(
            f"the network cannot be written as ONNX ({version}): {one_line(error)}"
        ) from None


WRITERS: dict[str, Callable[..., None]] = {"onnx": write_onnx, "torch": write_torch}
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}


def onnx_package() -> Any:
    """Import onnx; InputError if it or onnxscript is missing."""
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch.onnx.export would fail late, with a traceback
    except ImportError as error:
        raise InputError(f"ONNX files need {error.name}: {INSTALL}") from None
    return onnx
