"""A denoiser spread over processes: which of them compute which half of guidance, and which share rows of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

# Of one exchange, from the first rank that waits to the last that comes. An idle group waits for nothing.
_EXCHANGE = timedelta(minutes=5)


@dataclass(frozen=True)
class Split:
    """`halves` of guidance (1 or 2), each on `parts` ranks that share every row of its tokens (Ulysses)."""

    halves: int = 1
    parts: int = 1

    @classmethod
    def of(cls, ranks: int) -> Split:
        """Guidance first: its halves meet once a step, parts of a row twice in every layer."""
        return cls(1, ranks) if ranks % 2 else cls(2, ranks // 2)

    def check(self, *, heads: int) -> None:
        """Raises ValueError, which lists what is allowed, where `heads` attention heads cannot be shared so."""
        if heads % self.parts:
            allowed = [count for count in range(1, 2 * heads + 1) if heads % Split.of(count).parts == 0]
            raise ValueError(
                f"ranks={self.ranks}: {self.parts} of them share every row of tokens, and the denoiser's {heads} "
                f"attention heads cannot be dealt out to so many; allowed are {', '.join(map(str, allowed))}"
            )

    @property
    def ranks(self) -> int:
        """How many processes there are."""
        return self.halves * self.parts


@dataclass(frozen=True)
class Groups:
    """Whom this process computes with; None: nobody.

    In `halves` rank 0 has the unconditional half and rank 1 the conditional; `parts` share the rows of one half.
    """

    split: Split = Split()
    halves: dist.ProcessGroup | None = None
    parts: dist.ProcessGroup | None = None


def join(split: Split, *, rank: int, meet: Path) -> Groups:
    """Meet the others at the file `meet`, on one machine; returns when all `split.ranks` are there.

    NCCL where there is a GPU, Gloo elsewhere. An exchange that a rank does not come to ends after 5 minutes, with an
    error (Gloo) or with the process (NCCL).
    """
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    where = {"init_method": f"file://{meet}", "rank": rank, "world_size": split.ranks}
    dist.init_process_group(backend, timeout=_EXCHANGE, **where)  # type: ignore[arg-type]
    rows = [[half * split.parts + part for part in range(split.parts)] for half in range(split.halves)]
    return Groups(
        split,
        halves=_own([list(pair) for pair in zip(*rows, strict=True)]) if split.halves > 1 else None,
        parts=_own(rows) if split.parts > 1 else None,
    )


def _own(groups: list[list[int]]) -> dist.ProcessGroup:
    group, _ = dist.new_subgroups_by_enumeration(groups, timeout=_EXCHANGE)  # type: ignore[no-untyped-call]
    assert isinstance(group, dist.ProcessGroup)
    return group
