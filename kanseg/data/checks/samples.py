"""The problems of a single image and its mask."""

from __future__ import annotations

from pathlib import Path

from kanseg.data.checks.prober import LabelFacts, Prober, mask_files
from kanseg.data.formats.issues import Issue
from kanseg.data.io.colors import unpack_rgb
from kanseg.data.io.probe import ImageFacts, MaskFacts, fault_reason
from kanseg.data.label_spec import IGNORE_INDEX, LabelSpec
from kanseg.data.labels import index_of_stored_value
from kanseg.data.sample import Sample
from kanseg.utils.errors import InputError
from kanseg.utils.language import Text, translate

BLUR = 32  # lossy compression changes values 0 and 255 by less
MAX_BAD_VALUES = 100  # in the details of an issue


def check_sample(
    sample: Sample, spec: LabelSpec | None, prober: Prober
) -> tuple[list[Issue], LabelFacts | None]:
    """Return the problems of a sample, and the facts about its label if there are no errors.

    Args:
        sample: image and mask.
        spec: meaning of the mask values; None if it is not known.
        prober: of the data set.
    """
    image = prober.image(sample.image)
    issues = []
    if image.fault is not None:
        reason = fault_reason(image.fault)
        issues.append(_issue(image.fault[0], sample, sample.image, reason, prober))
    elif image.constant:
        reason = translate("all pixels are equal; is this an empty export?")
        issues.append(_issue("constant_image", sample, sample.image, reason, prober))
    if not sample.has_mask:
        folder = sample.image.parent.parent / "masks"
        reason = translate("the image has no mask of its name")
        if folder.is_dir():
            where = prober.name(folder)
            reason = translate("the image has no mask of its name in {folder}/", folder=where)
        issues.append(_issue("no_mask", sample, sample.image, reason, prober))
        return issues, None
    for path in mask_files(sample):
        issues += _mask_issues(sample, path, image, spec, prober)
    if spec is None or any(issue.is_error for issue in issues):
        return issues, None
    label, found = _label_facts(sample, spec, prober)
    issues += found
    if label is not None:
        issues += _label_issues(sample, label, spec, image, prober)
    if any(issue.is_error for issue in issues):
        return issues, None
    return issues, label


def _issue(
    code: str,
    sample: Sample,
    path: Path,
    reason: str,
    prober: Prober,
    shared: str = "",
    **details: object,
) -> Issue:
    return Issue(code, prober.name(path), reason, (sample,), details, shared)


def _mask_issues(
    sample: Sample, path: Path, image: ImageFacts, spec: LabelSpec | None, prober: Prober
) -> list[Issue]:
    """Return the problems of a mask file that do not depend on the classes."""
    mask = prober.mask(path)
    if mask.fault is not None:
        return [_issue(mask.fault[0], sample, path, fault_reason(mask.fault), prober)]
    issues = []
    if image.fault is None and mask.size != image.size:
        issues.append(_size_mismatch(sample, path, mask.size, image.size, prober))
    elif mask.alpha_varies:
        reason = translate(
            "its alpha channel varies, and is ignored; if it holds the label:"
            " Image.open(f).getchannel('A').save(f)"
        )
        issues.append(_issue("mask_alpha", sample, path, reason, prober))
    if spec is None and mask.color:
        issues.append(_no_palette(sample, path, mask, prober))
    elif spec is None and mask.lossy:
        reason = _reason_of_lossy(mask, None, None)
        issues.append(_issue("lossy_mask", sample, path, reason, prober))
    return issues


def _size_mismatch(
    sample: Sample, path: Path, mask: list[int], image: list[int], prober: Prober
) -> Issue:
    sizes = {"mask": list(mask), "image": list(image)}
    reason = translate(
        "the mask is {mask} and the image {image} pixels (height x width)",
        mask="x".join(map(str, mask)),
        image="x".join(map(str, image)),
    )
    return _issue("size_mismatch", sample, path, reason, prober, **sizes)


