"""Whether a machine is about to be taken away: asked now and then, by all workers at the same step."""

from __future__ import annotations

import time
from collections.abc import Callable

_SECONDS = 5.0


class Notice:
    """`ask` says what is known, or nothing; every worker must call it equally often."""

    def __init__(self, ask: Callable[[], str]) -> None:
        self._ask, self._asked, self.text = ask, time.monotonic(), ""

    @property
    def is_due(self) -> bool:
        """Whether it is time to ask; worker 0's clock counts."""
        return not self.text and time.monotonic() - self._asked >= _SECONDS

    def ask(self) -> str:
        """What came to be known just now; `text` keeps it."""
        self._asked, self.text = time.monotonic(), self._ask()
        return self.text
