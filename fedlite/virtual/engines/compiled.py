"""The compiled kernel: a client per core, its weights in the cache."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedlite.errors import FedliteError
from fedlite.modules import module_of
from fedlite.virtual import kernel
from fedlite.virtual.engines.base import Share, Work, found
from fedlite.virtual.engines.loop import reason
from fedlite.virtual.rows import Trained, width
from fedlite.virtual.samples import Picked, Samples


@dataclass(frozen=True)
class Compiled:
    """Trains in this process on `threads` cores. For work of which `unable` has nothing to say."""

    share: Share
    threads: int
    name: str = "compiled"

    def train(self, work: Work, clients: Sequence[int], seeds: Sequence[int]) -> Trained:
        """See Engine."""
        samples, failed = list[Samples | Picked](), dict[int, str]()
        for place, client in enumerate(clients):
            try:
                samples.append(found(self.share, client))
            except Exception as error:  # one client's failure is its own
                failed[place] = reason(error)
        places = [place for place in range(len(clients)) if place not in failed]
        chosen = [seeds[place] for place in places]
        try:
            done = self._rows(work, samples, chosen)
            if not failed:
                return done
            parts = [(places, done)]
        except FedliteError:  # somebody's samples do not fit: each answers for itself
            parts = []
            for place, mine in zip(places, samples, strict=True):
                try:
                    parts.append(([place], self._rows(work, [mine], [seeds[place]])))
                except FedliteError as error:
                    failed[place] = reason(error)
        whole = Trained.blank(len(clients), width(work.params))
        whole.failed.update(failed)
        for where, part in parts:
            whole.put(where, part)
        return whole

    def close(self) -> None:
        """Threads end with each block."""

    def _rows(self, work: Work, samples: Sequence[Samples | Picked], seeds: Sequence[int]) -> Trained:
        return kernel.train_rows(
            module_of(work.model, work.settings.bits),
            work.params,
            samples,
            work.settings,
            seeds=seeds,
            masks=work.masks,
            threads=self.threads,
        )


def unable(work: Work) -> str | None:
    """Why the kernel cannot do this work; None when it can."""
    module = module_of(work.model, work.settings.bits)
    return kernel.available() or kernel.supports(module, work.settings)
