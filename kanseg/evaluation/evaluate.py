"""Score a checkpoint on splits of a data set, as `kanseg evaluate` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kanseg.config import Config
from kanseg.data import DatasetIndex, Sample, check_samples, open_data
from kanseg.data.label_spec import compare_classes
from kanseg.data.splits.record import read_record, splits_of
from kanseg.data.splits.trained_samples import UntrainedSamples, leave_out_trained
from kanseg.evaluation.segmentation import evaluate_samples
from kanseg.evaluation.tables import image_table
from kanseg.inference.predictor import Predictor
from kanseg.metrics import SegmentationMetrics, SurfaceOptions
from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write_text
from kanseg.utils.reading import read_text


def evaluate_checkpoint(
    checkpoint: str | Path,
    split: str | Sequence[str],
    *,
    root: str | None = None,
    full_size: bool = False,
    flips: int = 1,
    batch_size: int = 8,
    device: str | None = None,
    surface: bool | None = None,
    tolerance: float | None = None,
    spacing: Sequence[float] | None = None,
    inside: str | Path | None = None,
    protocol: str | None = None,
    csv: str | Path | None = None,
) -> dict[str, Any]:
    """Score a checkpoint on one split, or on several together: `SegmentationMetrics.compute`.

    Samples that the run was trained on are left out, unless their split is requested: then there is
    a warning, and "training_images" in the scores is their number.

    Args:
        checkpoint: checkpoint or run folder.
        split: names of splits.
        root: folder of the data set; by default that of the training.
        full_size: compare at the size of the mask files instead of the input size of the network.
        flips: number of flipped views whose predictions are averaged.
        batch_size: images or tiles per batch, and images in a batch of the protocol.
        device: torch device.
        surface: measure surface distances; by default `training.surface`.
        tolerance: of the normalized surface Dice; by default `training.tolerance`.
        spacing: (row, column) distance of pixels; by default `data.spacing`.
        inside: folder of masks outside of which pixels are ignored.
        protocol: "u_kan" adds the scores of `SegmentationMetrics.u_kan` as "u_kan".
        csv: file for a table with a line per image.

    Raises:
        InputError: no such checkpoint, data set or split; a list of all bad samples; options that
            cannot be used.
    """
    if protocol not in (None, "u_kan"):
        raise InputError(f"protocol {protocol!r} is not known (known: u_kan)")
    folder = Path(checkpoint)
    if (folder / "best").is_dir():
        folder = folder / "best"
    predictor = Predictor.from_checkpoint(folder, flips=flips, batch_size=batch_size, device=device)
    config = Config.from_yaml(read_text(folder / "config.yaml"))
    training, data = config.training, config.data
    if root is not None:
        data = replace(data, root=root, prepare=None, folds=0, fold=0)
    if spacing is not None:
        data = replace(data, spacing=list(spacing))
    if surface is not None:
        training = replace(training, surface=surface)
    if tolerance is not None:
        training = replace(training, tolerance=tolerance)
    options = surface_options(replace(config, data=data, training=training))
    index = open_data(data)
    samples = _valid_samples(index, split, predictor, skip_bad=data.skip_bad)
    untrained = _without_trained(folder, config, index, split, samples)
    samples = untrained.keep
    metrics = evaluate_samples(
        predictor,
        samples,
        index.label_spec,
        full_size=full_size,
        surface=options,
        inside=inside,
    )
    scores = metrics.compute()
    if untrained.trained:
        scores["training_images"] = untrained.trained
    if protocol is not None:
        scores["u_kan"] = metrics.u_kan(batch_size)
    if csv is not None:
        write_table(Path(csv), metrics, samples)
    return scores


def _valid_samples(
    index: DatasetIndex, split: str | Sequence[str], predictor: Predictor, *, skip_bad: bool
) -> list[Sample]:
    """Return the samples of the splits.

    Raises:
        InputError: bad samples (unless `skip_bad`), no samples, or other classes or another task
            than those of the predictor.
    """
    label_spec = index.label_spec
    if len(label_spec.classes) != len(predictor.classes):
        raise InputError(
            f"{index.root}: {len(label_spec.classes)} classes ({', '.join(label_spec.classes)});"
            f" the checkpoint has {len(predictor.classes)} ({', '.join(predictor.classes)})"
        )
    line = compare_classes(predictor.classes, label_spec.classes, where=index.root)
    if line is not None:
        print(f"data: {line}")
    if (label_spec.task == "multilabel") != (predictor.task == "multilabel"):
        raise InputError(
            f"{index.root}: the task is {label_spec.task}, but the checkpoint was trained on a"
            f" {predictor.task} task; set data.task when training"
        )
    samples = index.samples(split)
    faults = check_samples(samples, label_spec).faults
    if skip_bad:
        samples = [sample for sample in samples if sample not in faults]
    elif faults:
        raise InputError("\n".join(faults.values()))
    if not samples:
        raise InputError(f"{index.root}: split {split} has no images")
    return samples


def _without_trained(
    checkpoint: Path,
    config: Config,
    index: DatasetIndex,
    split: str | Sequence[str],
    samples: list[Sample],
) -> UntrainedSamples:
    """Leave out samples that the run was trained on, except those of requested training splits, and
    print how many.

    Raises:
        InputError: the run was trained on all of them.
    """
    names = list(split)
    if isinstance(split, str):
        names = [split]
    train_splits = [name for name in names if name in config.data.train]
    untrained = leave_out_trained(
        read_record(checkpoint),
        samples,
        root=index.root,
        same_set=index.root.resolve() == Path(config.data.root).resolve(),
        splits=splits_of(config.data, names),
        requested_train=index.samples(train_splits),
    )
    for line in untrained.lines:
        print(f"data: {line}")
    if not untrained.keep:
        raise InputError(
            f"{index.root}: the run of {checkpoint} was trained on all {len(samples)} images of"
            f" {' + '.join(names)}; evaluate it on others"
        )
    return untrained


def surface_options(config: Config) -> SurfaceOptions | None:
    """Return the options of surface distances in the settings of a run; None if they are off.

    Raises:
        InputError: settings out of range, even if they are off.
    """
    spacing = None
    if config.data.spacing is not None:
        spacing = tuple(config.data.spacing)
    options = SurfaceOptions(config.training.tolerance, spacing)
    if not config.training.surface:
        return None
    return options


def write_table(path: Path, metrics: SegmentationMetrics, samples: Sequence[Sample]) -> None:
    """Write the scores of every image as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, image_table(metrics, [sample.name for sample in samples]))
