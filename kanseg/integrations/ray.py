"""Predict the files of a folder by actors of Ray Data, on one machine or a cluster.

Needs `pip install "kanseg[ray]"`. All machines must see the checkpoint, the files and the output at
the same paths.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from kanseg.data.io.images import MAX_PIXELS
from kanseg.inference.ensemble import open_predictor
from kanseg.inference.files.inputs import Job, name_jobs
from kanseg.inference.files.large import LARGE
from kanseg.inference.files.outputs import Outputs, OutputWriter
from kanseg.inference.files.predict import predict_jobs
from kanseg.inference.files.record import FileResult, Record
from kanseg.inference.files.results import (
    PathList,
    PredictSummary,
    Results,
    delete_temporaries,
)
from kanseg.inference.files.targets import check_targets
from kanseg.utils.errors import InputError
from kanseg.utils.iteration import progress_bar

FILES = 32  # per task of an actor: predicted again if it is killed


class FilePredictor:
    """Predicts batches of files and writes masks: a class for `Dataset.map_batches`.

    Args:
        checkpoints: as of `kanseg.load`.
        output: folder.
        outputs: files to write beside the masks; by default overlays.
        skip_existing: skip files whose outputs all exist.
        max_pixels: larger images are refused.
        large: pixels above which the mask is a tiled TIFF.
        options: of `kanseg.load`, such as flips and tile.

    Example:
        >>> predict = FilePredictor(["runs/quickstart/best"], "masks")
        >>> predict({"path": ["scans/a.png"], "name": ["a"]})["result"][0]
        '{"input": "scans/a.png", "output": "a.png", "size": [96, 96], "seconds": 0.012, ...}'
    """

    def __init__(
        self,
        checkpoints: Sequence[str],
        output: str,
        outputs: Outputs | None = None,
        *,
        skip_existing: bool = False,
        max_pixels: int = MAX_PIXELS,
        large: int = LARGE,
        **options: Any,
    ):
        self.predictor = open_predictor(list(checkpoints), **options)
        self.writer = OutputWriter(Path(output), self.predictor, outputs or Outputs())
        self.skip_existing, self.max_pixels, self.large = skip_existing, max_pixels, large

    def __call__(self, batch: dict[str, Sequence[str]]) -> dict[str, np.ndarray]:
        """Predict and write files.

        Args:
            batch: "path" of each file and "name" of its outputs.

        Returns:
            "result": a line of the journal for each (`FileResult`); of a file that was skipped
            {"skipped": its mask}. The order is that in which they were done.
        """
        jobs = []
        for path, name in zip(batch["path"], batch["name"], strict=True):
            jobs.append(Job(Path(path), str(name)))
        done: list[FileResult] = []
        results = Results(
            self.writer,
            done.append,
            bar=progress_bar(total=len(jobs), show=False),
            log=lambda line: None,  # the caller logs the failures of all actors
            keep=self.skip_existing,
        )
        predict_jobs(
            self.predictor,
            name_jobs(jobs),
            results,
            max_pixels=self.max_pixels,
            large=self.large,
        )
        lines = [json.dumps(result.to_dict()) for result in done]
        for path in results.summary.skipped:
            name = path.relative_to(self.writer.root).as_posix()
            lines.append(json.dumps({"skipped": name}))
        return {"result": np.array(lines, dtype=object)}


def predict_files(
    checkpoints: str | Path | Sequence[str | Path],
    files: Sequence[Path | Job],
    output: Path | str,
    *,
    actors: int = 1,
    cpus: float = 1,
    gpus: float = 0,
    files_per_task: int = FILES,
    outputs: Outputs | None = None,
    skip_existing: bool = False,
    max_pixels: int = MAX_PIXELS,
    large: int = LARGE,
    log: Callable[[str], None] = print,
    progress: bool = False,
    **options: Any,
) -> PredictSummary:
    """Predict files by actors of Ray Data. The files, names and record are those of
    `kanseg.inference.predict_files`. Ray starts actors again that are killed, and repeats the tasks
    they were at.

    Args:
        checkpoints: as of `kanseg.load`; several are an ensemble.
        files: images and videos, or jobs of `find_jobs`.
        output: folder.
        actors: processes that predict, each with the checkpoints in memory.
        cpus: processors of each actor.
        gpus: GPUs of each actor, such as 1 or 0.25.
        files_per_task: files that an actor gets at a time.
        outputs: files to write beside the masks; by default overlays.
        skip_existing: skip files whose outputs all exist, if the same checkpoints made them.
        max_pixels: larger images are refused.
        large: for images of more pixels, the mask is a tiled TIFF.
        log: called with a line for each failure.
        progress: whether a terminal shows a bar with images per second and the time left.
        options: of `kanseg.load`, such as flips and tile.

    Raises:
        InputError: as `kanseg.inference.predict_files`; or COCO's file of all images is asked for.
    """
    jobs, output = name_jobs(files), Path(output).absolute()
    outputs = outputs or Outputs()
    if outputs.polygons == "coco":
        raise InputError(
            "COCO's annotations hold all images and are not written by actors; predict without"
            " them, then by `kanseg predict --polygons coco --skip_existing`"
        )
    ray_data = _import_ray()
    if isinstance(checkpoints, (str, Path)):
        checkpoints = [checkpoints]
    # Everything that can be wrong is found here, before actors start.
    predictor = open_predictor(list(checkpoints), **options | {"device": "cpu"})
    check_targets(jobs, OutputWriter(output, predictor, outputs))
    output.mkdir(parents=True, exist_ok=True)
    record = Record(output, predictor.provenance())
    record.begin(keep=skip_existing, log=log)
    dataset = ray_data.from_arrow(_tables(jobs, files_per_task))
    results = dataset.map_batches(
        FilePredictor,
        batch_size=None,  # a table
        compute=ray_data.ActorPoolStrategy(size=actors),
        num_cpus=cpus,
        num_gpus=gpus,
        fn_constructor_kwargs={
            "checkpoints": [str(Path(path).absolute()) for path in checkpoints],
            "output": str(output),
            "outputs": outputs,
            "skip_existing": skip_existing,
            "max_pixels": max_pixels,
            "large": large,
            **options,
        },
    )
    summary = PredictSummary(PathList(output), PathList(output))
    begun = time.time()
    bar = progress_bar(total=len(jobs), unit="image", show=progress, leave=True)
    with closing(record), bar:
        for row in results.iter_rows():
            _add(json.loads(row["result"]), summary, record, log)
            bar.update()
    delete_temporaries(output, since=begun)  # of actors that were killed
    if not skip_existing and not summary.failed:
        record.replace()
    return summary


def _import_ray() -> ModuleType:
    try:
        import ray.data
    except ModuleNotFoundError as error:
        raise InputError(
            f"prediction by actors needs Ray Data ({error}): python -m pip install 'kanseg[ray]'"
        ) from None
    return ray.data


def _tables(jobs: Sequence[Job], count: int) -> list:
    """Arrow tables of "path" and "name" of `count` jobs each."""
    import pyarrow

    tables = []
    for start in range(0, len(jobs), count):
        part = list(jobs[start : start + count])
        columns = {
            "path": [str(job.path.absolute()) for job in part],
            "name": [job.name for job in part],
        }
        tables.append(pyarrow.table(columns))
    return tables


def _add(
    content: dict[str, Any], summary: PredictSummary, record: Record, log: Callable[[str], None]
) -> None:
    """Add the result of a file, as of `FilePredictor`, to the summary and the record."""
    if "skipped" in content:
        summary.skipped.append(content["skipped"])
        return
    record.add(FileResult(**content))
    if "error" in content:
        summary.failed.append(content["error"])
        log(f"failed: {content['error']}")
    else:
        summary.written.append(content["output"])
