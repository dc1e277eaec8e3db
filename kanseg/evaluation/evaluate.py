"""A network on a split of a data set -> scores; the same numbers for any batch size and number of
processes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from kanseg.config import Config
from kanseg.data import DatasetIndex, Sample, SegmentationDataset, check_samples, open_data
from kanseg.data.collate import RawItems, collate
from kanseg.data.label_spec import compare_classes
from kanseg.data.split_record import leave_out_trained, read_record, roles_of
from kanseg.evaluation.samples import evaluate_samples, scaled_spacing
from kanseg.evaluation.tables import image_table
from kanseg.inference.predictor import Predictor, class_probabilities, crop, decide
from kanseg.inference.segmenter import check_finite_output
from kanseg.inference.sliding_window import predict_tiled
from kanseg.metrics import SegmentationMetrics, SurfaceOptions
from kanseg.utils.errors import InputError
from kanseg.utils.io import atomic_write_text
from kanseg.utils.reading import read_text

T = TypeVar("T")
M = TypeVar("M")


@torch.no_grad()
def measure(
    model: nn.Module,
    dataset: Dataset,
    accelerator: Accelerator,
    metrics: M,
    predict: Callable[[nn.Module, Tensor], Tensor],
    *,
    target: str,
    batch_size: int,
    workers: int = 0,
    title: str = "evaluate",
    update: Callable[[Any, Tensor, list[int]], None] | None = None,
) -> M:
    """Show every sample of the dataset to the network and to the metrics; each process takes every
    n-th sample, and gets the whole result.

    Args:
        model: any network.
        dataset: items of "image", the target and "index", without augmentation.
        accelerator: its device, precision and processes are used.
        metrics: `update(predicted, target, indices)`, `per_image` and `merge` as of
            `SegmentationMetrics`.
        predict: (model, images (B, C, H, W)) -> what the metrics compare with the target.
        target: key of the truth in an item.
        batch_size: images at once.
        workers: processes that read.
        title: of the progress bar.
        update: (what was predicted, target, indices) in the place of `metrics.update`.
    """
    update = update or metrics.update
    model = accelerator.unwrap_model(model)
    was_training = model.training
    model.eval()
    mine = list(range(accelerator.process_index, len(dataset), accelerator.num_processes))
    raw = RawItems(dataset)
    options = {
        "num_workers": workers,
        "worker_init_fn": let_the_main_process_stop,
        "collate_fn": collate,
    }
    loader = DataLoader(
        Subset(raw, mine), batch_size=batch_size, generator=torch.Generator(), **options
    )
    for batch in tqdm(
        told_by_workers(loader),
        total=len(loader),
        desc=title,
        leave=False,
        disable=None if accelerator.is_main_process else True,
    ):
        batch = raw.finish(batch, accelerator.device)
        with accelerator.autocast():
            predicted = predict(model, batch["image"])
        update(predicted, batch[target].to(predicted.device), batch["index"].tolist())
    model.train(was_training)
    if accelerator.num_processes > 1:
        for other in gather_object([metrics.per_image]):
            metrics.merge(other)
    return metrics


def evaluate(
    model: nn.Module,
    dataset: SegmentationDataset,
    accelerator: Accelerator,
    *,
    tile: Sequence[int] | None = None,
    batch_size: int = 8,
    workers: int = 0,
    title: str = "evaluate",
    surface: SurfaceOptions | None = None,
) -> SegmentationMetrics:
    """Predict every sample of the dataset and compare it with its mask at the size that the network
    sees.

    Args:
        model: images (B, C, H, W) -> logits.
        tile: (h, w) beyond which an image is predicted in overlapping tiles; None for whole
            images of any size.
        batch_size: images, or tiles, at once.
        dataset, accelerator, workers, title: as of `measure`.
        surface: measure surface distances and boundary IoU too; a spacing is that of the files, and
            scaled with the images.
    """
    # Images of different sizes cannot share a batch, and padding them would change their
    # predictions.
    size = batch_size if dataset.one_size else 1
    task = dataset.info.task
    metrics = SegmentationMetrics(dataset.info.classes, task, surface=surface)

    def update(probabilities: Tensor, target: Tensor, indices: list[int]) -> None:
        check_finite_output(probabilities, lambda n: dataset.samples[indices[n]].name)
        spacings = (
            [scaled_spacing(dataset.samples[i], target.shape[-2:], surface) for i in indices]
            if surface
            else None
        )
        metrics.update(
            decide(probabilities, task).long(),
            target,
            indices,
            probabilities=probabilities,
            spacings=spacings,
        )

    predict = partial(predicted_probabilities, task=task, tile=tile, batch_size=batch_size)
    return measure(
        model,
        dataset,
        accelerator,
        metrics,
        predict,
        target="mask",
        batch_size=size,
        workers=workers,
        title=title,
        update=update,
    )


def told_by_workers(batches: Iterable[T]) -> Iterator[T]:
    """The same batches; an InputError of a reading process loses the traceback that torch puts
    around it.
    """
    try:
        yield from batches
    except InputError as error:
        raise InputError(str(error).rsplit("InputError: ", 1)[-1].strip()) from None


def let_the_main_process_stop(_: int) -> None:
    """For `worker_init_fn`: reading processes leave SIGTERM and SIGINT (Ctrl-C), which reach the
    whole group, to the main process, and end when that says so.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_end_with_the_main_process, daemon=True).start()


