import json
from dataclasses import replace

import pytest
import yaml

import kanseg
from kanseg.cli.compare import main
from kanseg.experiments.compare.report import write_comparison
from kanseg.experiments.compare.variants import (
    check_variant,
    has_other_encoder,
    match_sizes,
    read_variants,
    run_folder,
    run_variants,
)
from kanseg.experiments.settings import is_finished
from kanseg.layers.regularization import kan_layers
from kanseg.training.run import train
from kanseg.utils.errors import InputError


@pytest.fixture
def experiment(tmp_path, config):
    path = tmp_path / "tiny.yaml"
    config.model.options |= {"depth": 2}  # a smaller one has no width of the same size
    path.write_text(
        replace(config, training=replace(config.training, epochs=1, report=False)).to_yaml()
    )
    return str(path)


def test_bases_are_variants(experiment):
    variants = read_variants([experiment], bases=["gram", "none"])
    assert {name: config.model.basis for name, config in variants.items()} == {
        "gram": "gram",
        "none": "none",
    }


def test_settings_go_to_all_variants(experiment):
    variants = read_variants(
        [experiment], bases=["gram", "none"], settings=["--training.epochs", "7"]
    )
    assert [config.training.epochs for config in variants.values()] == [7, 7]


def test_variants_of_a_file_are_tried_with_every_config(experiment, tmp_path):
    (tmp_path / "other.yaml").write_text((tmp_path / "tiny.yaml").read_text())
    (tmp_path / "variants.yaml").write_text(
        "wide: {model.options: {width: 9}}\nslow: {training.lr: 1.0e-5}\n"
    )
    variants = read_variants(
        [experiment, str(tmp_path / "other.yaml")], variants_file=str(tmp_path / "variants.yaml")
    )
    assert list(variants) == ["tiny-wide", "tiny-slow", "other-wide", "other-slow"]
    assert variants["other-wide"].model.options == {"width": 9}
    assert variants["tiny-slow"].training.lr == 1e-5


def test_one_variant_is_no_comparison(experiment):
    with pytest.raises(InputError, match="two variants or more"):
        read_variants([experiment])


def test_variants_on_other_images_are_refused(experiment, tmp_path):
    (tmp_path / "variants.yaml").write_text("here: {}\nthere: {data.root: elsewhere}\n")
    with pytest.raises(InputError, match="data.root"):
        read_variants([experiment], variants_file=str(tmp_path / "variants.yaml"))


def test_variants_of_another_split_are_refused_before_anything_is_trained(experiment, tmp_path):
    (tmp_path / "variants.yaml").write_text("here: {}\nthere: {data.split_seed: 7}\n")
    with pytest.raises(InputError, match="data.split_seed"):
        read_variants([experiment], variants_file=str(tmp_path / "variants.yaml"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("../a: {}", "must not contain /"),
        ("a: {seed: 5}", "sets seed"),
        ("a: {run_dir: x}", "sets run_dir"),
    ],
)
def test_a_variant_stays_below_the_output_and_leaves_seeds_to_the_comparison(
    line, message, experiment, tmp_path
):
    (tmp_path / "variants.yaml").write_text(f"{line}\nb: {{}}\n")
    with pytest.raises(InputError, match=message):
        read_variants([experiment], variants_file=str(tmp_path / "variants.yaml"))


@pytest.mark.parametrize("settings", [["--seed", "3"], ["--run_dir=x"]])
def test_what_the_comparison_sets_itself_is_refused(settings, experiment):
    with pytest.raises(InputError, match="give --seeds and --output"):
        read_variants([experiment], bases=["gram", "none"], settings=settings)


def test_an_unknown_basis_is_named(experiment):
    for name, close in (("grem", "gram"), ("nnoe", "none")):
        with pytest.raises(InputError, match=f"'{name}'.* '{close}'"):
            read_variants([experiment], bases=["rbf", name])


