import numpy as np
import pytest
import torch

from kanseg.data import ImageAugmentation, Mixer
from kanseg.data.classification.augmentation import default_transforms
from kanseg.utils.errors import InputError

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
MANY = [
    "RandomHorizontalFlip",
    {"RandomCrop": {"size": [20, 24], "padding": 4}},
    "TrivialAugmentWide",
    {"RandomErasing": {"value": "random"}},
]


def test_the_same_seed_gives_the_same_result_whatever_came_before():
    augment = ImageAugmentation(MANY)
    first = augment(IMAGE, 5)
    for seed in range(4):
        augment(IMAGE, seed)
    torch.rand(3)
    assert np.array_equal(first, augment(IMAGE, 5))
    assert np.array_equal(first, ImageAugmentation(MANY)(IMAGE, 5))
    assert len({augment(IMAGE, seed).tobytes() for seed in range(8)}) == 8


def test_the_generator_of_torch_goes_on_as_if_nothing_had_been_drawn():
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    ImageAugmentation(MANY)(IMAGE, 5)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(
    "spec",
    [
        "TrivialAugmentWide",
        {"RandAugment": {"num_ops": 3, "magnitude": 12}},
        {"AutoAugment": {"policy": "cifar10", "interpolation": "bilinear"}},
        "AugMix",
        {"ColorJitter": {"brightness": 0.4, "hue": 0.1}},
        {"RandomApply": {"transforms": [{"GaussianBlur": {"kernel_size": 3}}], "p": 1.0}},
    ],
    ids=str,
)
@pytest.mark.parametrize("channels", [1, 3])
def test_eight_bits_stay_eight_bits_and_sixteen_become_floats(spec, channels):
    image = IMAGE[:, :, :channels]
    before = image.copy()
    augment = ImageAugmentation([spec])
    assert (
        any(not np.array_equal(augment(image, seed), image) for seed in range(4)) or channels == 1
    )
    assert (augment(image, 1).dtype, augment(image, 1).shape) == (np.uint8, image.shape)
    deep = augment(image.astype(np.uint16) * 257, 1)
    assert (deep.dtype, deep.shape) == (np.float32, image.shape)
    assert deep.min() >= 0
    assert deep.max() <= 1
    assert np.array_equal(image, before)


def test_values_go_where_they_should():
    assert np.array_equal(
        ImageAugmentation([{"RandomHorizontalFlip": {"p": 1.0}}])(IMAGE, 0), IMAGE[:, ::-1]
    )
    np.testing.assert_allclose(
        ImageAugmentation([{"RandomVerticalFlip": {"p": 1.0}}])(IMAGE.astype(np.uint16) * 257, 0),
        IMAGE[::-1] / 255,
        atol=1e-6,
    )
    crop = ImageAugmentation([{"RandomCrop": {"size": 8}}])(IMAGE, 3)
    windows = np.lib.stride_tricks.sliding_window_view(IMAGE, (8, 8, 3))[:, :, 0]
    assert (windows == crop).all(axis=(2, 3, 4)).sum() == 1
    assert ImageAugmentation([])(IMAGE, 0) is IMAGE
    prefixed = ImageAugmentation([{"torchvision.RandomCrop": {"size": 8}}])(IMAGE, 3)
    assert np.array_equal(prefixed, crop)


def test_policies_are_those_of_torchvision():
    from torchvision.transforms import v2

    reference = v2.AutoAugment(
        v2.AutoAugmentPolicy.SVHN, interpolation=v2.InterpolationMode.BILINEAR
    )
    torch.manual_seed(11)
    expected = reference(torch.from_numpy(IMAGE).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    assert np.array_equal(
        ImageAugmentation([{"AutoAugment": {"policy": "svhn", "interpolation": "BILINEAR"}}])(
            IMAGE, 11
        ),
        expected,
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "RandomHorizontalFlipp",
            "no transform 'RandomHorizontalFlipp'; did you mean 'RandomHorizontalFlip'",
        ),
        ({"RandomCrop": {"sise": 32}}, "RandomCrop has no option 'sise'; did you mean 'size'"),
        ({"RandomCrop": {}}, "RandomCrop: .*missing"),
        ({"RandomHorizontalFlip": {"p": 7}}, "augmentation RandomHorizontalFlip"),
        ({"ColorJitter": {"brightness": "much"}}, "augmentation ColorJitter"),
        ({"RandomCrop": 32}, "options must be `{option: value}`, got 32"),
        (
            {"AutoAugment": {"policy": "cifar"}},
            "policy 'cifar' is not one of imagenet, cifar10, svhn; did you mean 'cifar10'",
        ),
        (
            {"Resize": {"size": 9, "interpolation": "cubic"}},
            "not one of nearest, .*did you mean 'bicubic'",
        ),
        ({"RandomApply": {"transforms": ["RandomFlip"]}}, "no transform 'RandomFlip'"),
        ({"RandomApply": {"transforms": "RandomCrop"}}, "must be a list"),
        ({"RandomCrop": {}, "Pad": {}}, "an augmentation must be"),
        ("MixUp", "mixes batches"),
        ({"FiveCrop": {"size": 4}}, "several images"),
        ({"Normalize": {"mean": [0], "std": [1]}}, "normalized once"),
        ("Transform", "base"),
        ("InterpolationMode", "no transform"),
    ],
)
def test_misspelt_or_impossible_transforms_are_errors(spec, message):
    with pytest.raises(InputError, match=message):
        ImageAugmentation([spec])