def _end_with_the_main_process() -> None:
    # At its exit the main process terminates and joins those that are left: who ignored that would
    # make it wait for ever.
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def predicted_labels(
    model: nn.Module,
    images: Tensor,
    tile: Sequence[int] | None = None,
    *,
    task: str,
    batch_size: int,
) -> Tensor:
    """Preprocessed images (B, C, H, W) -> label maps int64 (`decide`); in tiles of `batch_size`
    at once where they are larger than one.
    """
    return decide(
        predicted_probabilities(model, images, tile, task=task, batch_size=batch_size), task
    ).long()


def predicted_probabilities(
    model: nn.Module,
    images: Tensor,
    tile: Sequence[int] | None = None,
    *,
    task: str,
    batch_size: int,
) -> Tensor:
    """Preprocessed images (B, C, H, W) -> (B, N, H, W) float32 of all classes; in tiles where
    they are larger than one.
    """
    shape = images.shape[-2:]
    if tile is None or (shape[0] <= tile[0] and shape[1] <= tile[1]):
        return class_probabilities(model, images, task)
    predict = partial(class_probabilities, model, task=task)
    return torch.stack(
        [
            predict_tiled(
                predict, partial(crop, image), shape, tile=tile, overlap=0.5, batch_size=batch_size
            )
            for image in images
        ]
    )


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
    """The scores of `SegmentationMetrics.compute` on one split or several together.

    Args:
        checkpoint: checkpoint or run folder.
        split: names of splits.
        root: folder of the data set; by default the one of the training.
        full_size: compare at the size of the mask files instead of the size that the network sees.
        flips: mirrored predictions that are averaged.
        batch_size: images or tiles at once; that of the protocol too.
        device: torch device.
        surface, tolerance, spacing: whether and how surfaces are measured; by default
        training.surface, training.tolerance and data.spacing.
        inside: folder of masks outside of which pixels are ignored.
        protocol: "u_kan" adds the scores of `SegmentationMetrics.u_kan` as "u_kan".
        csv: file for a table with a line an image.

    Raises:
        InputError: no such checkpoint, data set or split; faulty samples, all of them named;
            options that cannot be used.
    """
    if protocol not in (None, "u_kan"):
        raise InputError(f"protocol {protocol!r} is not known (known: u_kan)")
    folder = Path(checkpoint) / "best" if (Path(checkpoint) / "best").is_dir() else Path(checkpoint)
    predictor = Predictor.from_checkpoint(folder, flips=flips, batch_size=batch_size, device=device)
    config = Config.from_yaml(read_text(folder / "config.yaml"))
    if surface is not None:
        config.training.surface = surface
    config.training.tolerance = config.training.tolerance if tolerance is None else tolerance
    data = (
        config.data
        if root is None
        else replace(config.data, root=root, prepare=None, folds=0, fold=0)
    )
    data = data if spacing is None else replace(data, spacing=list(spacing))
    options = surface_options(replace(config, data=data))
    opened = open_data(data)
    samples = _checked_samples(opened, split, predictor, skip_bad=data.skip_bad)
    samples = _not_trained_on(folder, config, opened, split, samples)
    where = {
        "full_size": full_size,
        "surface": options,
        "inside": None if inside is None else Path(inside),
    }
    metrics = evaluate_samples(predictor, samples, opened.label_spec, **where)
    scores = metrics.compute() | ({"u_kan": metrics.u_kan(batch_size)} if protocol else {})
    if csv is not None:
        write_table(Path(csv), metrics, samples)
    return scores