def _no_palette(sample: Sample, path: Path, mask: MaskFacts, prober: Prober) -> Issue:
    reason = translate(
        "a color mask of {count} colors, but there is no palette; give classes and palette (an RGB"
        " color per class) in dataset.yaml",
        count=_number_of_values(mask),
    )
    if mask.gray:
        reason = translate(
            "a mask with three equal channels; save it as 8-bit gray (one channel) with class"
            " indices"
        )
    colors = [unpack_rgb(value) for value, *_ in mask.values[:20]]
    return _issue("rgb_without_palette", sample, path, reason, prober, colors=colors)


def _label_facts(
    sample: Sample, spec: LabelSpec, prober: Prober
) -> tuple[LabelFacts | None, list[Issue]]:
    """Return the facts about a label from the cached histogram of its mask file if possible, else
    by reading the label.
    """
    if isinstance(sample.mask, Path) and spec.task != "multilabel":
        mask = prober.mask(sample.mask)
        if (mask.color or not mask.more) and prober.image(sample.image).nodata is None:
            return _label_of_histogram(sample, mask, spec, prober)
    label = prober.label(sample, spec)
    if label.fault is None:
        return label, []
    path = next(mask_files(sample), sample.image)
    for file in sample.files:
        if str(file) == label.fault[2]:
            path = file
    lossy = [path for path in mask_files(sample) if prober.mask(path).lossy]
    code = "label"
    if lossy:
        code, path = "lossy_mask", lossy[0]
    elif label.fault[0] == "bad_value":
        code = "bad_value"
    reason, shared = fault_reason(label.fault), ""
    first = reason.values.get("first")
    if isinstance(first, Text):  # a value and its position
        value = str(first.values["value"])
        shared = translate(reason.english, **(reason.values | {"first": (value,)}))
    return None, [_issue(code, sample, path, reason, prober, shared)]


def _label_of_histogram(
    sample: Sample, mask: MaskFacts, spec: LabelSpec, prober: Prober
) -> tuple[LabelFacts | None, list[Issue]]:
    """Count the pixels of each class from the histogram of a mask, without decoding it again."""
    path = sample.mask
    if mask.color and spec.palette is None:
        return None, [_no_palette(sample, path, mask, prober)]
    try:
        palette = dict(mask.palette)
        index_of = index_of_stored_value(spec, color=mask.color, palette=palette)
    except InputError as error:
        return None, [_issue("colors_contradict", sample, path, str(error), prober)]
    bad = [entry for entry in mask.values if entry[0] not in index_of]
    if bad:
        return None, [_bad_values(sample, mask, bad, spec, prober)]
    label = LabelFacts(None, mask.size, [0] * len(spec.classes))
    for value, count, *_ in mask.values:
        index = index_of[value]
        if index == IGNORE_INDEX:
            label.ignored += count
        else:
            label.counts[index] += count
    if not mask.lossy:
        return label, []
    reason = translate(
        "the mask is {format}, which can blur values; its values are intact, but use PNG",
        format=mask.lossy,
    )
    return label, [_issue("lossy_format", sample, path, reason, prober)]


def _bad_values(
    sample: Sample, mask: MaskFacts, bad: list[list[int]], spec: LabelSpec, prober: Prober
) -> Issue:
    """Return the problem of a mask with values that are not a class.

    Args:
        bad: the entries of `MaskFacts.values` that are not a class.
    """
    is_bad = {value for value, *_ in bad}
    good_pixels = sum(count for value, count, *_ in mask.values if value not in is_bad)
    pixels = mask.size[0] * mask.size[1] - good_pixels
    details = []
    for value, count, row, column in bad[:MAX_BAD_VALUES]:
        shown = shown_value(value, mask.color)
        details.append({"value": shown, "pixels": count, "row": row, "column": column})
    value, _, row, column = bad[0]
    first = translate(
        "{value} at row {row}, column {column} ({pixels} pixels in all)",
        value=shown_value(value, mask.color),
        row=row,
        column=column,
        pixels=pixels,
    )
    code, shared = "bad_value", ""
    if mask.lossy:
        code, reason = "lossy_mask", _reason_of_lossy(mask, pixels, spec)
    elif mask.color:
        reason = translate(
            "color {first} is not in the palette; {others}correct the mask or the palette",
            first=first,
            others=_list_bad(bad, mask),
        )
    elif {value for value, *_ in mask.values} <= {0, 255}:
        code = "mask_0_255"
        reason = translate(
            "holds 0 and 255 where {expected} are expected; divide by 255, or give mask_values:"
            " {{0: 0, 255: 1}}",
            expected=spec.expected_values,
        )
    else:
        reason = translate(
            "value {first} is not a class; expected {expected}; {others}correct the mask, or name"
            " the value in mask_values or ignore_index",
            first=first,
            expected=spec.expected_values,
            others=_list_bad(bad, mask),
        )
    if code == "bad_value":
        values = tuple(shown_value(entry[0], mask.color) for entry in bad)
        shared = translate(reason.english, **(reason.values | {"first": values, "others": ""}))
    return _issue(code, sample, sample.mask, reason, prober, shared, values=details, pixels=pixels)