@pytest.mark.parametrize(
    "spec", [{"RandomCrop": {"size": 99}}, "ToPILImage", "Grayscale", "torchvision.Grayscale"]
)
def test_a_transform_that_fails_or_changes_the_type_is_reported_with_the_image(spec):
    with pytest.raises(InputError, match=r"a\.png: augmentation (failed|turned)"):
        ImageAugmentation([spec])(IMAGE, 0, name="a.png")


LABELS = torch.arange(12) % 4
# each image is one value, so that a mixture shows its parts
FLAT = torch.arange(12.0).view(-1, 1, 1, 1).expand(12, 3, 10, 14).contiguous()


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.3, 1.0)])
def test_targets_have_the_shares_of_the_pixels(mixup, cutmix):
    mixer = Mixer(mixup, cutmix, num_classes=12)
    for seed in range(20):
        images, targets = mixer(FLAT, torch.arange(12), seed)
        # the mean of the pixels is the mean of the parts' values, by their shares
        torch.testing.assert_close(
            targets @ torch.arange(12.0), images.mean(dim=(1, 2, 3)), atol=1e-4, rtol=0
        )
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(12))
        assert (targets > 0).sum(dim=1).max() <= 2
    assert torch.equal(FLAT[:, 0, 0, 0], torch.arange(12.0))


def test_cutmix_copies_a_rectangle():
    images, _ = Mixer(cutmix=1.0, num_classes=4)(FLAT, LABELS, 1)
    changed = (images != FLAT).any(dim=1).float()
    for mask in changed:
        rows, columns = mask.amax(dim=1), mask.amax(dim=0)
        assert torch.equal(mask, rows[:, None] * columns)
    assert changed.sum() > 0


def test_both_kinds_come_up_and_depend_on_the_seed_alone():
    mixer = Mixer(0.4, 1.0, num_classes=4)
    random = torch.rand(12, 3, 10, 14)
    cuts = [bool(torch.isin(mixer(FLAT, LABELS, seed)[0], FLAT).all()) for seed in range(40)]
    assert 10 < sum(cuts) < 30
    torch.manual_seed(9)
    first = mixer(random, LABELS, 3)
    torch.manual_seed(10)
    again = mixer(random, LABELS, 3)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], mixer(random, LABELS, 4)[0])


def test_smoothing_spreads_a_share_evenly():
    images, targets = Mixer(num_classes=4, label_smoothing=0.2)(FLAT, LABELS, 0)
    assert images is FLAT
    torch.testing.assert_close(targets, torch.nn.functional.one_hot(LABELS, 4) * 0.8 + 0.05)


@pytest.mark.parametrize(
    "options", [{"mixup": -1.0}, {"cutmix": float("nan")}, {"label_smoothing": 1.0}]
)
def test_values_out_of_range_are_refused(options):
    with pytest.raises(InputError, match="0 or more"):
        Mixer(**options, num_classes=3)


def test_classes_of_one_character_are_not_mirrored_by_default():
    """They may be digits or letters, and a mirrored b is a d."""
    assert default_transforms([str(digit) for digit in range(10)]) == []
    assert default_transforms(["b", "d"]) == []
    assert default_transforms(["b", "dog"]) == [{"torchvision.RandomHorizontalFlip": {"p": 0.5}}]
    seen = {ImageAugmentation("auto")(IMAGE, seed).tobytes() for seed in range(12)}
    assert seen == {IMAGE.tobytes(), np.ascontiguousarray(IMAGE[:, ::-1]).tobytes()}
