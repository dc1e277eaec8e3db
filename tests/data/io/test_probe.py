import json
from dataclasses import asdict

import numpy as np
from PIL import Image

from kanseg.data.io.probe import probe_image, probe_mask


def test_facts_survive_json(folder):
    for look, kind in ((probe_image, "images"), (probe_mask, "masks")):
        facts = look(folder / kind / "p00.png", 10**6)
        assert type(facts)(**json.loads(json.dumps(asdict(facts)))) == facts


def test_a_file_of_the_same_pixels_in_another_form_has_the_same_hash(tmp_path):
    gray = np.random.default_rng(0).integers(0, 255, (9, 8), dtype=np.uint8)
    Image.fromarray(gray).save(tmp_path / "a.png")
    Image.fromarray(gray).save(tmp_path / "b.bmp")
    Image.fromarray(np.stack([gray] * 3, axis=-1)).save(tmp_path / "c.png")
    Image.fromarray(np.stack([gray] * 3 + [np.full_like(gray, 255)], axis=-1)).save(
        tmp_path / "d.png"
    )
    Image.fromarray(gray.T.copy()).save(tmp_path / "e.png")
    hashes = [probe_image(path, 10**6).pixels for path in sorted(tmp_path.glob("*.*"))]
    assert len(set(hashes[:4])) == 1
    assert hashes[4] != hashes[0]
