import sys
import warnings

import numpy as np
import pytest
import torch

from kanseg.config import Config
from kanseg.data import Augmentation
from kanseg.data.augmentation.torchvision_transforms import REFUSED_WITH_MASKS, known_transforms
from kanseg.utils.errors import InputError

IMAGE = np.random.default_rng(0).integers(0, 200, (20, 24, 3), dtype=np.uint8)
MASK = IMAGE[:, :, 0]
MANY = [
    "torchvision.RandomHorizontalFlip",
    {"torchvision.RandomAffine": {"degrees": 30, "translate": [0.2, 0.2], "scale": [0.8, 1.2]}},
    {"torchvision.ColorJitter": {"brightness": 0.4, "hue": 0.1}},
]
# Arguments that a transform cannot do without, and those that keep its image free of interpolation.
OPTIONS = {
    "ElasticTransform": {"alpha": 90, "sigma": 2, "interpolation": "nearest"},
    "RandomAffine": {"degrees": 40, "translate": [0.3, 0.3]},
    "RandomCrop": {"size": [12, 30], "pad_if_needed": True},
    "Pad": {"padding": 3},
    "RandomPerspective": {"interpolation": "nearest"},
    "RandomResize": {"min_size": 10, "max_size": 40, "interpolation": "nearest"},
    "RandomResizedCrop": {"size": [16, 18], "interpolation": "nearest"},
    "RandomRotation": {"degrees": 60, "expand": True},
    "RandomShortestSize": {"min_size": 12, "interpolation": "nearest"},
    "Resize": {"size": [11, 31], "interpolation": "nearest"},
    "ScaleJitter": {"target_size": [24, 24], "interpolation": "nearest"},
    "RandomZoomOut": {},
    "RandomHorizontalFlip": {},
    "RandomVerticalFlip": {},
}
PHOTOMETRIC = {
    "ColorJitter": {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.2},
    "GaussianBlur": {"kernel_size": 5},
    "GaussianNoise": {},
    "Grayscale": {"num_output_channels": 3},
    "JPEG": {"quality": 20},
    "RandomAdjustSharpness": {"sharpness_factor": 3},
    "RandomAutocontrast": {},
    "RandomChannelPermutation": {},
    "RandomEqualize": {},
    "RandomErasing": {},
    "RandomGrayscale": {},
    "RandomInvert": {},
    "RandomPhotometricDistort": {},
    "RandomPosterize": {"bits": 2},
    "RandomSolarize": {"threshold": 90},
}


def alone(name, **options):
    """The transform, always applied."""
    kind = known_transforms()[name]
    if hasattr(kind, "p") or "p" in kind.__init__.__annotations__:
        options["p"] = 1.0
    return Augmentation([{f"torchvision.{name}": options}])


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("multilabel", [False, True])
def test_a_mask_made_of_the_image_stays_the_image(name, multilabel):
    """Where the image is not filled in; there the mask is ignored."""
    augment, moved = alone(name, **OPTIONS[name]), False
    given = np.stack([MASK, MASK]) if multilabel else MASK
    for seed in range(4):
        image, mask = augment(IMAGE, given, seed)
        if multilabel:
            assert np.array_equal(mask[0], mask[1])
            mask = mask[0]
        assert mask.shape == image.shape[:2]
        assert mask.dtype == np.uint8
        inside = mask != 255
        assert np.array_equal(image[inside, 0], mask[inside])
        assert not image[~inside].any()
        assert inside.any()
        moved |= not np.array_equal(mask, MASK)
    assert moved


