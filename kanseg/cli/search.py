"""Search for good settings of an experiment:

python tools/search.py --config configs/X.yaml --space configs/search/X.yaml --trials 20

Every setting of the experiment can be given as --section.key value; tools/train_seg.py --help and
tools/train_cls.py --help list them.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kanseg.config import ClassificationConfig, Config, parse_config
from kanseg.config.arguments import ToolParser, split_settings
from kanseg.utils.errors import InputError
from kanseg.utils.reading import read_yaml

SPACE = """a YAML file with a line for each setting to search, such as
  training.lr: {low: 1.0e-4, high: 1.0e-2, log: true}
  model.options.width: {low: 8, high: 32, step: 8}
  model.basis: {choices: [gram, bspline, rbf]}
"""


def _parser() -> ToolParser:
    parser = ToolParser(description=f"{__doc__}\n--space is {SPACE}")
    parser.add_argument("--config", required=True, help="the experiment, of either kind")
    parser.add_argument(
        "--space",
        metavar="FILE",
        help="YAML of the settings to search, as above: {low, high, log, step} or {choices: [...]}"
        " (required)",
    )
    parser.add_argument(
        "--trials",
        type=int,
        default=20,
        help="trials in total, those of earlier calls and of other processes included",
    )
    parser.add_argument(
        "--storage",
        help=(
            "URL of the study; by default sqlite:///RUN_DIR/study.db. Machines that share no folder"
            " need a database server"
        ),
    )
    parser.add_argument(
        "--prune",
        action="store_true",
        help="stop trials that are worse than the median of the others at the same epoch",
    )
    parser.add_argument(
        "--ray", type=int, metavar="N", help="let N workers of a ray cluster run the trials"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the search that a command line describes.

    Raises:
        InputError: settings, a space or a package that cannot be used.
    """
    own, settings = split_settings(sys.argv[1:] if arguments is None else arguments)
    given = _parser().parse_args(own)
    if given.space is None:
        raise InputError(f"--space is required: {SPACE}")
    if given.trials < 1:
        raise InputError(f"--trials must be at least 1, got {given.trials}")
    if given.ray is not None and given.ray < 1:
        raise InputError(f"--ray must be at least 1, got {given.ray}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "a trial runs in one process: start this command without accelerate, once for each GPU"
            " (CUDA_VISIBLE_DEVICES=0, 1, ...)"
        )
    kind = kind_of_experiment(given.config, settings)
    config, _ = parse_config(["--config", given.config, *settings], kind=kind)
    if not any(word.split("=")[0] == "--run_dir" for word in settings):
        # The folder in the config is that of a single run.
        config.run_dir = str(Path("runs") / "search" / Path(config.run_dir).name)
    from kanseg.experiments.search.search import search

    options = {"trials": given.trials, "storage": given.storage, "prune": given.prune}
    if given.ray is None:
        search(config, given.space, **options)
    else:
        _on_ray(given.ray, search, config, Path(given.space).resolve(), **options)


def kind_of_experiment(config: str, settings: Sequence[str]) -> type:
    """`ClassificationConfig` if the network is a classifier, else `Config`. The parser reports a
    config that cannot be read.
    """
    from kanseg.models import list_models

    name = None
    with contextlib.suppress(OSError, InputError, TypeError, KeyError):
        name = read_yaml(Path(config))["model"]["name"]
    words = iter(settings)
    for word in words:
        option, _, value = word.partition("=")
        if option == "--model.name":
            name = value or next(words, None)
    return ClassificationConfig if name in list_models("classification") else Config


def _on_ray(workers: int, search: Any, config: Any, space: Path, **options: Any) -> None:
    """Run the search in every worker. All of them need access to the storage and the run folder."""
    try:
        import ray
    except ModuleNotFoundError:
        raise InputError(
            "--ray needs ray: python -m pip install 'ray>=2'; without it start the same command"
            " several times"
        ) from None
    config.run_dir = str(Path(config.run_dir).resolve())  # workers have their own working folder
    config.data.root = str(Path(config.data.root).resolve())
    ray.init(ignore_reinit_error=True)
    gpus = min(1.0, ray.cluster_resources().get("GPU", 0) / workers)
    worker = ray.remote(num_cpus=1, num_gpus=gpus)(search)
    ray.get([worker.remote(config, space, **options) for _ in range(workers)])
