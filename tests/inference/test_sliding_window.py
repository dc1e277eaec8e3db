import pytest
import torch

from kanseg.inference.sliding_window import (
    gaussian_window,
    merge_rows,
    sliding_window,
    tile_starts,
)


@pytest.mark.parametrize(
    ("length", "tile", "stride"), [(10, 4, 2), (4, 4, 2), (3, 4, 2), (101, 32, 16), (33, 32, 31)]
)
def test_tiles_cover_everything_and_end_at_the_border(length, tile, stride):
    starts = tile_starts(length, tile, stride)
    covered = {i for s in starts for i in range(s, min(s + tile, length))}
    assert covered == set(range(length))
    assert starts[-1] == max(length - tile, 0)
    assert all(0 < b - a <= stride for a, b in zip(starts, starts[1:], strict=False))


@pytest.mark.parametrize("shape", [(50, 70), (16, 70), (7, 9), (1, 40)])
def test_a_pointwise_network_gives_the_same_in_tiles(shape):
    image = torch.rand(2, *shape)

    def read(top, left, height, width):
        return image[:, top : top + height, left : left + width]

    chunks = sliding_window(torch.sigmoid, [read], shape, tile=(16, 24), overlap=0.5, batch_size=3)
    torch.testing.assert_close(merge_rows(chunks, shape[0])[0], torch.sigmoid(image))


def test_the_middle_of_a_tile_outweighs_its_border():
    calls = iter([0.0, 1.0])
    chunks = sliding_window(
        lambda batch: torch.stack([torch.full((1, 8, 8), next(calls)) for _ in batch]),
        [lambda *_: torch.zeros(1, 8, 8)],
        (8, 12),
        tile=(8, 8),
        overlap=0.5,
        batch_size=1,
    )
    row = merge_rows(chunks, 8)[0, 0, 4]
    assert (row[:4] == 0).all()
    assert (row[8:] == 1).all()
    assert (row[4:8].diff() > 0).all()
    torch.testing.assert_close(row[4:8] + row[4:8].flip(0), torch.ones(4))


def test_the_window_is_positive_and_symmetric():
    window = gaussian_window(9, 32)
    assert window.min() > 0
    torch.testing.assert_close(window, window.flip(0, 1))
