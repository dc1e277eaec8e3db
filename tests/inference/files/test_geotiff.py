import numpy as np
import pytest
import tifffile
from PIL import Image

from kanseg.inference.files.geotiff import geo_transform, geotiff_tags

IMAGE = np.zeros((6, 8, 3), np.uint8)


def keys(*pairs):
    return (
        1,
        1,
        0,
        len(pairs),
        *(value for key, content in pairs for value in (key, 0, 1, content)),
    )


def geotiff(path, raster_type=1, transform=False):
    directory = keys((1024, 1), (1025, raster_type), (3072, 32633))
    place = (
        [(34264, "d", 16, (0.5, 0, 0, 1000.0, 0, -0.5, 0, 2000.0, 0, 0, 0, 0, 0, 0, 0, 1), True)]
        if transform
        else [
            (33550, "d", 3, (0.5, 0.5, 0.0), True),
            (33922, "d", 6, (2.0, 4.0, 0.0, 1001.0, 1998.0, 0.0), True),
        ]
    )
    tifffile.imwrite(
        path,
        IMAGE,
        photometric="rgb",
        extratags=[*place, (34735, "H", len(directory), directory, True)],
    )
    return path


@pytest.mark.parametrize("transform", [False, True])
def test_corners_lie_where_the_tags_say(tmp_path, transform):
    place = geo_transform(geotiff(tmp_path / "a.tif", transform=transform))
    assert place.epsg == 32633
    np.testing.assert_allclose(
        place(np.array([[0, 0], [2, 4], [8, 6]])), [[1000, 2000], [1001, 1998], [1004, 1997]]
    )


def test_coordinates_of_points_are_those_of_the_middles_of_pixels(tmp_path):
    np.testing.assert_allclose(
        geo_transform(geotiff(tmp_path / "a.tif", raster_type=2))(np.array([[2.5, 4.5]])),
        [[1001, 1998]],
    )


def test_the_tags_of_a_copy_tell_the_same(tmp_path):
    tifffile.imwrite(
        tmp_path / "b.tif", IMAGE[:, :, 0], extratags=geotiff_tags(geotiff(tmp_path / "a.tif"))
    )
    first, second = geo_transform(tmp_path / "a.tif"), geo_transform(tmp_path / "b.tif")
    assert second.epsg == first.epsg
    np.testing.assert_array_equal(second.matrix, first.matrix)


def test_other_files_have_no_geo_transform(tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    Image.fromarray(IMAGE).save(tmp_path / "a.tif")
    (tmp_path / "b.tif").write_bytes(b"II*\0")
    for path in tmp_path.iterdir():
        assert geo_transform(path) is None
        assert geotiff_tags(path) == []
