"""Every class of the error tree survives the way back from a Ray task, and says how a command ends."""

from __future__ import annotations

import pickle

import pytest

from groundwork import errors

CLASSES = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.PlatformError)
]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_error_survives_pickling(kind: type[errors.PlatformError]) -> None:
    before = kind("clip 7 is empty", "Remove it.")
    after = pickle.loads(pickle.dumps(before))
    assert (type(after), after.message, after.hint, str(after)) == (kind, before.message, before.hint, str(before))


def test_the_tree_at_the_head_of_the_file_names_every_class() -> None:
    assert errors.__doc__ is not None
    assert [kind.__name__ for kind in CLASSES if kind.__name__ not in errors.__doc__] == []


def test_usage_errors_end_with_2_and_all_others_with_1() -> None:
    assert {kind.__name__: kind.exit_code for kind in CLASSES if kind.exit_code != 1} == {
        "UsageError": 2,
        "RecipeError": 2,
        "NotBuiltError": 2,
    }
