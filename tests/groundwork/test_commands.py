"""A table of commands behaves as the contract says: exit codes, --json, help with every field, overrides."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from groundwork.commands import Command, Options, Recipes, Repeatable, not_built, run_command_line
from groundwork.config import FrozenModel
from groundwork.errors import InputError


class Inner(FrozenModel):
    rate: float = 0.1
    """How fast."""


class Recipe(FrozenModel):
    steps: int = 1
    """How many."""
    inner: Inner = Inner()


class RunOptions(Options):
    out: str
    """Where to."""
    input: Repeatable = ()
    """From where."""


def run(options: RunOptions, recipe: Recipe) -> dict[str, Any]:
    if options.out == "broken":
        raise InputError("video.mp4, row 3: no frames", "Remove it.")
    if options.out == "stop":
        raise KeyboardInterrupt
    return {"out": options.out, "input": list(options.input), "recipe": recipe.model_dump()}


@pytest.fixture
def commands(tmp_path: Path) -> list[Command]:
    (tmp_path / "toy.yaml").write_text("steps: 7\n")
    recipes = Recipes(Recipe, tmp_path)
    return [
        Command("run", "Run it.", RunOptions, run, recipes, text=lambda result: f"wrote {result['out']}"),
        not_built("plan", "Plan it"),
    ]


def test_overrides_reach_the_recipe_and_json_is_all_there_is(
    commands: list[Command], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "toy", "--out", "x", "--input", "a", "--input", "b", "--inner.rate", "0.5", "--json"]
    assert run_command_line("prog", commands, words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"out": "x", "input": ["a", "b"], "recipe": {"steps": 7, "inner": {"rate": 0.5}}}


def test_people_get_text(commands: list[Command], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line("prog", commands, ["run", "toy", "--out", "x"]) == 0
    assert capsys.readouterr().out == "wrote x\n"


def test_help_shows_every_field_of_the_recipe(commands: list[Command], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command_line("prog", commands, ["run", "toy", "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(word in shown for word in ("--steps", "How many.", "default: 7", "--inner.rate", "How fast.", "--out"))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["run", "toy", "--out", "broken"], 1, "video.mp4, row 3"),
        (["run", "toy", "--out", "stop"], 130, "Run the same command again"),
        (["run", "nope", "--out", "x"], 2, "No recipe 'nope'"),
        (["run", "--out", "x"], 2, "needs a RECIPE first"),
        (["plan"], 2, "not built yet"),
        (["dance"], 2, "no command 'dance'"),
    ],
)
def test_each_end_has_its_exit_code_and_its_message(
    commands: list[Command], capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    assert run_command_line("prog", commands, words) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("words", [["run", "toy"], ["run", "toy", "--out", "x", "--stepz", "3"]])
def test_a_wrong_flag_ends_with_2(commands: list[Command], words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command_line("prog", commands, words)
    assert ended.value.code == 2


def test_a_second_word_chooses_a_command_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    def say(word: str) -> Command:
        return Command(word, word, Options, lambda _: word, text=str)

    commands = [say("label"), say("label train"), say("captioner train")]
    for name in ("label", "label train", "captioner train"):
        assert run_command_line("prog", commands, name.split()) == 0
        assert capsys.readouterr().out == f"{name}\n"
    assert run_command_line("prog", commands, ["captioner"]) == 2
    assert "prog captioner needs a second word.\n" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--help"], ["run", "toy", "--help"], ["run", "toy", "--out", "x", "--json"]])
def test_a_reader_that_leaves_early_ends_it_without_a_word(
    commands: list[Command], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as closed_pipe:  # closing it writes what is left, as the end of Python does
        monkeypatch.setattr(sys, "stdout", closed_pipe)
        assert run_command_line("prog", commands, words) == 1
    assert capsys.readouterr().err == ""