@pytest.mark.parametrize("name", PHOTOMETRIC)
def test_changes_of_values_leave_the_mask(name):
    augment = alone(name, **PHOTOMETRIC[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*TorchCodec")  # JPEG
        results = [augment(IMAGE, MASK, seed) for seed in range(3)]
    assert all(np.array_equal(mask, MASK) for _, mask in results)
    assert any(not np.array_equal(image, IMAGE) for image, _ in results)


def test_every_other_transform_is_refused_or_moves_nothing():
    """No transform of torchvision moves an image without its mask."""
    tried = {"RandomApply", "RandomChoice", "RandomOrder", *OPTIONS, *PHOTOMETRIC}
    for name in sorted(known_transforms().keys() - tried):
        try:
            image, mask = Augmentation([f"torchvision.{name}"])(IMAGE, MASK, 0)
        except InputError:
            continue
        assert image.shape == IMAGE.shape, name
        assert np.array_equal(mask, MASK), name
        assert np.array_equal(image, IMAGE), name


def test_interpolated_images_have_masks_without_new_values():
    mask = np.where(IMAGE[:, :, 0] > 100, 3, 1).astype(np.uint8)
    for spec in (
        {"torchvision.RandomAffine": {"degrees": 40, "interpolation": "bilinear"}},
        {"torchvision.Resize": {"size": [37, 51], "interpolation": "bicubic"}},
        {"torchvision.ElasticTransform": {"sigma": 2}},
    ):
        _, changed = Augmentation([spec])(IMAGE, mask, 1)
        assert set(np.unique(changed)) <= {1, 3, 255}


def test_the_same_seed_gives_the_same_result_whatever_came_before():
    augment = Augmentation(MANY)
    torch.manual_seed(1)
    expected = torch.rand(4)
    first = augment(IMAGE, MASK, 5)
    torch.manual_seed(1)
    results = {augment(IMAGE, MASK, seed)[0].tobytes() for seed in range(8)}
    assert torch.equal(torch.rand(4), expected)  # torch's generator goes on as before
    assert len(results) == 8
    again = Augmentation(MANY)(IMAGE, MASK, 5)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_list_may_name_both_libraries():
    both = [
        "torchvision.RandomHorizontalFlip",
        {"RandomBrightnessContrast": {"p": 1.0}},
        "torchvision.RandomHorizontalFlip",
    ]
    augment = Augmentation(both, crop=(16, 16))
    flips = []
    for seed in range(16):
        image, mask = augment(IMAGE[:, :, :1], MASK, seed)
        assert (image.shape, mask.shape) == ((16, 16, 1), (16, 16))
        windows = np.lib.stride_tricks.sliding_window_view(MASK, (16, 16))
        flips.append(not (windows == mask).all(axis=(2, 3)).any())
    assert 0 < sum(flips) < 16  # the two flips draw for themselves


def test_crops_pad_with_ignored_pixels():
    for name in ("torchvision.Identity", "torchvision.RandomHorizontalFlip"):
        image, mask = Augmentation([name], crop=(32, 16))(IMAGE, MASK, 0)
        assert image.shape == (32, 16, 3)
        assert (mask == 255).sum() == 12 * 16


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_geometry_takes_any_number_of_bands_and_type(channels, dtype):
    bands = np.random.default_rng(2).integers(0, 256, (20, 24, channels)).astype(dtype)
    augment = Augmentation(
        [
            {"torchvision.RandomHorizontalFlip": {"p": 1.0}},
            {"torchvision.RandomVerticalFlip": {"p": 1.0}},
        ]
    )
    augment.check(bands)
    image, mask = augment(bands, MASK, 0)
    assert image.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
    scale = 65535 if dtype == np.uint16 else 1
    np.testing.assert_allclose(image * scale, bands[::-1, ::-1], atol=1e-2)
    assert np.array_equal(mask, MASK[::-1, ::-1])


@pytest.mark.parametrize(
    "spec",
    [
        {"torchvision.ColorJitter": {"hue": 0.1}},
        {"torchvision.RandomGrayscale": {"p": 0.001}},
        {
            "torchvision.RandomApply": {
                "transforms": [{"RandomAdjustSharpness": {"sharpness_factor": 2, "p": 0.01}}],
                "p": 0.001,
            }
        },
    ],
)
def test_rare_transforms_of_colors_are_refused_for_bands_before_the_training(spec):
    Augmentation([spec]).check(IMAGE)
    with pytest.raises(InputError, match=r"a\.tif: augmentation \w+ needs RGB .*5 channels"):
        Augmentation([spec]).check(np.zeros((20, 24, 5), np.uint8), name="a.tif")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchvision.RandomHorizontalFlipp", "did you mean 'RandomHorizontalFlip'"),
        ("torchvision.HorizontalFlip", "torchvision has no transform 'HorizontalFlip'"),
        ("RandomHorizontalFlip", "torchvision has: write torchvision.RandomHorizontalFlip"),
        ({"torchvision.RandomCrop": {"sise": 32}}, "no option 'sise'; did you mean 'size'"),
        ({"torchvision.RandomRotation": {}}, "RandomRotation: .*missing"),
        ({"torchvision.RandomRotation": {"degrees": "far"}}, "augmentation RandomRotation"),
        ({"torchvision.Pad": {"padding": 2, "fill": "red"}}, "augmentation Pad"),
        ({"torchvision.RandomApply": {"transforms": ["RandAugment"]}}, "without its mask"),
        ("torchvision.ToPureTensor", "image and mask apart"),
        ({"torchvision.FiveCrop": {"size": 4}}, "several images"),
        *((f"torchvision.{name}", why[:20]) for name, why in REFUSED_WITH_MASKS.items()),
    ],
)
def test_misspelt_or_impossible_transforms_are_errors(spec, message):
    with pytest.raises(InputError, match=message):
        Augmentation([spec])


@pytest.mark.parametrize(
    "spec", [{"torchvision.RandomCrop": {"size": 99}}, "torchvision.ToPILImage"]
)
def test_a_transform_that_fails_or_changes_the_type_is_reported_with_the_image(spec):
    with pytest.raises(InputError, match=r"a\.png: augmentation (failed|turned)"):
        Augmentation([spec])(IMAGE, MASK, 0, name="a.png")


def test_fill_of_the_image_leaves_the_mask_ignored():
    image, mask = alone("Pad", padding=2, fill=[9, 8, 7])(IMAGE, MASK, 0)
    assert image[0, 0].tolist() == [9, 8, 7]
    assert (mask[:2] == 255).all()


def test_without_albumentations_those_of_torchvision_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "albumentations", None)
    assert Augmentation(MANY, crop=(8, 8))(IMAGE, MASK, 0)[1].shape == (8, 8)
    assert Augmentation([], crop=(8, 8))(IMAGE, MASK, 0)[1].shape == (8, 8)
    Augmentation(Config().data.augment)(IMAGE, MASK, 0)
    with pytest.raises(InputError, match=r"VerticalFlip: albumentations cannot be imported .*pip"):
        Augmentation(["VerticalFlip"])
