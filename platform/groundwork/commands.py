"""A table of commands becomes a command line: help, typed options, recipe overrides, --json, exit codes."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import tyro
from pydantic import BaseModel, ValidationError

from groundwork.config import FrozenModel, describe_validation, load_recipe
from groundwork.errors import NotBuiltError, PlatformError, UsageError
from groundwork.telemetry import configure_logging

Repeatable = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
"""A flag that may be given several times: `--input A --input B`."""

EXIT_FAILURE, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


class Options(FrozenModel):
    """Flags that every command takes."""

    json_: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON document on standard output and nothing else there."""
    verbose: bool = False
    """Log more."""


class RayOptions(Options):
    """Flags of commands that run on Ray."""

    address: str | None = None
    """Ray to join (host:port, ray://…, auto). Default: RAY_ADDRESS, else an embedded Ray for this command alone."""


@dataclasses.dataclass(frozen=True)
class Recipes:
    """The recipes of a command: the model that validates them and the folder of the shipped ones."""

    model: type[BaseModel]
    folder: Path


@dataclasses.dataclass(frozen=True)
class Command:
    """One command: `run(options)` or `run(options, recipe)` returns what `--json` prints; `text` renders it."""

    name: str
    """One word, or two: `label train` is another command than `label`, whose first argument then cannot be `train`."""
    summary: str
    options: type[Options]
    run: Callable[..., Any]
    recipes: Recipes | None = None
    text: Callable[[Any], str] | None = None
    built: bool = True


def not_built(name: str, summary: str) -> Command:
    """A command of the contract whose room is not furnished yet: it says so and exits with 2."""

    def refuse(*_: object) -> NoReturn:
        raise NotBuiltError(f"'{name}' is not built yet.", "The README lists what works and what does not yet.")

    return Command(name=name, summary=f"{summary} (not built yet)", options=Options, run=refuse, built=False)


def run_command_line(
    program: str, commands: Sequence[Command], argv: Sequence[str], *, elsewhere: Mapping[str, str] | None = None
) -> int:
    """Run the command that `argv` names and return its exit code: 0 done, 1 failed, 2 bad usage, 130 interrupted.

    `elsewhere` (name → summary) are commands that the caller dispatches itself; the overview lists them first.
    """
    summaries = {**(elsewhere or {}), **{command.name: command.summary for command in commands}}
    configure_logging(verbose="--verbose" in argv)
    if not argv or argv[0] in ("-h", "--help"):
        return guarded(lambda: _show(_overview(program, summaries), code=0 if argv else EXIT_USAGE))
    chosen = named_command(commands, argv)
    if chosen is None:
        return report_error(_unknown(program, summaries, argv))
    return guarded(lambda: _run(program, chosen, list(argv[len(chosen.name.split()) :])))


def _show(text: str, *, code: int) -> int:
    print(text)
    return code


def named_command(commands: Sequence[Command], argv: Sequence[str]) -> Command | None:
    """The command whose name `argv` opens with; of `label` and `label train` the longer one that fits."""
    fitting = [command for command in commands if (words := command.name.split()) == list(argv[: len(words)])]
    return max(fitting, key=lambda command: len(command.name.split()), default=None)


def guarded(body: Callable[[], int]) -> int:
    """Run `body` and turn what it raises into a message and an exit code. SIGTERM stops it like Ctrl-C.

    A reader that closed standard output early (`| head`) ends it without a word.
    """
    with _Terminable():
        try:
            try:
                return body()
            finally:
                sys.stdout.flush()  # here, where a closed pipe is expected, and not when Python ends
        except PlatformError as error:
            return report_error(error)
        except KeyboardInterrupt:
            print("Stopped. Run the same command again to go on.", file=sys.stderr)
            return EXIT_INTERRUPTED
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered has to go somewhere
            return EXIT_FAILURE


def leave(code: int) -> NoReturn:
    """End the process with a command's exit code.

    After an interrupt the libraries are not unloaded: threads of Ray's core that were cut off in the middle of a call
    may still be at work, and crash the process (SIGSEGV instead of 130) when what they use goes away below them.
    """
    if code == EXIT_INTERRUPTED:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def report_error(error: PlatformError) -> int:
    """Print the error for people on standard error; return its exit code."""
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def _run(program: str, command: Command, argv: list[str]) -> int:
    if not command.built:
        command.run()
    arguments = _parse(f"{program} {command.name}", command, argv)
    # Standard output belongs to the result: what libraries print on the way goes to standard error.
    with contextlib.redirect_stdout(sys.stderr):
        result = command.run(*arguments)
    if arguments[0].json_:
        print(json.dumps(result, indent=2, default=str))
    elif command.text is not None and result is not None:
        print(command.text(result))
    return 0


def _parse(program: str, command: Command, argv: list[str]) -> tuple[Any, ...]:
    if command.recipes is None:
        return (tyro.cli(command.options, args=argv, prog=program, description=command.summary),)
    wants_help = any(word in ("-h", "--help") for word in argv)
    named = bool(argv) and not argv[0].startswith("-")
    if not named and not wants_help:
        raise UsageError(f"{program} needs a RECIPE first: a path or the name of a shipped one.", f"Try: {program} toy")
    name, rest = (argv[0], argv[1:]) if named else ("toy", argv)
    recipe = load_recipe(command.recipes.model, name, folder=command.recipes.folder)
    flat = tyro.conf.arg(name="")
    line: Any = dataclasses.make_dataclass(
        "line",
        [("options", Annotated[command.options, flat]), ("recipe", Annotated[command.recipes.model, flat])],
    )
    try:
        parsed = tyro.cli(
            line,
            args=rest,
            prog=f"{program} {name if named else 'RECIPE'}",
            description=f"{command.summary}\n\nDefaults shown are those of the recipe {name!r}.",
            default=line(tyro.MISSING if _has_required(command.options) else command.options(), recipe),
        )
    except ValidationError as error:
        raise UsageError(describe_validation(error, model=command.recipes.model, source="command line")) from error
    return parsed.options, parsed.recipe


def _has_required(options: type[Options]) -> bool:
    return any(field.is_required() for field in options.model_fields.values())


def _unknown(program: str, summaries: Mapping[str, str], argv: Sequence[str]) -> UsageError:
    longer = [name for name in summaries if name.startswith(f"{argv[0]} ")]
    if longer:
        return UsageError(f"{program} {argv[0]} needs a second word.", f"Commands: {', '.join(longer)}.")
    return UsageError(f"{program} has no command {argv[0]!r}.", f"Commands: {', '.join(summaries)}.")


def _overview(program: str, summaries: Mapping[str, str]) -> str:
    width = max(len(name) for name in summaries)
    rows = [f"  {name:<{width}}  {summary}" for name, summary in summaries.items()]
    return "\n".join([f"usage: {program} COMMAND …", "", *rows, "", f"'{program} COMMAND --help' explains each."])


class _Terminable:
    """SIGTERM raises KeyboardInterrupt inside the block, in the main thread only; the old handler comes back after."""

    def __enter__(self) -> None:
        try:
            self._before: Any = signal.signal(signal.SIGTERM, _interrupt)
        except ValueError:  # not the main thread
            self._before = None

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
