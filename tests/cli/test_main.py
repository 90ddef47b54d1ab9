"""The entry point: help, version, exit codes and errors of one line."""

import os
import pickle
import subprocess
import sys
from types import ModuleType

import pytest

import maskconver
from maskconver.cli import main as cli
from maskconver.cli.main import COMMANDS, main
from maskconver.errors import ConfigError, DataError


@pytest.fixture
def command(monkeypatch):
    """Registers a command "try" that raises what it is given, and returns how to call it."""

    def call(error: BaseException | int, *arguments: str) -> int:
        module = ModuleType("maskconver.cli.try_it", "Try it.")

        def run(args) -> int:
            if isinstance(error, BaseException):
                raise error
            return error

        module.configure = lambda parser: parser.add_argument("--count", type=int, default=1)
        module.run = run
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(COMMANDS, "try", ("try_it", "try it"))
        return main(["try", *arguments])

    return call


@pytest.mark.parametrize("chosen", [None, "0"])
def test_huge_pages_are_asked_for_unless_the_user_said_otherwise(chosen, command, monkeypatch) -> None:
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    if chosen is not None:
        monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", chosen)
    assert command(0) == 0
    assert os.environ.pop("THP_MEM_ALLOC_ENABLE") == (chosen or "1")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command(arguments, capsys) -> None:
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    assert "example: maskconver" in text


def test_version(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"maskconver {maskconver.__version__}\n"


@pytest.mark.parametrize("arguments", [["nonsense"], ["data"], ["data", "nonsense"], ["--nonsense"]])
def test_unknown_command_is_refused_in_one_line(arguments, capsys) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert " ".join(arguments) in err
    assert "maskconver --help" in err


@pytest.mark.parametrize("code", [0, 1])
def test_exit_code_is_the_commands(code, command) -> None:
    assert command(code) == code


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--count", "many"], "many"), (["--nonsense"], "--nonsense"), (["surplus"], "surplus")],
)
def test_wrong_argument_is_refused_in_one_line(arguments, named, command, capsys) -> None:
    assert command(0, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert named in err
    assert "maskconver try --help" in err


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            DataError("a.json: line 3 is not JSON;\n  write it again"),
            "a.json: line 3 is not JSON; write it again",
        ),
        (ConfigError("no model"), "no model"),
        (FileNotFoundError(2, "No such file or directory", "x.png"), "No such file or directory: x.png"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("cannot write out.safetensors"), "cannot write out.safetensors"),
    ],
)
def test_errors_are_one_line(error, text, command, capsys) -> None:
    assert command(error) == 2
    assert capsys.readouterr().err == f"maskconver: error: {text}\n"


@pytest.mark.parametrize("error", [DataError("broken"), FileNotFoundError(2, "gone", "x.png")])
def test_debug_shows_the_traceback(error, command) -> None:
    with pytest.raises(type(error)):
        command(error, "--debug")


def test_a_bug_is_not_hidden(command) -> None:
    with pytest.raises(ZeroDivisionError):
        command(ZeroDivisionError("a bug"))


