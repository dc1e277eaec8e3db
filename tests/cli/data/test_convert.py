import json

import numpy as np
import pytest
from PIL import Image

from kanseg.cli.data.convert import main
from kanseg.utils.errors import InputError


@pytest.fixture
def cells(tmp_path):
    """Images with files of labelme beside them."""
    (tmp_path / "cells").mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "cells" / f"c{number}.png")
        shape = {
            "label": "cell",
            "points": [[3, 2], [9, 2], [9, 7 + number], [3, 7 + number]],
            "group_id": None,
            "shape_type": "polygon",
            "flags": {},
        }
        content = {
            "version": "5.7.0",
            "flags": {},
            "shapes": [shape],
            "imagePath": f"c{number}.png",
            "imageData": None,
            "imageHeight": 20,
            "imageWidth": 30,
        }
        (tmp_path / "cells" / f"c{number}.json").write_text(json.dumps(content))
    return tmp_path / "cells"


def test_files_of_labelme_become_masks(cells, tmp_path, capsys):
    main([str(cells), str(tmp_path / "out"), "--to", "folder", "--split_seed", "1"])
    said = capsys.readouterr()
    assert "4 images written" in said.out
    assert "read as LABELME" in said.err
    for number in range(4):
        expected = np.zeros((20, 30), np.uint8)
        expected[2 : 7 + number, 3:9] = 1
        with Image.open(tmp_path / "out" / "masks" / f"c{number}.png") as mask:
            assert np.array_equal(np.asarray(mask), expected)
    assert 'classes: ["background", "cell"]' in (tmp_path / "out" / "dataset.yaml").read_text()


def test_settings_select_classes_and_wrong_ones_are_named(cells, tmp_path):
    with pytest.raises(InputError, match="'cel' is not in the annotations.*'cell'"):
        main([str(cells), str(tmp_path / "out"), "--classes", "[background, cel]"])
    with pytest.raises(InputError, match="to"):
        main([str(cells), str(tmp_path / "out"), "--to", "yolo"])
    with pytest.raises(InputError, match="no such folder"):
        main([str(tmp_path / "nowhere"), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