def _checked_samples(
    opened: DatasetIndex, split: str | Sequence[str], predictor: Predictor, *, skip_bad: bool
) -> list[Sample]:
    """The samples of the splits, all of them good; InputError for the faults, or for another task
    than the predictor's.
    """
    info = opened.label_spec
    if len(info.classes) != len(predictor.classes):
        theirs, ours = ", ".join(info.classes), ", ".join(predictor.classes)
        raise InputError(
            f"{opened.root}: its classes ({theirs}) are not as many as the checkpoint's ({ours})"
        )
    line = compare_classes(predictor.classes, info.classes, where=opened.root)
    if line is not None:
        print(f"data: {line}")
    if (info.task == "multilabel") != (predictor.task == "multilabel"):
        raise InputError(
            f"{opened.root}: its task is {info.task}, and that of the checkpoint {predictor.task};"
            " set data.task when training"
        )
    samples = opened.samples(split)
    faults = check_samples(samples, info).faults
    if skip_bad:
        samples, faults = [sample for sample in samples if sample not in faults], {}
    if faults or not samples:
        raise InputError(
            "\n".join(faults.values()) or f"{opened.root}: split {split} has no images"
        )
    return samples


def _not_trained_on(
    checkpoint: Path,
    config: Config,
    opened: DatasetIndex,
    split: str | Sequence[str],
    samples: list[Sample],
) -> list[Sample]:
    """The samples without those that the run has trained on; what there is to say of them is
    printed. The splits that it was to be trained on are measured, which is said.

    Raises:
        InputError: the run has trained on all of them.
    """
    asked = [split] if isinstance(split, str) else list(split)
    train_splits = [name for name in asked if name in config.data.train]
    judged = leave_out_trained(
        read_record(checkpoint),
        samples,
        root=opened.root,
        same_set=opened.root.resolve() == Path(config.data.root).resolve(),
        roles=roles_of(config.data, asked),
        asked_train=opened.samples(train_splits),
    )
    for line in judged.lines:
        print(f"data: {line}")
    if not judged.keep:
        raise InputError(
            f"{opened.root}: all {len(samples)} images of {' + '.join(asked)} were trained on by"
            f" the run of {checkpoint}; measure it on others"
        )
    return judged.keep


def surface_options(config: Config) -> SurfaceOptions | None:
    """How a run of these settings measures surfaces; None for not at all. InputError for settings
    out of range.
    """
    spacing = None if config.data.spacing is None else tuple(config.data.spacing)
    options = SurfaceOptions(config.training.tolerance, spacing)
    return options if config.training.surface else None


def write_table(path: Path, metrics: SegmentationMetrics, samples: Sequence[Sample]) -> None:
    """Write the scores of every image as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, image_table(metrics, [sample.name for sample in samples]))