def test_ctrl_c_ends_without_a_traceback(command, capsys) -> None:
    assert command(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "\nmaskconver: stopped\n"


def test_missing_extra_is_named_in_one_line(command, capsys) -> None:
    assert command(ModuleNotFoundError("No module named 'lightning'", name="lightning")) == 2
    assert capsys.readouterr().err == (
        'maskconver: error: "try" needs lightning: pip install "maskconver[train]"\n'
    )


def test_missing_submodule_of_an_extra_is_named_too(command, capsys) -> None:
    assert command(ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")) == 2
    assert 'pip install "maskconver[train]"' in capsys.readouterr().err


def test_module_of_our_own_that_is_missing_is_a_bug(command) -> None:
    with pytest.raises(ModuleNotFoundError):
        command(ModuleNotFoundError("No module named 'maskconver.gone'", name="maskconver.gone"))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_gives_an_example(name, capsys) -> None:
    if COMMANDS[name][0] in ("train", "evaluate", "figure.targets"):
        pytest.importorskip("torch")
    assert main([*name.split(), "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"maskconver {name}" in text
    assert "xample: maskconver" in text


def test_an_option_that_does_not_exist_is_refused_with_the_nearest_ones(command, capsys) -> None:
    assert command(0, "--coumt", "3") == 2
    assert capsys.readouterr().err == (
        "maskconver: error: unrecognized arguments: --coumt 3; did you mean --count? "
        "see maskconver try --help\n"
    )


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("evaluate", "m", "--data", "d", "--threads", "2"), ""),  # not the distant --remask
        (("predict", "m", "i", "--=2", "3"), ""),  # no name, no hint
        (("predict", "m", "i", "--score", "0.3"), "did you mean --score-threshold? "),
        (("predict", "m", "i", "--tile-size", "3"), "did you mean --tile? "),
        (("predict", "m", "i", "--devise", "cpu"), "did you mean --device? "),
    ],
)
def test_only_options_that_are_near_are_named(words, hint, capsys) -> None:
    assert main([*words]) == 2
    option = " ".join(words[-2:])
    said = f"unrecognized arguments: {option}; {hint}see maskconver {words[0]} --help\n"
    assert capsys.readouterr().err.endswith(said)


def test_every_extra_that_is_named_exists() -> None:
    from importlib.metadata import metadata

    assert set(cli._EXTRA_OF.values()) <= set(metadata("maskconver").get_all("Provides-Extra"))


def test_settings_of_the_library_are_shown_as_options_of_the_command(command, capsys) -> None:
    error = DataError(
        "too many", where="a.png", fix="allow it with `count=7` or `counts`, not with `other=1`"
    )
    assert command(error) == 2
    assert capsys.readouterr().err == (
        "maskconver: error: a.png: too many; allow it with --count 7 or `counts`, not with `other=1`\n"
    )
    assert str(error) == "a.png: too many; allow it with `count=7` or `counts`, not with `other=1`"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["data", "check", "x", "--workers=0"], "--workers must be at least 1, got 0"),
        (["data", "check", "x", "--max-pixels=-1"], "--max-pixels must be at least 1, got -1"),
        (["predict", "nuclei", "x.png", "--scale=nan"], "--scale must be a finite number, got nan;"),
        (
            ["predict", "nuclei", "x.png", "--tile=huge"],
            "--tile must be a whole number, auto or none, got huge;",
        ),
        (["predict", "nuclei", "x.png", "--algorithm=3"], "--algorithm must be fast or reference, got 3;"),
        (["serve", "nuclei", "--timeout=inf"], "--timeout must be a finite number, got inf;"),
        (["data", "synth", "x", "--size", "9999999", "9999999"], "size 9999999×9999999 is not possible"),
    ],
)
def test_values_that_mean_nothing_are_refused_in_plain_words(words: list[str], says: str, capsys) -> None:
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"maskconver: error: {says}") and err.count("\n") == 1


def test_help_says_choices_and_defaults_without_the_types_of_python(capsys) -> None:
    assert main(["predict", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "--mask-activation {softmax,sigmoid}" in out and "(default: predictions)" in out
    assert not [word for word in ("type:", "Optional", "Literal", "null)", "default: False") if word in out]


def test_a_value_of_any_length_is_refused_in_a_line_that_can_be_read(capsys) -> None:
    assert main(["predict", "nuclei", "x.png", f"--tile={'x' * 9000}"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("maskconver: error: --tile must be") and len(err) < 2500


def test_help_of_a_group_lists_its_commands(capsys) -> None:
    assert main(["data", "--help"]) == 0
    out = capsys.readouterr().out
    assert "data check" in out and "data synth" in out and "evaluate" not in out


def test_abbreviated_options_are_refused(command, capsys) -> None:
    assert command(0, "--coun", "3") == 2
    assert "did you mean --count" in capsys.readouterr().err


def test_a_file_name_that_is_no_text_is_one_line(command, capsys) -> None:
    try:
        "a\udcff.png".encode()
    except UnicodeEncodeError as error:
        assert command(error) == 2
    err = capsys.readouterr().err
    assert "not UTF-8" in err and "a\\udcff.png" in err and err.count("\n") == 1


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp932"])
def test_text_that_an_encoding_cannot_show_is_replaced(encoding: str) -> None:
    environment = {**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": encoding}
    words = [sys.executable, "-m", "maskconver.cli", "--help"]
    done = subprocess.run(words, env=environment, capture_output=True, timeout=60)
    assert done.returncode == 0 and b"usage: maskconver" in done.stdout and done.stderr == b""


def test_settings_are_shown_as_the_options_that_are_typed(tmp_path, capsys) -> None:
    (tmp_path / "in").mkdir()
    assert main(["data", "convert", str(tmp_path / "in"), str(tmp_path / "out")]) == 2
    assert "say which with --from: coco" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["data", "convert", "", "out"], "`source` is empty"),
        (["predict", "nuclei", "a.png", "--out", ""], "--out is empty"),
        (
            ["predict", "nuclei", "a.png", "--tile", "huge"],
            "--tile must be a whole number, auto or none, got huge",
        ),
        (["export", "nuclei", "--to", "x"], "--to must be onnx, litert, torch-export or web, got x"),
        (["report", "run", "--out", "run.json"], "--out run.json must end in .html"),
    ],
)
def test_values_that_cannot_be_are_told_without_types_of_python(arguments, text, capsys) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert text in err and err.count("\n") == 1
