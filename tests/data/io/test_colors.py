import numpy as np

from kanseg.data.io.colors import default_palette, pack_rgb, unpack_rgb, voc_palette
from kanseg.data.label_spec import LabelSpec


def test_packed_colors_are_unpacked_again():
    colors = np.random.default_rng(0).integers(0, 256, (20, 3), dtype=np.uint8)
    assert [unpack_rgb(packed) for packed in pack_rgb(colors).tolist()] == colors.tolist()
    assert pack_rgb((1, 2, 3)) == 0x010203


def test_default_colors_differ():
    assert len(set(default_palette(255))) == 255
    assert LabelSpec("binary", ("a", "b")).colors[0] == (0, 0, 0)


def test_the_palette_is_pascals():
    palette = voc_palette()
    # aeroplane, bicycle, person, tvmonitor and void, as the development kit lists them
    assert [palette[i] for i in (0, 1, 2, 15, 20, 255)] == [
        (0, 0, 0),
        (128, 0, 0),
        (0, 128, 0),
        (192, 128, 128),
        (0, 64, 128),
        (224, 224, 192),
    ]
