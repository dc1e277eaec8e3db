import numpy as np

from kanseg.data.io.outlines import regions
from kanseg.inference.files.geotiff import GeoTransform
from kanseg.inference.files.polygons import geojson

RING = np.array([[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 0, 1, 0], [0, 1, 1, 1, 0]], np.uint8)


def signed_area(line):
    points = np.array(line)
    x, y = points[:, 0], points[:, 1]
    return (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2


def test_geojson_in_pixels_and_on_the_map():
    found = list(regions(RING, "binary"))
    place = GeoTransform(np.array([[2.0, 0.0, 100.0], [0.0, -2.0, 500.0]]), 32633)
    for where, factor in ((None, 1), (place, 4)):
        collection = geojson(found, ["background", "ring"], where)
        (feature,) = collection["features"]
        outer, hole = feature["geometry"]["coordinates"]
        assert outer[0] == outer[-1]
        assert (signed_area(outer), signed_area(hole)) == (
            9 * factor,
            -1 * factor,
        )  # anticlockwise outside, as GeoJSON wants it
        assert feature["properties"] == {"class": "ring", "index": 1, "pixels": 8}
    assert np.min(outer, axis=0).tolist() == [102.0, 492.0]
    assert collection["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
