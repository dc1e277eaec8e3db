"""Every kind of fault that the check of a data set can find, with a code that programs can rely
on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kanseg.data.sample import Sample


@dataclass(frozen=True)
class Kind:
    """What one kind of fault is.

    Args:
        severity: "error" stops a training, "warning" does not.
        title: in a few words, for a heading.
        stops: whether it stops a training even with `skip_bad`, since leaving samples out does not
            mend it.
    """

    severity: str
    title: str
    stops: bool = False


def _error(title: str, *, stops: bool = False) -> Kind:
    return Kind("error", title, stops)


KINDS: dict[str, Kind] = {
    "layout": _error("the folder cannot be read as a data set", stops=True),
    "labels": _error(
        "what the mask values mean is not given and cannot be read off the masks", stops=True
    ),
    "odd_masks": _error(
        "the values of all masks together make no sense; those of most of them do", stops=True
    ),
    "settings": _error("dataset.yaml or a setting cannot be used", stops=True),
    "same_stem": _error("two files of one stem", stops=True),
    "no_split": _error("a split that is asked for is not there", stops=True),
    "split_unknown": _error("a split file names images that do not exist", stops=True),
    "split_path": _error("a split file holds paths, such as ../x", stops=True),
    "split_repeated": _error("a split file lists a name twice", stops=True),
    "split_encoding": _error("a split file is not UTF-8 text", stops=True),
    "no_group": _error("groups.csv leaves images out", stops=True),
    "in_two_splits": _error("an image is listed in two splits", stops=True),
    "missing": _error("a file that is not there"),
    "empty_file": _error("a file of 0 bytes"),
    "unreadable": _error("not an image in a format that can be read"),
    "truncated": _error("a damaged or truncated file"),
    "too_large": _error("more pixels than the limit"),
    "unsupported": _error("an image of a kind that is not supported"),
    "nan": _error("NaN or infinite values"),
    "no_mask": _error("an image without a mask"),
    "no_image": _error("a mask without an image"),
    "size_mismatch": _error("mask and image of different sizes"),
    "bad_value": _error("mask values that are no class"),
    "mask_0_255": _error("a mask of 0 and 255 where class indices are expected"),
    "lossy_mask": _error("a mask whose values were blurred by lossy compression"),
    "rgb_without_palette": _error("a color mask without a palette"),
    "all_ignored": _error("a mask in which every pixel is ignored"),
    "duplicate_in_two_splits": _error("the same image in two splits"),
    "channels": _error("channels that do not fit data.channels"),
    "colors_contradict": _error("an indexed mask whose colors are not those of its indices"),
    "label": _error("a label that cannot be read"),
    "duplicate": Kind("warning", "the same image twice in a split"),
    "group_in_two_splits": Kind("warning", "a group of groups.csv in two splits"),
    "in_no_split": Kind("warning", "images in no split"),
    "stray_split": Kind("warning", "a split file that is not asked for has faults"),
    "lossy_format": Kind("warning", "a mask in a lossy format, its values still whole"),
    "mask_maybe_0_255": Kind("warning", "a mask of 0 and 255 among others of indices"),
    "empty_mask": Kind("warning", "a mask without any object"),
    "one_class_only": Kind("warning", "a mask that is one class throughout"),
    "class_absent": Kind("warning", "a class without a pixel"),
    "size_outlier": Kind("warning", "an image of quite another size"),
    "channels_mixed": Kind("warning", "images of different kinds"),
    "sizes_mixed": Kind("warning", "training images of several sizes, without resize or crop"),
    "constant_image": Kind("warning", "an image of a single color"),
    "mask_alpha": Kind("warning", "a mask whose alpha channel varies"),
    "white_at_0": Kind("warning", "masks in which 0 is white"),
    "palettes_differ": Kind("warning", "indexed masks with another color at the same index"),
    "other_palette": Kind("warning", "indexed masks with colors that dataset.yaml does not name"),
    "class_everywhere": Kind("warning", "a class that fills every image"),
}


@dataclass(frozen=True)
class Issue:
    """One fault.

    Args:
        code: its kind, a key of `KINDS`.
        file: the file, relative to the data set's root ("." for the root itself).
        reason: what was expected, what came, and how to mend it; one line.
        samples: those that are left out with `skip_bad`.
        details: numbers and names for programs, JSON-able.
    """

    code: str
    file: str
    reason: str
    samples: tuple[Sample, ...] = ()
    details: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def kind(self) -> Kind:
        """Severity and title."""
        return KINDS[self.code]