@pytest.mark.parametrize("seeds", ["", "-1,0", "x"])
def test_seeds_that_are_none_are_refused(seeds, experiment, tmp_path):
    with pytest.raises(InputError, match="--seeds: expected"):
        main(
            [
                "--config",
                experiment,
                "--bases",
                "gram,none",
                f"--seeds={seeds}",
                "--output",
                str(tmp_path / "c"),
            ]
        )


def test_a_file_of_variants_that_is_none_is_refused(experiment, tmp_path):
    (tmp_path / "variants.yaml").write_text("- a\n- b\n")
    with pytest.raises(InputError, match="expected lines such as"):
        read_variants([experiment], variants_file=str(tmp_path / "variants.yaml"))


def test_the_name_of_a_variant_is_checked(experiment):
    variants = read_variants([experiment], bases=["gram", "none"])
    with pytest.raises(InputError, match="--baseline 'gran'.*'gram'"):
        check_variant("gran", variants, "--baseline")


@pytest.mark.slow
def test_variants_have_the_size_of_the_reference(experiment):
    variants = match_sizes(
        read_variants([experiment], bases=["gram", "bspline", "none"]), "gram", "params"
    )
    assert variants["gram"].model.match is None
    sizes = {}
    for name, config in variants.items():
        config.run_dir = f"{config.run_dir}_{name}"
        sizes[name] = train(config)["parameters"]
    assert all(abs(size / sizes["gram"] - 1) <= 0.02 for size in sizes.values())


def test_an_option_that_only_one_variant_has_is_refused(experiment, tmp_path):
    (tmp_path / "variants.yaml").write_text(
        "plain: {model.options: {width: 4, depth: 2}}\nnormed: {model.options: {width: 4, depth: 2,"
        " norm: layer}}\n"
    )
    variants = read_variants([experiment], variants_file=str(tmp_path / "variants.yaml"))
    with pytest.raises(InputError, match="normed.*model.options.norm.*plain"):
        match_sizes(variants, "plain", "params")


@pytest.mark.slow
def test_every_variant_is_trained_with_every_seed_once(experiment, tmp_path):
    variants, log = read_variants([experiment], bases=["gram", "none"]), []
    run_variants(variants, [3, 4], tmp_path / "out", log=log.append)
    for name in variants:
        for seed in (3, 4):
            stored = yaml.safe_load(
                (run_folder(tmp_path / "out", name, seed) / "config.yaml").read_text()
            )
            assert (stored["model"]["basis"], stored["seed"]) == (name, seed)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("metrics.json")}
    run_variants(variants, [3, 4], tmp_path / "out", log=log.append)
    assert before == {
        path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("metrics.json")
    }
    assert sum("is finished" in line for line in log) == 4


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on(experiment, tmp_path):
    variants = read_variants([experiment], bases=["gram", "none"])
    run_variants(variants, [0], tmp_path / "out")
    run = run_folder(tmp_path / "out", "gram", 0)
    scores = json.loads((run / "metrics.json").read_text())["test"]["mean_iou"]
    (run / "metrics.json").unlink()
    run_variants(variants, [0], tmp_path / "out")
    assert json.loads((run / "metrics.json").read_text())["test"]["mean_iou"] == scores


def test_a_run_of_another_process_is_left_to_it(experiment, tmp_path):
    from kanseg.training.run_folder.resume import lock_run

    variants, log = read_variants([experiment], bases=["gram", "none"]), []
    with lock_run(run_folder(tmp_path / "out", "gram", 0)):
        run_variants(variants, [0], tmp_path / "out", log=log.append)
    assert any("is being trained by another process" in line for line in log)
    assert not (run_folder(tmp_path / "out", "gram", 0) / "metrics.json").exists()
    assert (run_folder(tmp_path / "out", "none", 0) / "metrics.json").exists()


def test_a_folder_with_other_settings_is_not_taken_for_the_run(experiment, tmp_path):
    variants = read_variants([experiment], bases=["gram", "none"])
    run_variants(variants, [0], tmp_path / "out")
    changed = read_variants([experiment], bases=["gram", "none"], settings=["--training.lr", "0.5"])
    changed["gram"].run_dir = str(run_folder(tmp_path / "out", "gram", 0))
    with pytest.raises(InputError, match="training.lr: 0.001 -> 0.5.*choose another folder"):
        is_finished(changed["gram"], hint="choose another folder")