def _reason_of_lossy(mask: MaskFacts, pixels: int | None, spec: LabelSpec | None) -> str:
    """Return the reason of an issue about a lossy mask.

    Args:
        mask: the facts about it.
        pixels: number of pixels whose value is not a class; None if the classes are not known.
        spec: the classes; None if they are not known.
    """
    bad = expected = ""
    if spec is not None:
        bad = translate(", {pixels} pixels of no class", pixels=pixels)
        expected = translate(" (expected {expected})", expected=spec.expected_values)
    near_ends = 0
    for value, count, *_ in mask.values:
        if value < BLUR or value > 255 - BLUR:
            near_ends += count
    fix = translate("; the original indices are lost: export the masks again as PNG")
    if not mask.color and near_ends >= 0.9 * mask.size[0] * mask.size[1]:
        expected = ""
        fix = translate(
            "; 0 and 255 with gray between: export again as PNG, or threshold at 128 and save as"
            " PNG (Image.open(f).convert('L').point(lambda v: 255 * (v > 127)))"
        )
    return translate(
        "{format} blurs masks: {count} values{bad}{expected}{fix}",
        format=mask.lossy,
        count=_number_of_values(mask),
        bad=bad,
        expected=expected,
        fix=fix,
    )


def _list_bad(bad: list[list[int]], mask: MaskFacts) -> str:
    """Return the most frequent bad values as text; "" for a single value."""
    if len(bad) == 1:
        return ""
    shown = []
    for value, count, *_ in sorted(bad, key=lambda entry: -entry[1])[:4]:
        shown.append(f"{shown_value(value, mask.color)} ({count})")
    if len(bad) > 4:
        shown.append("...")
    return translate("values that are not a class: {values}; ", values=", ".join(shown))


def shown_value(value: int, color: bool) -> int | list[int]:
    """Return a value for a message: an integer, or [red, green, blue]."""
    if color:
        return unpack_rgb(value)
    return value


def _number_of_values(mask: MaskFacts) -> str | int:
    if mask.more:
        return translate("more than {count}", count=len(mask.values))
    return len(mask.values)


def _label_issues(
    sample: Sample, label: LabelFacts, spec: LabelSpec, image: ImageFacts, prober: Prober
) -> list[Issue]:
    """Return the problems of a label that can be read."""
    path = next(mask_files(sample), sample.image)
    if image.fault is None and label.size != image.size:
        return [_size_mismatch(sample, path, label.size, image.size, prober)]
    pixels = label.size[0] * label.size[1]
    if spec.task == "multilabel":
        all_ignored = label.ignored == pixels * len(spec.classes)
        objects, reason = label.counts, translate("no class has a pixel")
    else:
        all_ignored = label.ignored == pixels
        objects = label.counts[1:]
        reason = translate("all pixels are {name} or ignored", name=spec.classes[0])
    if all_ignored:
        reason = translate("every pixel is ignored, so nothing can be learned or measured")
        return [_issue("all_ignored", sample, path, reason, prober)]
    if sum(objects) == 0:
        return [_issue("empty_mask", sample, path, reason, prober)]
    if spec.task != "multilabel" and pixels in label.counts:
        only = spec.classes[label.counts.index(pixels)]
        reason = translate("every pixel is {name}", name=only)
        return [_issue("one_class_only", sample, path, reason, prober)]
    return []
