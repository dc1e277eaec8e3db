import pytest

from kanseg.config.arguments import ToolParser, comma_separated, integers, split_settings
from kanseg.utils.errors import InputError


@pytest.fixture
def parser():
    parser = ToolParser(description="A tool:\n\n  an indented line")
    parser.add_argument("--batch_size", type=int, default=8, help="images at once")
    parser.add_argument("--input", required=True, nargs="+", help="images to read")
    parser.add_argument("--mode", choices=("whole", "tiles"), default="whole")
    return parser


@pytest.mark.parametrize("words", [["--batch-size", "3"], ["--batch_size=3"], ["--batch-size=3"]])
def test_hyphens_are_accepted_for_underscores(parser, words):
    given = parser.parse_args(["--input", "a-b", "c", *words])
    assert given.as_dict() == {"batch_size": 3, "input": ["a-b", "c"], "mode": "whole"}


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (["--input", "a", "--batch_sise", "3"], "'batch_sise'; did you mean 'batch_size'"),
        (["--input", "a", "--batch_size", "many"], "batch_size"),
        (["--input", "a", "--mode", "hole"], "mode"),
        (["--mode", "whole"], "--input.*images to read"),
        (["--inp", "a"], "inp"),
        (["--input"], "input"),
    ],
)
def test_a_wrong_word_is_an_error_on_one_line_that_names_it(parser, words, fact):
    with pytest.raises(InputError, match=fact) as caught:
        parser.parse_args(words)
    assert "\n" not in str(caught.value)


def test_the_help_has_defaults_types_and_the_lines_of_the_description(parser, capsys):
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert "\n  an indented line\n" in text
    assert "images at once (type: int, default: 8)" in text


def test_settings_of_the_experiment_are_split_from_options_of_the_tool():
    words = ["--trials", "3", "--training.lr", "-1", "--seed=4", "--config", "a", "b"]
    words += ["--model.options", "{a: b}", "--run_dir", "x", "--prune"]
    own, settings = split_settings(words)
    assert own == ["--trials", "3", "--config", "a", "b", "--prune"]
    assert settings == [
        *("--training.lr", "-1", "--seed=4"),
        *("--model.options", "{a: b}", "--run_dir", "x"),
    ]


def test_comma_separated_words():
    assert comma_separated(" a, b,,") == ["a", "b"]
    assert comma_separated(None) == []
    assert integers("32, 64", "--channels") == [32, 64]


@pytest.mark.parametrize("text", ["", "a,1", "1.5"])
def test_words_that_are_no_integers_are_refused(text):
    with pytest.raises(InputError, match="--channels"):
        integers(text, "--channels")
