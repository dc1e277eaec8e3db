"""The command line of a search: which experiment, over which settings, how many trials, by how many
processes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kanseg.config import ClassificationConfig, Config, parse_config
from kanseg.models import list_models
from kanseg.utils.errors import InputError
from kanseg.utils.reading import read_yaml

EPILOG = (
    "Every setting of the experiment can be given as --section.key value; tools/train_seg.py --help"
    " and tools/train_cls.py --help list them."
)


def search_command(argv: Sequence[str], *, description: str) -> None:
    """Run the search that a command line describes.

    Raises:
        InputError: settings, a space or a package that cannot be used.
    """
    parser = argparse.ArgumentParser(description=description, epilog=EPILOG, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="The experiment, of either kind.")
    parser.add_argument(
        "--space",
        required=True,
        help="YAML: setting -> {low, high, log, step} or {choices: [...]}.",
    )
    parser.add_argument(
        "--trials",
        type=int,
        default=20,
        help="Trials in all, those of earlier calls and of other processes included. Default: 20.",
    )
    parser.add_argument(
        "--storage",
        help=(
            "URL of the study. Default: sqlite:///RUN_DIR/study.db; machines that share no folder"
            " need a database server."
        ),
    )
    parser.add_argument(
        "--prune",
        action="store_true",
        help="End trials that are worse than the median of the others at the same epoch.",
    )
    parser.add_argument(
        "--ray", type=int, metavar="N", help="Let N workers of a ray cluster run the trials."
    )
    arguments, rest = parser.parse_known_args(argv)
    config, _ = parse_config(
        ["--config", arguments.config, *rest], kind=kind_of_experiment(arguments.config, rest)
    )
    if not any(word == "--run_dir" or word.startswith("--run_dir=") for word in rest):
        config.run_dir = str(
            Path("runs") / "search" / Path(config.run_dir).name
        )  # the folder in the config is for a run of its own
    if arguments.trials < 1 or (arguments.ray is not None and arguments.ray < 1):
        raise InputError(
            f"--trials and --ray must be at least 1, got {arguments.trials} and {arguments.ray}"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "a trial runs in one process: start this command without accelerate, once for each GPU"
            " (CUDA_VISIBLE_DEVICES=0, 1, ...)"
        )
    from kanseg.experiments.search.search import (
        search,
    )  # after parsing, so that --help and a misspelt key answer at once

    options = {"trials": arguments.trials, "storage": arguments.storage, "prune": arguments.prune}
    if arguments.ray is None:
        search(config, arguments.space, **options)
        return
    _on_ray(arguments.ray, search, config, Path(arguments.space).resolve(), **options)


def kind_of_experiment(config: str, rest: Sequence[str]) -> type:
    """`ClassificationConfig` where the network is a classifier, else `Config`; a config that cannot
    be read is left to the parser.
    """
    name = None
    with contextlib.suppress(OSError, InputError, TypeError, KeyError):
        name = read_yaml(Path(config))["model"]["name"]
    for i, word in enumerate(rest):
        if word.startswith("--model.name"):
            name = word.partition("=")[2] or (rest[i + 1] if i + 1 < len(rest) else None)
    return ClassificationConfig if name in list_models("classification") else Config


def _on_ray(workers: int, search: Any, config: Any, space: Path, **options: Any) -> None:
    """The same search in each worker: they share the study, so the storage and the run folder must
    be reachable from all.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise InputError(
            "--ray needs ray: python -m pip install 'ray>=2'; without it start the same command"
            " several times"
        ) from None
    config.run_dir = str(Path(config.run_dir).resolve())  # a worker has its own working folder
    config.data.root = str(Path(config.data.root).resolve())
    ray.init(ignore_reinit_error=True)
    share = min(1.0, ray.cluster_resources().get("GPU", 0) / workers)
    worker = ray.remote(num_cpus=1, num_gpus=share)(search)
    ray.get([worker.remote(config, space, **options) for _ in range(workers)])
