"""The part of `kanseg predict` for classifiers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kanseg.config.arguments import ToolParser, refuse_given
from kanseg.inference.classifier import Classifier
from kanseg.inference.files.classes import PREDICTIONS, classify_files
from kanseg.inference.files.inputs import Job
from kanseg.utils.language import translate

# Options that mean nothing for a classifier, beside those that `open_predictor` refuses.
OF_MASKS = ("no_overlays", "probabilities", "uncertainty", "novelty", "polygons", "large")


def predict_classes(
    classifier: Classifier,
    jobs: Sequence[Job],
    output: Path,
    given: Any,
    parser: ToolParser,
    *,
    part: tuple[int, int],
    log: Callable[[str], None],
) -> int:
    """Classify all files; 1 if one of them failed.

    Args:
        classifier: loaded from the checkpoints.
        jobs: all files, of all parts.
        output: folder.
        given: the options of the command line.
        parser: with their defaults.
        part: (k, n).
        log: receives messages.

    Raises:
        InputError: an option that means nothing for a classifier.
    """
    refuse_given(
        parser,
        given,
        OF_MASKS,
        "is for masks, and this checkpoint is a classifier, which predicts"
        " a class for the whole image",
    )
    refuse_given(parser, given, ["share"], "is for masks: divide images to classify by --part")
    outcome = classify_files(
        classifier,
        jobs,
        output,
        thumbnails=not given.no_thumbnails,
        skip_existing=given.skip_existing,
        part=part,
        max_pixels=given.max_pixels,
        log=log,
        progress=True,
    )
    done = len(outcome.written) + len(outcome.skipped)
    kept = ""
    if outcome.skipped:
        kept = translate(" ({count} of them from before)", count=len(outcome.skipped))
    where = translate("in {output}", output=output / PREDICTIONS)
    if not (output / PREDICTIONS).is_file():
        where = translate(
            "classified; {output} is written when all {parts} parts are done",
            output=output / PREDICTIONS,
            parts=part[1],
        )
    print(
        translate(
            "{done} images{kept} {place}, {failed} failed",
            done=done,
            kept=kept,
            place=where,
            failed=len(outcome.failed),
        )
    )
    return 1 if outcome.failed else 0
