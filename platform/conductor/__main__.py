"""`cvx COMMAND …`: hands each command to the stage it belongs to."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from conductor import convert, demo, doctor, generate, submit
from groundwork.commands import Command, leave, not_built, run_command_line

PROGRAM = "cvx"


@dataclass(frozen=True)
class Stage:
    """A stage whose `python -m MODULE` takes the same words as `cvx NAME`."""

    name: str
    module: str
    summary: str


STAGES = (
    Stage("curate", "data_pipeline", "raw video → scored, decided, captioned, encoded clips"),
    Stage("train", "training", "encoded clips → checkpoint → weights"),
    Stage("serve", "serving", "weights → text-to-video HTTP API"),
)

COMMANDS: tuple[Command, ...] = (
    demo.COMMAND,
    doctor.COMMAND,
    generate.COMMAND,
    convert.COMMAND,
    submit.COMMAND,
    not_built("evaluate", "VAE and video metrics of a weights folder"),
    not_built("pipeline", "curate → train → evaluate → deploy as one resumable job"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    stage = next((stage for stage in STAGES if words and words[0] == stage.name), None)
    if stage is not None:
        code: int = importlib.import_module(f"{stage.module}.__main__").main(
            words[1:], program=f"{PROGRAM} {stage.name}"
        )
        return code
    return run_command_line(PROGRAM, COMMANDS, words, elsewhere={stage.name: stage.summary for stage in STAGES})


def run() -> NoReturn:
    """The command `cvx`."""
    leave(main())


if __name__ == "__main__":
    run()
