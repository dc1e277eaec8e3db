"""The kinds of problems of a data set; each has a code for programs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kanseg.data.names import few
from kanseg.data.sample import Sample

MAX_NAMES = 1000  # in the details of an issue


@dataclass(frozen=True)
class Kind:
    """A kind of problem.

    Args:
        severity: "error" stops a training, "warning" does not.
        title: a few words for a heading.
        stops: True if it stops a training even with `skip_bad`, because leaving samples out does
            not solve it.
    """

    severity: str
    title: str
    stops: bool = False


KINDS: dict[str, Kind] = {
    "layout": Kind("error", "the folder cannot be read as a data set", stops=True),
    "labels": Kind(
        "error", "the meaning of the mask values is not given and cannot be inferred", stops=True
    ),
    "settings": Kind("error", "dataset.yaml or a setting cannot be used", stops=True),
    "same_stem": Kind("error", "two files with the same stem", stops=True),
    "no_split": Kind("error", "a split of the settings does not exist", stops=True),
    "split_unknown": Kind("error", "a split file names images that do not exist", stops=True),
    "split_path": Kind("error", "a split file holds paths, such as ../x", stops=True),
    "split_repeated": Kind("error", "a split file lists a name twice", stops=True),
    "split_encoding": Kind("error", "a split file is not UTF-8 text", stops=True),
    "no_group": Kind("error", "groups.csv cannot be read or lacks images", stops=True),
    "in_two_splits": Kind("error", "an image is listed in two splits", stops=True),
    "missing": Kind("error", "a file that does not exist"),
    "empty_file": Kind("error", "a file of 0 bytes"),
    "unreadable": Kind("error", "not an image in a supported format"),
    "truncated": Kind("error", "a damaged or truncated file"),
    "too_large": Kind("error", "more pixels than the limit"),
    "unsupported": Kind("error", "an image of an unsupported kind"),
    "nan": Kind("error", "NaN or infinite values"),
    "no_mask": Kind("error", "an image without a mask"),
    "no_image": Kind("error", "a mask without an image"),
    "size_mismatch": Kind("error", "mask and image of different sizes"),
    "bad_value": Kind("error", "mask values that are not a class"),
    "mask_0_255": Kind("error", "a mask of 0 and 255 where class indices are expected"),
    "lossy_mask": Kind("error", "a mask whose values were blurred by lossy compression"),
    "rgb_without_palette": Kind("error", "a color mask without a palette"),
    "all_ignored": Kind("error", "a mask in which every pixel is ignored"),
    "duplicate_in_two_splits": Kind("error", "the same image in two splits"),
    "channels": Kind("error", "channels that do not fit data.channels"),
    "colors_contradict": Kind("error", "an indexed mask whose colors contradict its indices"),
    "label": Kind("error", "a label that cannot be read"),
    "duplicate": Kind("warning", "the same image twice in a split"),
    "group_in_two_splits": Kind("warning", "a group of groups.csv in two splits"),
    "in_no_split": Kind("warning", "images in no split"),
    "stray_split": Kind("warning", "a split file that the settings do not use has problems"),
    "lossy_format": Kind("warning", "a mask in a lossy format, with intact values"),
    "mask_maybe_0_255": Kind("warning", "a mask of 0 and 255 among others of indices"),
    "empty_mask": Kind("warning", "a mask without any object"),
    "one_class_only": Kind("warning", "a mask of a single class"),
    "class_absent": Kind("warning", "a class without a pixel"),
    "size_outlier": Kind("warning", "an image of an unusual size"),
    "channels_mixed": Kind("warning", "images of different kinds"),
    "sizes_mixed": Kind("warning", "training images of several sizes, without resize or crop"),
    "constant_image": Kind("warning", "an image of a single color"),
    "mask_alpha": Kind("warning", "a mask whose alpha channel varies"),
    "white_at_0": Kind("warning", "masks in which 0 is white"),
    "palettes_differ": Kind("warning", "indexed masks with different colors at the same index"),
    "other_palette": Kind("warning", "indexed masks with colors that dataset.yaml does not name"),
    "class_everywhere": Kind("warning", "a class that fills every image"),
}


@dataclass(frozen=True)
class Issue:
    """One problem of a data set.

    Args:
        code: its kind, a key of `KINDS`.
        file: the file, relative to the root of the data set ("." for the root itself).
        reason: one line: what was expected, what was found, and how to fix it.
        samples: the samples that `skip_bad` leaves out.
        details: numbers and names for programs, as JSON.
        shared: the reason for several files, without what is true of this one only; by default the
            reason.
    """

    code: str
    file: str
    reason: str
    samples: tuple[Sample, ...] = ()
    details: dict[str, Any] = field(default_factory=dict, compare=False)
    shared: str = field(default="", compare=False)

    @property
    def kind(self) -> Kind:
        """Severity and title."""
        return KINDS[self.code]

    @property
    def is_error(self) -> bool:
        """True if the severity is "error"."""
        return self.kind.severity == "error"


def issue_of_names(code: str, file: str, reason: str, names: Iterable[str]) -> Issue:
    """Return an issue whose reason ends with the first of the names; its details list them."""
    names = list(names)
    return Issue(code, file, f"{reason}: {few(names)}", details={"names": names[:MAX_NAMES]})
