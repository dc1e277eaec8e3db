"""Write the files of a comparison: table.md, table.json, comparison.png and examples.png."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kanseg.config import Config
from kanseg.data.splits.record import read_record
from kanseg.experiments.compare.figures import draw_comparison, draw_examples
from kanseg.experiments.compare.statistics import (
    comparison_rows,
    comparison_table,
    default_score,
    few_seeds_note,
    read_scores,
)
from kanseg.experiments.compare.variants import run_folder
from kanseg.experiments.settings import is_finished
from kanseg.training.run_folder.logging import plain
from kanseg.utils.io import atomic_write_text

NOTE = (
    "{score}: mean ± standard deviation over the seeds of the mean over the {split} images. 95 %"
    " over seeds, and its p: for trainings with other seeds, on these\nimages (t interval of the"
    " differences of the seeds, paired by seed). 95 % over images: how sure the difference is for"
    " images like these, with these trained\nnetworks; it says nothing about other seeds. Intervals"
    " and p are corrected for {tests} (Bonferroni). better in: the number of images that are"
    " better,\nthe seeds averaged. Images without a score in any of the runs are left out."
)
Runs = dict[str, dict[int, Path]]  # variant -> seed -> run folder


def write_comparison(
    variants: Mapping[str, Config],
    seeds: Sequence[int],
    output: Path,
    *,
    baseline: str,
    split: str,
    score: str | None,
    log: Callable[[str], None] = print,
) -> list[Path]:
    """Write tables and figures of the finished runs; nothing if a variant has no finished run.

    Args:
        variants: name -> settings.
        seeds: of the runs.
        output: folder of the runs, and of the files that are written.
        baseline: the variant that the others are compared with.
        split: "val" or "test".
        score: a column of scores_SPLIT.csv; None for the `default_score`.
        log: called with each line of progress.

    Returns:
        The paths of the files.
    """
    finished, missing = _finished_runs(variants, seeds, output)
    if missing:
        log(f"compare: not finished yet: {', '.join(map(str, missing))}")
    if not all(finished.values()):
        return []
    first_runs = {name: next(iter(runs.values())) for name, runs in finished.items()}
    if score is None:
        score = default_score(next(iter(first_runs.values())), split)
    scores = {name: read_scores(runs, split, score) for name, runs in finished.items()}
    rows = comparison_rows(scores, baseline)

    few_seeds = few_seeds_note({row["variant"]: len(row["difference_by_seed"]) for row in rows[1:]})
    parts = [comparison_table(rows, score=score)]
    if few_seeds is not None:
        parts.append(few_seeds)
    tests = f"{rows[-1]['corrected_for']} comparisons"
    parts.append(NOTE.format(score=score, split=split, tests=tests))
    parts += data_warnings(finished)
    text = "\n\n".join(parts)
    figures = {"score": score, "split": split, "few_seeds": few_seeds, "rows": rows}
    atomic_write_text(output / "table.md", text + "\n")
    atomic_write_text(output / "table.json", json.dumps(plain(figures), indent=1) + "\n")
    log(f"\n{text}\n")
    written = [output / "table.md", output / "table.json"]
    written.append(draw_comparison(rows, scores, output / "comparison.png", score=score))
    config = next(iter(variants.values()))
    examples = draw_examples(config, first_runs, scores, output / "examples.png", split=split)
    if examples is not None:
        written.append(examples)
    log(f"compare: {', '.join(map(str, written))}")
    return written


def _finished_runs(
    variants: Mapping[str, Config], seeds: Sequence[int], output: Path
) -> tuple[Runs, list[Path]]:
    """The finished runs of each variant, and the folders of the others."""
    finished: Runs = {name: {} for name in variants}
    missing = []
    for name, config in variants.items():
        for seed in seeds:
            run = run_folder(output, name, seed)
            config_of_run = replace(config, seed=seed, run_dir=str(run))
            if is_finished(config_of_run, hint="choose another --output"):
                finished[name][seed] = run
            else:
                missing.append(run)
    return finished, missing


def data_warnings(finished: Mapping[str, Mapping[int, Path]]) -> list[str]:
    """A warning if the stored splits of the runs have different training samples."""
    trained_on = {}
    for runs in finished.values():
        for run in runs.values():
            record = read_record(run)
            if record:
                trained_on[run] = record.splits.get("train")
    first = next(iter(trained_on), None)
    other = [str(run) for run, samples in trained_on.items() if samples != trained_on[first]]
    if not other:
        return []
    return [
        f"Warning: {', '.join(other)} were trained on other samples than {first}, because the data"
        " set was changed in between; the runs cannot be compared."
    ]
