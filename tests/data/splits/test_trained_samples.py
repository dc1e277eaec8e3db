import numpy as np
import pytest
from PIL import Image

from kanseg.data.sample import Sample
from kanseg.data.splits.record import SplitRecord, name_of, sample_contents
from kanseg.data.splits.trained_samples import leave_out_trained


@pytest.fixture
def images(tmp_path):
    """Eight samples under tmp_path/set, and the record of a run that trained on 0 to 3."""
    (tmp_path / "set" / "images").mkdir(parents=True)
    samples = []
    for number in range(8):
        path = tmp_path / "set" / "images" / f"{number}.png"
        Image.fromarray(np.full((4, 4), number, np.uint8)).save(path)
        samples.append(Sample(str(number), path))
    contents = sample_contents(samples, tmp_path / "set")
    parts = {"train": samples[:4], "val": samples[4:6], "test": samples[6:]}
    splits = {
        split: {name_of(sample.image, tmp_path / "set"): contents[sample] for sample in some}
        for split, some in parts.items()
    }
    return tmp_path / "set", samples, SplitRecord(splits)


def untrained(images, samples, **options):
    root, _, stored = images
    options = {"root": root, "same_set": True, "splits": {"test"}} | options
    return leave_out_trained(stored, samples, **options)


def test_what_was_trained_on_is_left_out_and_named(images):
    _, samples, _ = images
    result = untrained(images, [samples[1], *samples[6:]])
    assert (result.keep, result.left_out) == (samples[6:], [samples[1]])
    assert "1 of 3 images" in result.lines[0]
    assert "images/1.png" in result.lines[0]
    fine = untrained(images, samples[6:])
    assert fine.keep == samples[6:]
    assert len(fine.lines) == 1
    assert "none of these 2 images" in fine.lines[0]


def test_a_renamed_and_a_copied_image_are_known_by_their_content(images, tmp_path):
    root, samples, _ = images
    renamed = Sample("new", root / "images" / "new.png")
    renamed.image.write_bytes(samples[2].image.read_bytes())
    elsewhere = Sample("x", tmp_path / "other" / "x.png")
    elsewhere.image.parent.mkdir()
    elsewhere.image.write_bytes(samples[3].image.read_bytes())
    assert untrained(images, [renamed, samples[6]]).left_out == [renamed]
    options = {"root": tmp_path / "other", "same_set": False}
    assert untrained(images, [elsewhere], **options).left_out == [elsewhere]


def test_an_image_that_was_saved_anew_is_known_by_its_name_in_the_same_set_alone(images):
    _, samples, _ = images
    Image.fromarray(np.full((4, 4), 99, np.uint8)).save(samples[2].image)
    assert untrained(images, [samples[2], samples[6]]).left_out == [samples[2]]
    Image.fromarray(np.full((4, 4), 98, np.uint8)).save(samples[6].image)
    options = {"same_set": False}  # a stranger's 2.png
    assert untrained(images, [samples[2], samples[6]], **options).left_out == []
    samples[6].image.write_bytes(samples[7].image.read_bytes())
    # A set that was moved is known by what it holds.
    assert untrained(images, [samples[2], samples[7]], **options).left_out == [samples[2]]


def test_a_requested_training_split_is_evaluated_and_logged(images):
    _, samples, _ = images
    result = untrained(images, samples[:4], splits={"train"}, requested_train=samples[:4])
    assert result.keep == samples[:4]
    assert result.trained == 4
    assert any("training scores" in line and "4 of these 4 images" in line for line in result.lines)
    unknown = leave_out_trained(
        None,
        samples,
        root=images[0],
        same_set=True,
        splits={"train"},
        requested_train=samples[:4],
    )
    assert unknown.trained == 4
    assert "training scores" in unknown.lines[-1]


def test_new_changed_and_missing_images_of_the_test_are_named(images):
    root, samples, _ = images
    new = Sample("new", root / "images" / "new.png")
    Image.fromarray(np.full((4, 4), 77, np.uint8)).save(new.image)
    Image.fromarray(np.full((4, 4), 78, np.uint8)).save(samples[7].image)
    lines = "\n".join(untrained(images, [new, samples[7], samples[4]]).lines)
    assert "1 images are new since the training: images/new.png" in lines
    assert "1 images or masks have changed since the training: images/7.png" in lines
    assert "1 images selected the weights of this run (its split val): images/4.png" in lines
    assert "1 images that this run has in test" in lines
    assert ": images/6.png" in lines


def test_a_blank_image_in_train_and_test_of_the_run_itself_is_measured(images):
    root, samples, _ = images
    samples[6].image.write_bytes(samples[0].image.read_bytes())
    contents = sample_contents(samples, root)
    splits = {
        "train": {"images/0.png": contents[samples[0]]},
        "test": {"images/6.png": contents[samples[6]]},
    }
    assert leave_out_trained(
        SplitRecord(splits), [samples[6]], root=root, same_set=True, splits={"test"}
    ).keep == [samples[6]]


def test_a_run_without_a_record_is_logged_and_not_refused(images):
    root, samples, stored = images
    result = leave_out_trained(None, samples, root=root, same_set=True, splits={"test"})
    assert result.keep == samples
    assert "no record of its splits" in result.lines[0]
    older = SplitRecord(stored.splits, complete=False)
    result = leave_out_trained(older, samples[6:], root=root, same_set=True, splits={"test"})
    assert "older version" in result.lines[0]
