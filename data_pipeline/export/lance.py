"""Exported clips become the rows of a Lance table; needs the extra `lance`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.export.clips import ExportedClip
from data_pipeline.export.formats import PLAIN, batches
from groundwork.errors import UsageError


class LanceTable:
    """A table at a path or URI that Lance can open. Each shard is one commit: in the table whole, or not at all."""

    def __init__(self, uri: str) -> None:
        try:
            import lance
        except ImportError as error:
            hint = "Install it: pip install 'cogvideox-platform[lance]'"
            raise UsageError("Lance is not installed.", hint) from error
        self._lance: Any = lance
        self.uri = uri

    def shards(self) -> set[str]:
        """The shards whose rows are in the table."""
        table = self._open()
        return set() if table is None else set(pc.unique(table.to_table(columns=["shard"]).column("shard")).to_pylist())

    def append(self, clips: Iterable[ExportedClip], *, shard: str) -> None:
        """Add the rows of a shard."""
        reader = pa.RecordBatchReader.from_batches(PLAIN, batches(clips, shard=shard))
        self._lance.write_dataset(reader, self.uri, mode="create" if self._open() is None else "append")

    def keep(self, shards: Collection[str]) -> None:
        """Delete the rows of all other shards."""
        table = self._open()
        gone = sorted(self.shards() - set(shards))
        if table is not None and gone:
            table.delete("shard IN ({})".format(", ".join(f"'{shard}'" for shard in gone)))

    def rows(self) -> int:
        """How many there are."""
        table = self._open()
        return 0 if table is None else int(table.count_rows())

    def _open(self) -> Any:
        try:
            return self._lance.dataset(self.uri)
        except (ValueError, OSError):  # there is none yet
            return None
