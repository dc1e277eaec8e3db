"""The command line of a comparison."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kanseg.cli.study import study_command
from kanseg.config import Config
from kanseg.data.split_record import read_record
from kanseg.experiments.compare.variants import (
    chosen,
    is_finished,
    match_arms,
    read_arms,
    run_arms,
    run_folder,
)
from kanseg.utils.io import atomic_write_text

EPILOG = (
    "Every setting of the experiment can be given as --section.key value, for all arms;"
    " tools/train_seg.py --help lists them."
)
NOTE = (
    "Mean ± standard deviation over the seeds of the mean over the {split} images. Difference with"
    " its 95 % interval and p (Holm's correction for the\nnumber of arms): for new seeds and new"
    " images, both of which are samples (two-way crossed, Satterthwaite's t; it needs two seeds)."
    " better in:\nthe number of images that are better, the seeds averaged. Images without a score"
    " in any of the runs are left out."
)


def comparison_command(argv: Sequence[str], *, description: str) -> int:
    """Run the comparison, or with --study the study, that a command line describes; the exit code.

    Raises:
        InputError: settings, arms or folders that cannot be used.
    """
    if any(word.split("=")[0] == "--study" for word in argv):
        return study_command(argv, description=description)
    parser = argparse.ArgumentParser(
        description=description,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", nargs="+", required=True, help="the experiment; several are an arm each"
    )
    parser.add_argument(
        "--bases",
        type=_words,
        default=[],
        help="comma-separated bases, an arm each, such as gram,bspline,none",
    )
    parser.add_argument(
        "--arms", help="YAML of `arm: {section.key: value}`, for arms that differ in something else"
    )
    parser.add_argument(
        "--seeds", type=_numbers, default=[0, 1, 2], help="comma-separated (default: 0,1,2)"
    )
    parser.add_argument(
        "--match",
        choices=("params", "macs", "none"),
        default="params",
        help="what all arms have equally much of, within 2 %% (default: params)",
    )
    parser.add_argument(
        "--reference",
        help="the arm whose width is kept; those of the others are solved (default: the first)",
    )
    parser.add_argument(
        "--control",
        help=(
            "the arm that the others are compared with (default: none, the plain convolutions, or"
            " else the first)"
        ),
    )
    parser.add_argument(
        "--score",
        help=(
            "a column of scores_SPLIT.csv (default: IoU of the foreground, of several classes"
            " mean/iou)"
        ),
    )
    parser.add_argument("--split", choices=("val", "test"), default="test", help="default: test")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="folder for the runs, table.md, table.json, comparison.png and examples.png",
    )
    arguments, rest = parser.parse_known_args(argv)
    arms = read_arms(
        arguments.config, bases=arguments.bases, arms_file=arguments.arms, settings=rest
    )
    reference = chosen(arguments.reference, arms, "--reference") or next(iter(arms))
    control = chosen(arguments.control, arms, "--control") or (
        "none" if "none" in arms else reference
    )
    if arguments.match != "none":
        arms = match_arms(arms, reference, arguments.match)
    run_arms(arms, arguments.seeds, arguments.output)
    finish(
        arms,
        arguments.seeds,
        arguments.output,
        control=control,
        split=arguments.split,
        score=arguments.score,
    )
    return 0


def finish(
    arms: Mapping[str, Config],
    seeds: Sequence[int],
    output: Path,
    *,
    control: str,
    split: str,
    score: str | None,
    log: Callable[[str], None] = print,
) -> list[Path]:
    """Table and images of the runs that are finished; nothing yet where an arm has none."""
    from kanseg.experiments.compare.figures import draw_comparison, draw_examples
    from kanseg.experiments.compare.statistics import (
        comparison_rows,
        comparison_table,
        default_score,
        read_arm,
    )

    folders = {name: {seed: run_folder(output, name, seed) for seed in seeds} for name in arms}
    done = {
        name: {
            seed: run
            for seed, run in runs.items()
            if is_finished(run, _of_run(arms[name], seed, run))
        }
        for name, runs in folders.items()
    }
    missing = [
        str(run)
        for name, runs in folders.items()
        for seed, run in runs.items()
        if seed not in done[name]
    ]
    if missing:
        log(f"compare: not finished yet: {', '.join(missing)}")
    if not all(done.values()):
        return []
    score = score or default_score(
        next(run for runs in done.values() for run in runs.values()), split
    )
    scores = {name: read_arm(runs, split, score) for name, runs in done.items()}
    rows = comparison_rows(scores, control)
    text = f"{comparison_table(rows, score=score)}\n\n{NOTE.format(split=split)}"
    text += "".join(f"\n\n{line}" for line in other_samples(done))
    atomic_write_text(output / "table.md", text + "\n")
    atomic_write_text(
        output / "table.json",
        json.dumps({"score": score, "split": split, "rows": rows}, indent=1) + "\n",
    )
    log(f"\n{text}\n")
    written = [
        output / "table.md",
        output / "table.json",
        draw_comparison(scores, control, output / "comparison.png", score=score),
    ]
    shown = {name: next(iter(runs.values())) for name, runs in done.items()}
    examples = draw_examples(
        next(iter(arms.values())), shown, scores, output / "examples.png", split=split
    )
    written += [examples] if examples is not None else []
    log(f"compare: {', '.join(map(str, written))}")
    return written


def other_samples(done: Mapping[str, Mapping[int, Path]]) -> list[str]:
    """A line where runs were trained on other samples than the first of them, by their stored
    splits.
    """
    runs = [run for by_seed in done.values() for run in by_seed.values()]
    records = {run: read_record(run) for run in runs}
    known = {run: record.splits.get("train") for run, record in records.items() if record}
    other = [run for run in known if known[run] != known[next(iter(known))]]
    if not other:
        return []
    return [
        f"Warning: {', '.join(map(str, other))} were trained on other samples than"
        f" {next(iter(known))} (the data set was changed in between): the runs do not compare."
    ]


def _of_run(config: Config, seed: int, run: Path) -> Config:
    return replace(config, seed=seed, run_dir=str(run))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[int]:
    numbers = list(dict.fromkeys(int(word) for word in _words(text)))
    if not numbers or min(numbers) < 0:
        raise ValueError
    return numbers


_numbers.__name__ = "list of integers from 0 on"  # what argparse calls it in an error
