import numpy as np
import pytest
from PIL import Image, ImageDraw

from kanseg.visualization import fonts
from kanseg.visualization.fonts import families, font_for
from kanseg.visualization.image_grid import CAPTION, fitted, image_grid

LONG = (
    "a very long name of an image that goes on and on until nothing of it fits any more, and then"
    " some   mean IoU 0.123"
)


@pytest.fixture
def drawn(monkeypatch):
    """Every text that is drawn: (left, right, width of the image)."""
    texts, original = [], ImageDraw.ImageDraw.text

    def text(self, place, words, **options):
        texts.append(
            (
                words,
                place[0],
                place[0] + options["font"].getlength(words),
                place[1],
                self._image.width,
            )
        )
        original(self, place, words, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return texts


def cells(height, width, count=4):
    return [np.full((height, width, 3), 40 * i, np.uint8) for i in range(count)]


@pytest.mark.parametrize("size", [(1, 1), (2000, 20), (20, 2000), (64, 64), (600, 500), (300, 3)])
def test_no_caption_is_clipped_or_runs_into_the_next(drawn, size):
    image_grid(
        [cells(*size)] * 2,
        ["image", "prediction", LONG, "error"],
        [LONG, "short"],
        legend=[(LONG, (1, 2, 3)), ("b", (9, 9, 9))] * 9,
    )
    assert len(drawn) == 2 * 5 + 18
    for _, left, right, top, width in drawn:
        assert left >= 0
        assert right <= width
        assert all(
            other[1] >= right or other[2] <= left
            for other in drawn
            if other[3] == top and other[1] != left and other[4] == width
        )


def test_long_captions_keep_their_ends():
    text = fitted(LONG, 300)
    assert font_for(text).getlength(text) <= 300
    assert text.startswith("a very long")
    assert text.endswith("mean IoU 0.123")
    assert fitted("short", 300) == "short"


def test_cells_lie_under_the_name_and_over_their_caption():
    grid = image_grid([cells(128, 128)], ["a", "b", "c", "d"], ["name"])
    assert grid.shape == (128 * 2 + 2 * CAPTION + 4 + 1, 4 * 260 + 4, 3)
    for column in range(4):
        assert (
            grid[CAPTION : CAPTION + 256, 4 + 260 * column : 260 + 260 * column] == 40 * column
        ).all()


def test_large_images_shrink_without_losing_single_pixels():
    image = np.zeros((1024, 1024, 3), np.uint8)
    image[500, 500] = 255
    grid = image_grid([[image]], ["image"], ["x"], max_cell=256)
    assert grid[CAPTION : CAPTION + 256, 4:260].max() == round(255 / 16)


def test_cells_of_another_size_are_shown_at_the_size_of_the_first():
    grid = image_grid(
        [[np.zeros((128, 128, 3), np.uint8), np.full((17, 33, 3), 7, np.uint8)]], ["a", "b"], ["x"]
    )
    assert (grid[CAPTION : CAPTION + 256, 264:520] == 7).all()


def test_high_letters_are_not_cut(monkeypatch):
    """Fonts with Chinese letters are higher than DejaVu Sans; STIXGeneral, which comes with
    matplotlib, is as high and has a letter that reaches to its lower end.
    """
    families.cache_clear()
    monkeypatch.setattr(fonts, "CHINESE", ("STIXGeneral",))
    name = "\u2a46"
    font = font_for(name)
    alone = Image.new("L", (40, 60), 255)
    ImageDraw.Draw(alone).text((10, 10), name, fill=0, font=font)
    ink = (255 - np.asarray(alone, dtype=int)).sum()
    grid = image_grid([[np.full((64, 64, 3), 255, np.uint8)]], [""], [name], legend=[])
    title = grid[:CAPTION].astype(int)
    families.cache_clear()
    assert font.getname()[0] == "STIXGeneral"
    assert (255 - title[..., 0]).sum() == ink


def test_a_grid_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one row"):
        image_grid([], ["a"], [])
