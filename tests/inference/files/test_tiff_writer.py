import numpy as np
import tifffile
from PIL import Image

from kanseg.inference.files.tiff_writer import TiffRowWriter


def test_rows_become_a_tiled_palette_file(tmp_path):
    values = np.random.default_rng(0).integers(0, 3, (700, 530), dtype=np.uint8)
    file = TiffRowWriter(tmp_path / "x" / "a.tif", 530, "uint8")
    for top in range(0, 700, 130):
        file.append(values[top : top + 130])
    assert np.array_equal(file.read(600, 500), values[600:])
    file.write([(0, 0, 0), (255, 0, 0), (0, 9, 255)])
    file.close()
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["a.tif"]
    with tifffile.TiffFile(tmp_path / "x" / "a.tif") as written:
        assert written.pages[0].is_tiled
        assert np.array_equal(written.asarray(), values)
    image = Image.open(tmp_path / "x" / "a.tif")
    assert image.mode == "P"
    assert (
        image.convert("RGB").getpixel((0, 0)) == [(0, 0, 0), (255, 0, 0), (0, 9, 255)][values[0, 0]]
    )
