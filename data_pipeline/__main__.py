"""The command line of the curate stage: `python -m data_pipeline run RECIPE …`, and `cvx curate …`."""

from __future__ import annotations

import sys

from data_pipeline.commands import COMMANDS, with_flags
from groundwork.commands import leave, run_command_line


def main(argv: list[str], program: str = "python -m data_pipeline") -> int:
    """Run one command; returns its exit code."""
    return run_command_line(program, COMMANDS, with_flags(argv))


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
