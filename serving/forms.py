"""Form fields as the official client sends them become the object that JSON would have been."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from serving.errors import RequestError

_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_MOST_LEVELS = 3


def unflatten(fields: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """`a[b]` becomes a nested object and `a[][b]` a list of objects, a new one where a name comes again.

    Fields without a value are left out. Raises RequestError 400 for names that contradict each other or nest too deep.
    """
    found: dict[str, Any] = {}
    for name, value in fields:
        if value == "":
            continue
        match = _NAME.fullmatch(name)
        path = [match[1], *re.findall(r"\[([^\[\]]*)\]", match[2])] if match else []
        if not path or len(path) > _MOST_LEVELS:
            raise RequestError(400, "unsupported_field", f"There is no field {name[:100]!r}.", param=name[:100])
        _put(found, path, value, name=name)
    return found


def _put(target: dict[str, Any], path: list[str], value: str, *, name: str) -> None:
    head, *rest = path
    if not rest:
        if head in target:
            raise _contradiction(name)
        target[head] = value
    elif rest[0] == "":
        items = target.setdefault(head, [])
        if not isinstance(items, list):
            raise _contradiction(name)
        if len(rest) == 1:
            items.append(value)
            return
        if not items or not isinstance(items[-1], dict) or rest[1] in items[-1]:
            items.append({})
        items[-1][rest[1]] = value
    else:
        inner = target.setdefault(head, {})
        if not isinstance(inner, dict):
            raise _contradiction(name)
        _put(inner, rest, value, name=name)


def _contradiction(name: str) -> RequestError:
    return RequestError(
        400, "invalid_value", f"{name[:100]} comes twice, or as two different things.", param=name[:100]
    )
