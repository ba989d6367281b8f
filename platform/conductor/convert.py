"""`cvx convert SRC DST --to diffusers|sat`: a whole model's folder from one published layout to the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import tyro

from groundwork.commands import Command, Options
from groundwork.errors import UsageError


class ConvertOptions(Options):
    """What to convert, and into which layout."""

    source: tyro.conf.Positional[str]
    """A folder in the other layout."""
    target: tyro.conf.Positional[str]
    """The folder to write; it must be new or empty."""
    to: Literal["diffusers", "sat"]
    """The layout to write."""
    variant: str = ""
    """The model card of a SAT folder. Default: the published one with the same sizes."""
    allow_pickle: bool = False
    """Tensors are read from a SAT pickle without running it; one that holds more needs your word that you trust it."""


def convert(options: ConvertOptions) -> dict[str, Any]:
    """Write the other layout; returns where."""
    from cogvideox.variants import VARIANTS
    from cogvideox.weights.convert import convert as convert_folder

    if options.variant and options.variant not in VARIANTS:
        raise UsageError(f"There is no variant {options.variant!r}.", f"Variants: {', '.join(VARIANTS)}.")
    target = Path(options.target)
    if target.is_dir() and any(target.iterdir()):
        raise UsageError(f"{target} is not empty.", "Give a new folder.")
    variant = VARIANTS.get(options.variant)
    written = convert_folder(options.source, target, to=options.to, variant=variant, allow_pickle=options.allow_pickle)
    return {"written": str(written), "layout": options.to}


COMMAND = Command(
    name="convert",
    summary="published checkpoint layouts, both ways",
    options=ConvertOptions,
    run=convert,
    text=lambda made: f"{made['written']} ({made['layout']} layout)",
)
