"""What is wrong with one image and its mask."""

from __future__ import annotations

from pathlib import Path

from kanseg.data.checks.files import ImageFacts, Mask
from kanseg.data.checks.inspector import Inspector, Label, mask_files
from kanseg.data.checks.kinds import Issue
from kanseg.data.label_spec import IGNORE_INDEX, LabelSpec
from kanseg.data.labels import indices_by_color
from kanseg.data.sample import Sample
from kanseg.utils.errors import InputError

ENDS = (
    32  # distance from 0 and 255 within which lossy compression leaves the values of a mask of both
)


def check_sample(
    sample: Sample, info: LabelSpec | None, inspector: Inspector
) -> tuple[list[Issue], Label | None]:
    """The faults of a sample, and its label where there are no errors.

    Args:
        sample: image and mask.
        info: what the mask values mean; None where that is not known.
        inspector: looks at files.
    """
    image = inspector.image(sample.image)
    issues = _image_issues(sample, image, inspector)
    if sample.mask is None or (isinstance(sample.mask, tuple) and not any(sample.mask)):
        where = inspector.name(sample.image.parent.parent / "masks" / f"{sample.name}.png")
        issues.append(
            _issue("no_mask", sample, sample.image, f"the image has no mask {where}", inspector)
        )
        return issues, None
    masks = {path: inspector.mask(path) for path in mask_files(sample)}
    for path, mask in masks.items():
        issues += _mask_issues(sample, path, mask, image, inspector)
    if info is None:
        issues += [
            _no_palette(sample, path, mask, inspector) for path, mask in masks.items() if mask.color
        ]
        issues += [
            _issue("lossy_mask", sample, path, _lossy_reason(mask, None, None), inspector)
            for path, mask in masks.items()
            if mask.lossy and not mask.color
        ]
    label = None
    if info is not None and not any(issue.kind.severity == "error" for issue in issues):
        label, found = _label(sample, info, inspector)
        issues += found
    if label is not None:
        issues += _label_issues(sample, label, info, image, inspector)
    return issues, None if any(issue.kind.severity == "error" for issue in issues) else label


def _issue(
    code: str, sample: Sample, path: Path, reason: str, inspector: Inspector, **details: object
) -> Issue:
    return Issue(code, inspector.name(path), reason, (sample,), details)


def _image_issues(sample: Sample, image: ImageFacts, inspector: Inspector) -> list[Issue]:
    if image.fault is not None:
        return [_issue(image.fault[0], sample, sample.image, image.fault[1], inspector)]
    if image.constant:
        return [
            _issue(
                "constant_image",
                sample,
                sample.image,
                "all pixels are equal; is this an empty export?",
                inspector,
            )
        ]
    return []


def _mask_issues(
    sample: Sample, path: Path, mask: Mask, image: ImageFacts, inspector: Inspector
) -> list[Issue]:
    if mask.fault is not None:
        return [_issue(mask.fault[0], sample, path, mask.fault[1], inspector)]
    if image.fault is None and mask.size != image.size:
        return [_size_mismatch(sample, path, mask.size, image.size, inspector)]
    if mask.alpha_varies:
        reason = (
            "its alpha channel varies, and is left out; if the label is in there:"
            " Image.open(f).getchannel('A').save(f)"
        )
        return [_issue("mask_alpha", sample, path, reason, inspector)]
    return []


def _size_mismatch(
    sample: Sample, path: Path, mask: list[int], image: list[int], inspector: Inspector
) -> Issue:
    sizes = {"mask": list(mask), "image": list(image)}
    reason = f"the mask is {mask[1]}x{mask[0]} and the image {image[1]}x{image[0]} pixels"
    return _issue("size_mismatch", sample, path, reason, inspector, **sizes)


def _no_palette(sample: Sample, path: Path, mask: Mask, inspector: Inspector) -> Issue:
    if mask.gray:
        reason = (
            "a mask with three equal channels; save it as 8-bit gray (one channel) with class"
            " indices"
        )
    else:
        reason = (
            f"a color mask of {_number(mask)} colors, but there is no palette; give classes and"
            " palette (an RGB color a class) in dataset.yaml"
        )
    return _issue(
        "rgb_without_palette",
        sample,
        path,
        reason,
        inspector,
        colors=[shown(v[0], True) for v in mask.values[:20]],
    )


def _label(
    sample: Sample, info: LabelSpec, inspector: Inspector
) -> tuple[Label | None, list[Issue]]:
    """The label by the values of a single mask file, else by `read_label`."""
    if (
        isinstance(sample.mask, Path)
        and info.task != "multilabel"
        and (inspector.mask(sample.mask).color or not inspector.mask(sample.mask).more)
        and inspector.image(sample.image).nodata is None
    ):
        return _label_of_values(sample, info, inspector)
    label = inspector.label(sample, info)
    if label.fault is None:
        return label, []
    first = next(mask_files(sample), sample.image)
    lossy = [path for path in mask_files(sample) if inspector.mask(path).lossy]
    code = (
        "lossy_mask"
        if lossy
        else (
            "bad_value"
            if any(word in label.fault[1] for word in ("is no class", "not in the palette"))
            else "label"
        )
    )
    return None, [
        _issue(
            code,
            sample,
            lossy[0] if lossy else first,
            label.fault[1].removeprefix(f"{first}: "),
            inspector,
        )
    ]


