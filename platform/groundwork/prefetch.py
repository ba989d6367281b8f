"""An iterator is run ahead in a thread, so that its work overlaps that of who consumes it."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetched(source: Generator[T], *, depth: int) -> Iterator[T]:
    """The values of `source` in order, up to `depth` of them computed ahead; its errors are raised where they fall.

    When the consumer stops early, `source` is closed.
    """
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        waiting: deque[Future[T | object]] = deque()
        try:
            while True:
                while len(waiting) < depth:
                    waiting.append(pool.submit(next, source, end))
                value = waiting.popleft().result()
                if value is end:
                    return
                yield value  # type: ignore[misc]
        finally:
            for future in waiting:
                future.cancel()
            pool.submit(source.close)