def test_the_command_leaves_table_and_images(experiment, tmp_path, capsys):
    main(
        [
            "--config",
            experiment,
            "--bases",
            "gram,none",
            "--seeds",
            "0,1",
            "--output",
            str(tmp_path / "out"),
        ]
    )
    rows = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]
    assert [row["variant"] for row in rows] == ["none", "gram"]
    metrics = json.loads((tmp_path / "out" / "gram" / "seed_1" / "metrics.json").read_text())
    assert rows[1]["by_seed"][1] == pytest.approx(
        metrics["test"]["per_image"]["classes"]["foreground"]["iou"], abs=1e-5
    )
    assert rows[1]["difference"] == pytest.approx(rows[1]["mean"] - rows[0]["mean"])
    assert (tmp_path / "out" / "table.md").read_text().splitlines()[2] in capsys.readouterr().out
    assert all((tmp_path / "out" / name).is_file() for name in ("comparison.png", "examples.png"))
    table = (tmp_path / "out" / "table.md").read_text()
    assert "(2 seeds, too few)" in table
    assert "Two seeds (gram): hardly anything" in table


def test_the_old_names_of_options_are_read(experiment, tmp_path):
    path = tmp_path / "variants.yaml"
    path.write_text("gram: {}\nnone: {model.basis: none}\n")
    words = ["--config", experiment, f"--arms={path}", "--output", str(tmp_path / "out")]
    with (
        pytest.warns(DeprecationWarning, match="--variants"),
        pytest.raises(InputError, match="--baseline 'gran'"),
    ):
        main([*words, "--control", "gran"])


def test_a_comparison_of_which_a_variant_is_missing_says_so(experiment, tmp_path):
    variants, log = read_variants([experiment], bases=["gram", "none"]), []
    run_variants({"gram": variants["gram"]}, [0], tmp_path / "out", log=log.append)
    assert (
        write_comparison(
            variants,
            [0],
            tmp_path / "out",
            baseline="none",
            split="test",
            score=None,
            log=log.append,
        )
        == []
    )
    assert log[-1] == f"compare: not finished yet: {tmp_path / 'out' / 'none' / 'seed_0'}"


def test_an_encoder_of_its_own_size_is_seen(experiment):
    assert not has_other_encoder(read_variants([experiment], bases=["gram", "none"]))
    words = ["--model.encoder", "test_resnet"]
    assert has_other_encoder(read_variants([experiment], bases=["gram", "none"], settings=words))


@pytest.mark.slow
def test_one_pretrained_encoder_stands_under_a_kan_and_a_plain_decoder(tmp_path, config, capsys):
    import timm
    import torch

    weights = timm.create_model("test_resnet").state_dict()
    torch.save(weights, tmp_path / "weights.pth")
    options = {"encoder_depth": 2, "num_convs": 1}
    config.model = replace(config.model, encoder="test_resnet", options=options)
    config.model.encoder_weights = str(tmp_path / "weights.pth")
    config.training = replace(config.training, epochs=1, report=False, surface=False)
    path, output = tmp_path / "pretrained.yaml", tmp_path / "compared"
    path.write_text(config.to_yaml())
    words = ["--config", str(path), "--bases", "gram,none", "--seeds", "0", "--output", str(output)]
    assert main(words) == 0
    assert "sizes are not matched" in capsys.readouterr().out
    networks = {name: kanseg.from_pretrained(output / name / "seed_0") for name in ("gram", "none")}
    for network in networks.values():  # frozen in its only epoch
        for name, parameter in network.encoder.body.named_parameters():
            assert torch.equal(parameter, weights[name]), name
        assert not list(kan_layers(network.encoder))
    assert list(kan_layers(networks["gram"].decoder))
    assert not list(kan_layers(networks["none"].decoder))
    assert {row["variant"] for row in json.loads((output / "table.json").read_text())["rows"]} == {
        "gram",
        "none",
    }
