"""LoRAs by name: read when first asked for, worn by a denoiser for one job, taken out afterwards to the bit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from cogvideox.denoiser import Denoiser
from cogvideox.weights import load_lora, merge_lora
from cogvideox.weights.lora import Adapter as Loaded
from groundwork.errors import WeightsError
from groundwork.storage import open_storage
from serving.fingerprint import content_sha256
from serving.jobs.job import Adapter

_REMEMBERED = 4


class Adapters:
    """The adapters on offer; the latest few stay in memory. For one thread."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = dict(places)
        self._loaded: OrderedDict[str, tuple[Loaded, str]] = OrderedDict()
        self._sha256: dict[str, str] = {}

    def sha256(self, name: str) -> str:
        """Hash of the adapter's file or folder. Raises WeightsError, also when it was replaced since it was read."""
        if name not in self._sha256:
            self._load(name)
        return self._sha256[name]

    def put_on(self, denoiser: Denoiser, wanted: Sequence[Adapter]) -> ExitStack:
        """Add the adapters to the denoiser's weights; closing what is returned restores the former bits.

        Raises WeightsError, with nothing changed, when one is unknown or does not fit.
        """
        with ExitStack() as worn:
            for adapter in wanted:
                loaded = self._load(adapter.name)
                worn.callback(merge_lora(denoiser, loaded, strength=adapter.scale).unmerge)
            return worn.pop_all()

    def _load(self, name: str) -> Loaded:
        if name not in self._loaded:
            self._loaded[name] = self._read(name)
            if len(self._loaded) > _REMEMBERED:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(name)
        return self._loaded[name][0]

    def _read(self, name: str) -> tuple[Loaded, str]:
        if name not in self._places:
            raise WeightsError(f"There is no adapter {name!r}.", f"On offer: {', '.join(self._places) or 'none'}.")
        with open_storage(self._places[name]).local_path() as path:
            loaded, sha256 = load_lora(path), content_sha256(path)
        if self._sha256.setdefault(name, sha256) != sha256:
            raise WeightsError(f"The adapter {name!r} was replaced while the service ran.", "Start the service again.")
        return loaded, sha256
