"""The pruning curve of a checkpoint: scores against size and latency, with and without fine-tuning,
by each criterion.
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from kanseg.benchmark.measure import Setting, interleaved
from kanseg.config import ClassificationConfig
from kanseg.evaluation.classification import evaluate_classifier
from kanseg.evaluation.evaluate import evaluate_checkpoint
from kanseg.explain.pruning.figure import draw_curve
from kanseg.explain.pruning.importance import CRITERIA, rank
from kanseg.explain.pruning.remove import exact_units, prune
from kanseg.explain.pruning.units import Unit, find_units
from kanseg.explain.source import Source
from kanseg.models.operations import multiply_adds, num_parameters
from kanseg.models.pruned import merge_sizes
from kanseg.training.run import TASKS
from kanseg.training.run_folder.logging import plain
from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write_text, file_digest
from kanseg.utils.iteration import evenly
from kanseg.utils.language import translate
from kanseg.utils.reading import read_json, typed
from kanseg.utils.tables import markdown_table
from kanseg.utils.weights import WEIGHTS

POINT = "point.json"
SETTINGS = "settings.json"  # what the point is of, written before it is begun
BATCH_SIZE = 8  # of the images that contributions are measured on


@dataclass(frozen=True)
class Request:
    """What `prune_curve` does.

    Args:
        checkpoint: folder of a checkpoint, such as runs/mine/best.
        output: folder for the results.
        shares: parameters that stay, as shares of all.
        criteria: of `kanseg.explain.pruning.CRITERIA`.
        finetune_epochs: 0 for no fine-tuning.
        split: the scores are those of this split.
        num_images: training images that the contributions are measured on.
        device: torch device of contributions and times.

    Raises:
        InputError: values out of range.
    """

    checkpoint: Path
    output: Path
    shares: Sequence[float]
    criteria: Sequence[str] = CRITERIA
    finetune_epochs: int = 0
    split: str = "val"
    num_images: int = 32
    device: str = "cpu"

    def __post_init__(self) -> None:
        for share in self.shares:
            if not 0 < share < 1:
                raise InputError(f"--keep: shares are above 0 and below 1, got {share:g}")
        if self.finetune_epochs < 0:
            raise InputError(f"--finetune_epochs must be at least 0, got {self.finetune_epochs}")
        if self.num_images < 1:
            raise InputError(f"--images must be at least 1, got {self.num_images}")


@dataclass(frozen=True)
class Point:
    """A network of the curve.

    Args:
        criterion: of the ranking; "" for the network itself.
        share: parameters that should stay, as a share.
        parameters: number of parameters.
        multiply_adds: of an image of the training size, see `kanseg.models.operations`.
        milliseconds: of an image, median; on the CPU the time that it was busy. Load of the
            computer changes it from row to row; `relative_time` is not affected.
        relative_time: milliseconds over those of the network itself, measured in turns.
        score: of the pruned network.
        finetuned: of the fine-tuned network; None without fine-tuning.
        channels, branches, functions: number of removed ones.
    """

    criterion: str
    share: float
    parameters: int
    multiply_adds: int
    milliseconds: float
    relative_time: float
    score: float
    finetuned: float | None = None
    channels: int = 0
    branches: int = 0
    functions: int = 0


def prune_curve(request: Request, *, log: Callable[[str], None] = print) -> list[Point]:
    """Prune a checkpoint to each share by each criterion, score it, fine-tune it, score it again.

    Writes OUTPUT/CRITERION_SHARE/pruned (a checkpoint), OUTPUT/CRITERION_SHARE/finetuned (a run),
    curve.json, curve.md and curve.png. Networks that an earlier call has finished are not run
    again.

    Raises:
        InputError: a checkpoint or options that cannot be used, or a network that cannot be pruned
            so far.
    """
    source = Source.read(request.checkpoint, request.device)
    if "formulas" in source.description["model"]:
        raise InputError(
            f"{source.folder}: networks with formulas are not pruned; prune the checkpoint that was"
            " snapped, and snap the result"
        )
    network = source.network
    batches = training_images(source, request.num_images)
    first = batches[0][:1]
    count = sum(map(len, batches))
    log(f"prune: {num_parameters(network):,} parameters, contributions on {count} images")
    units, fixed = exact_units(network, find_units(network, first), first)
    if fixed:
        log(
            "prune: these layers keep their channels; they have one only, or other layers use them"
            f" together (a norm over channels, groups, attention): {', '.join(fixed)}"
        )
    points = [_original(source, request, first.shape)]
    for criterion in request.criteria:
        ranked = rank(network, units, batches, criterion=criterion)
        for share in request.shares:
            points.append(_point(source, request, ranked, criterion, share, batches, log))
            _write(points, source, request)
    log(curve_table(points, source.monitor))
    log(f"{request.output / 'curve.json'}; {request.output / 'curve.png'}")
    return points


def training_images(source: Source, count: int) -> list[Tensor]:
    """Batches (B, C, H, W) of `count` training images as the network gets them, on its device; of
    one image each if they have several sizes.
    """
    dataset = TASKS[type(source.config)](source.config).open(checkpoint=None, log=lambda line: None)
    device = next(source.network.parameters()).device
    images = []
    for index in evenly(range(len(dataset)), count):  # a set may be sorted by class
        images.append(dataset[0, index]["image"].unsqueeze(0).to(device))
    if len({image.shape for image in images}) > 1:
        return images
    # of equal size: a norm has no variance over a last batch of one small map
    return list(torch.cat(images).chunk(-(-len(images) // BATCH_SIZE)))


def score_checkpoint(source: Source, folder: Path, split: str) -> float:
    """The score of a checkpoint on a split: the one that has selected the weights of the source."""
    task = TASKS[type(source.config)](source.config)
    evaluate = evaluate_checkpoint
    if isinstance(source.config, ClassificationConfig):
        evaluate = evaluate_classifier
    with redirect_stdout(StringIO()):  # the same lines about the data for every network
        scores = evaluate(folder, split)
    return float(task.headline(scores)[source.monitor])


def _original(source: Source, request: Request, shape: Sequence[int]) -> Point:
    """The network itself, as the first point."""
    score = score_checkpoint(source, source.folder, request.split)
    times = measure_times(source.network, source.network, shape, request.device)
    parameters = num_parameters(source.network)
    return Point("", 1.0, parameters, multiply_adds(source.network, shape), times[1], 1.0, score)


def _point(
    source: Source,
    request: Request,
    ranked: Sequence[Unit],
    criterion: str,
    share: float,
    batches: Sequence[Tensor],
    log: Callable[[str], None],
) -> Point:
    """Prune to a share, score, fine-tune, score again; or read what an earlier call has found."""
    folder = request.output / f"{criterion}_{share:g}"
    settings = {
        "weights": file_digest(source.folder / WEIGHTS),
        "split": request.split,
        "finetune_epochs": request.finetune_epochs,
        "num_images": request.num_images,
    }
    if (folder / POINT).is_file():
        stored = read_json(folder / POINT)
        if stored["settings"] == settings:
            log(f"{folder}: finished already")
            return typed(stored["point"], Point, folder / POINT)
    if (folder / SETTINGS).is_file() and read_json(folder / SETTINGS) != settings:
        # an interrupted fine-tuning of another network must not go on
        shutil.rmtree(folder / "finetuned", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(folder / SETTINGS, json.dumps(settings, indent=1) + "\n")
    pruned = prune(source.network, ranked, share)
    # Without the removed channels the inputs of the batch norms have other means and variances
    # (Li et al., "EagleEye", ECCV 2020).
    update_bn(batches, pruned.network)
    shape = batches[0][:1].shape
    before = source.description["model"].get("pruned")
    sizes = merge_sizes(before, pruned.sizes)
    checkpoint = source.save(folder / "pruned", pruned.network, {"pruned": sizes})
    original, milliseconds = measure_times(source.network, pruned.network, shape, request.device)
    point = Point(
        criterion,
        share,
        num_parameters(pruned.network),
        multiply_adds(pruned.network, shape),
        milliseconds,
        milliseconds / original,
        score_checkpoint(source, checkpoint, request.split),
        channels=pruned.count("channel"),
        branches=pruned.count("branch"),
        functions=pruned.count("function"),
    )
    if request.finetune_epochs:
        epochs = request.finetune_epochs
        best = source.train_on(checkpoint, folder / "finetuned", epochs=epochs)
        point = replace(point, finetuned=score_checkpoint(source, best, request.split))
    log(
        f"{folder}: {point.parameters:,} parameters, {source.monitor} {point.score:.4f}"
        f" -> {_number(point.finetuned)} after fine-tuning"
    )
    content = {"settings": settings, "point": plain(asdict(point))}
    atomic_write_text(folder / POINT, json.dumps(content, indent=1) + "\n")
    return point


@torch.no_grad()
def measure_times(
    original: nn.Module, network: nn.Module, shape: Sequence[int], device: str
) -> tuple[float, float]:
    """Median milliseconds of an image for two networks, measured in turns."""
    x = torch.zeros(*shape, device=device)
    setting = Setting(device=torch.device(device).type, rounds=5)
    steps = {"original": lambda: original(x), "network": lambda: network(x)}
    times = interleaved(steps, setting)
    return statistics.median(times["original"]), statistics.median(times["network"])


def curve_table(points: Sequence[Point], score: str) -> str:
    """The points as a Markdown table."""
    header = [
        translate("criterion"),
        translate("keep"),
        translate("parameters"),
        translate("multiply-adds"),
        "ms",
        translate("time"),
        score,
        translate("fine-tuned"),
        translate("removed: channels, branches, functions"),
    ]
    rows = []
    for point in points:
        rows.append(
            [
                translate(point.criterion or "not pruned"),
                f"{point.share:.0%}",
                f"{point.parameters:,}",
                f"{point.multiply_adds / 1e6:,.1f} M",
                f"{point.milliseconds:.2f}",
                f"{point.relative_time:.2f}",
                f"{point.score:.4f}",
                _number(point.finetuned),
                f"{point.channels}, {point.branches}, {point.functions}",
            ]
        )
    return markdown_table(header, rows)


def _number(score: float | None) -> str:
    return "-" if score is None else f"{score:.4f}"


def _write(points: Sequence[Point], source: Source, request: Request) -> None:
    """Write what has been found so far."""
    content = {
        "checkpoint": str(source.folder),
        "weights": file_digest(source.folder / WEIGHTS),
        "split": request.split,
        "score": source.monitor,
        "finetune_epochs": request.finetune_epochs,
        "device": request.device,
        "points": [plain(asdict(point)) for point in points],
    }
    atomic_write_text(request.output / "curve.json", json.dumps(content, indent=1) + "\n")
    atomic_write_text(request.output / "curve.md", curve_table(points, source.monitor) + "\n")
    draw_curve(
        [asdict(point) for point in points],
        request.output / "curve.png",
        source.monitor,
    )
