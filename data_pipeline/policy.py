"""A policy file (or the name of a shipped one) becomes the rules that decide which clips are kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from groundwork.config import FrozenModel, load_recipe, shipped_recipes

POLICIES = Path(__file__).parent / "policies"


class Rule(FrozenModel):
    """Rejects a clip whose score lies below, or above, a threshold."""

    score: str
    """Name of the score, as in the signals tables."""
    below: float | None = None
    """Reject when the score is lower than this."""
    above: float | None = None
    """Reject when the score is higher than this."""
    absent: Literal["keep", "reject"] = "keep"
    """What happens to a clip that has no such score (its model was not there): passed on and counted, or rejected."""

    @model_validator(mode="after")
    def _one_side_at_least(self) -> Rule:
        if self.below is None and self.above is None:
            raise ValueError("a rule needs 'below' or 'above'")
        return self


class NotCovered(FrozenModel):
    """Something the source of a policy asks for that no rule of ours expresses."""

    asks: str
    """What the source asks."""
    reason: str
    """Why it is not here."""


class Policy(FrozenModel):
    """Thresholds with their origin: what decides, apart from how it was measured."""

    name: str
    """Name of the policy, on reports and in the manifest."""
    source: str = ""
    """Where the numbers come from: paper, section, file."""
    notes: str = ""
    """What a reader must know before using it."""
    rules: dict[str, Rule] = Field(default_factory=dict)
    """Reason → rule, tried in this order; the first that fires names the reason of rejection."""
    not_covered: tuple[NotCovered, ...] = ()
    """What the source asks and these rules do not."""


def load_policy(name_or_path: str) -> Policy:
    """Read a policy. Raises RecipeError for an unknown name (it lists the shipped ones) or a wrong file."""
    return load_recipe(Policy, name_or_path, folder=POLICIES)


def shipped_policies() -> list[Policy]:
    """The presets, by name."""
    return [load_policy(name) for name in shipped_recipes(POLICIES)]


def merge(policy: Policy, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The policy's rules in their order; a reason that `overrides` names takes the other rule, a new one comes last."""
    return {**policy.rules, **overrides}