def _label_of_values(
    sample: Sample, info: LabelSpec, inspector: Inspector
) -> tuple[Label | None, list[Issue]]:
    path, mask = sample.mask, inspector.mask(sample.mask)
    if mask.color and info.palette is None:
        return None, [_no_palette(sample, path, mask, inspector)]
    index_of = info.index_of_color if mask.color else info.index_of_value
    if mask.palette:
        try:
            index_of = indices_by_color(dict(mask.palette), info) or index_of
        except InputError as error:
            return None, [_issue("colors_contradict", sample, path, str(error), inspector)]
    bad = [row for row in mask.values if row[0] not in index_of]
    if bad:
        pixels = mask.size[0] * mask.size[1] - sum(
            row[1] for row in mask.values if row[0] in index_of
        )
        return None, [_bad_values(sample, mask, bad, pixels, info=info, inspector=inspector)]
    label = Label(None, mask.size, [0] * len(info.classes))
    for value, count, *_ in mask.values:
        if index_of[value] == IGNORE_INDEX:
            label.ignored += count
        else:
            label.counts[index_of[value]] += count
    lossy = (
        f"the mask is {mask.lossy}, which blurs values; this one is whole, but save masks as PNG"
    )
    return label, [_issue("lossy_format", sample, path, lossy, inspector)] if mask.lossy else []


def _bad_values(
    sample: Sample,
    mask: Mask,
    bad: list[list[int]],
    pixels: int,
    *,
    info: LabelSpec,
    inspector: Inspector,
) -> Issue:
    value, _, row, column = bad[0]
    details = {
        "values": [
            {"value": shown(v, mask.color), "pixels": n, "row": r, "column": c}
            for v, n, r, c in bad[:100]
        ],
        "pixels": pixels,
    }
    first = f"{shown(value, mask.color)} at row {row}, column {column}"
    code, reason = (
        "bad_value",
        (
            f"value {first} ({pixels} pixels in all) is no class; expected {info.expected_values};"
            f" {_listed(bad, mask)}"
        ),
    )
    if mask.color:
        reason = (
            f"color {first} ({pixels} pixels in all) is not in the palette; {_listed(bad, mask)}"
        )
    elif {entry[0] for entry in mask.values} <= {0, 255}:
        code = "mask_0_255"
        reason = (
            f"holds 0 and 255 ({pixels} pixels) where {info.expected_values} are expected; divide"
            " by 255, or give mask_values: {0: 0, 255: 1}"
        )
    if mask.lossy:
        code, reason = "lossy_mask", _lossy_reason(mask, pixels, info)
    return _issue(code, sample, sample.mask, reason, inspector, **details)


def _lossy_reason(mask: Mask, pixels: int | None, info: LabelSpec | None) -> str:
    """What is wrong with a lossy mask and how to mend it; without `info` it is not known which of
    its values are classes.
    """
    total, near = (
        mask.size[0] * mask.size[1],
        sum(count for value, count, *_ in mask.values if not ENDS <= value <= 255 - ENDS),
    )
    start = f"{mask.lossy} blurs masks: {_number(mask)} values" + (
        "" if info is None else f", {pixels} pixels of no class"
    )
    if not mask.color and near >= 0.9 * total:
        cure = (
            "export anew as PNG, or threshold at 128 and save as PNG"
            " (Image.open(f).convert('L').point(lambda v: 255 * (v > 127)))"
        )
        return f"{start}; 0 and 255 with gray between: {cure}"
    expected = "" if info is None else f" (expected {info.expected_values})"
    return (
        f"{start}{expected}; indices cannot be told from neighbors any more: export the masks anew"
        " as PNG"
    )


def _listed(bad: list[list[int]], mask: Mask) -> str:
    """The cure, after the values where there are several."""
    some = ", ".join(
        f"{shown(value, mask.color)} ({count})"
        for value, count, *_ in sorted(bad, key=lambda entry: -entry[1])[:4]
    )
    values = (
        f"values that are none: {some}{', ...' if len(bad) > 4 else ''}; " if len(bad) > 1 else ""
    )
    return values + (
        "mend the mask or the palette"
        if mask.color
        else "correct the mask, or name the value in mask_values or ignore_index"
    )


def shown(value: int, color: bool) -> int | list[int]:
    """A value as a person writes it: an integer, or [red, green, blue]."""
    return [value >> 16, value >> 8 & 255, value & 255] if color else value


def _number(mask: Mask) -> str:
    return f"more than {len(mask.values)}" if mask.more else str(len(mask.values))


def _label_issues(
    sample: Sample, label: Label, info: LabelSpec, image: ImageFacts, inspector: Inspector
) -> list[Issue]:
    path = next(mask_files(sample), sample.image)
    if image.fault is None and label.size != image.size:
        return [_size_mismatch(sample, path, label.size, image.size, inspector)]
    multilabel = info.task == "multilabel"
    everywhere = label.size[0] * label.size[1] * (len(info.classes) if multilabel else 1)
    if label.ignored == everywhere:
        return [
            _issue(
                "all_ignored",
                sample,
                path,
                "every pixel is ignored, so that nothing can be learned or measured",
                inspector,
            )
        ]
    if sum(label.counts if multilabel else label.counts[1:]) == 0:
        what = "no class has a pixel" if multilabel else f"nothing but {info.classes[0]}"
        return [_issue("empty_mask", sample, path, what, inspector)]
    only = [index for index, count in enumerate(label.counts) if count]
    if not multilabel and len(only) == 1 and label.ignored == 0:
        return [
            _issue(
                "one_class_only", sample, path, f"every pixel is {info.classes[only[0]]}", inspector
            )
        ]
    return []
