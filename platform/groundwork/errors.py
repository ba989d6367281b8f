"""The error tree: everything that a caller of this platform may catch.

PlatformError            exit 1   what was wrong, where, and what to do
├── UsageError           exit 2   the command line is off
│   ├── RecipeError               a recipe or its overrides are off: names file, key, nearest known key
│   └── NotBuiltError             a command of the contract whose room is not furnished yet
├── InputError                    the user's data is off: names file, row, field
├── StorageError                  storage cannot be read or written
├── MediaError                    a video cannot be opened, decoded or written
│   ├── TooLargeError             its pictures have more pixels than allowed
│   └── TooLongError              it has more pictures than allowed
├── WeightsError                  a weights folder does not fit the model: lists every problem
└── RunError                      a run cannot start or go on
"""

from __future__ import annotations


class PlatformError(Exception):
    """An error for people. `message` says what and where, `hint` says what to do; both survive pickling."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        # Positional on purpose: an exception with keyword-only arguments cannot come back from a Ray task.
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class UsageError(PlatformError):
    """The command line is off."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe or one of its overrides is off."""


class NotBuiltError(UsageError):
    """A command of the contract that this version does not offer yet."""


class InputError(PlatformError):
    """The user's data is off."""


class StorageError(PlatformError):
    """Storage cannot be read or written."""


class MediaError(PlatformError):
    """A video cannot be opened, decoded or written."""


class TooLargeError(MediaError):
    """A video's pictures have more pixels than allowed."""


class TooLongError(MediaError):
    """A video has more pictures than allowed."""


class WeightsError(PlatformError):
    """A weights folder does not fit the model."""


class RunError(PlatformError):
    """A run cannot start or go on."""
