"""Blocks one after another, the next one trained while the caller is busy with the last."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from fedlite.virtual.engines.base import Engine, Work
from fedlite.virtual.rows import Trained

Block = tuple[list[int], list[int]]  # clients and their seeds

AT_ONCE = 8  # clients in a block for each core, at least: so all are busy to its end
CACHED = (
    6 * 2**20
)  # bytes of updates in a block made in this process: two blocks stay in the last-level cache
SHIPPED = 64 * 2**20  # … made by others: they are waited for seldom


class Ahead:
    """An engine and, where it may be called from one, the thread that it trains in."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._thread = ThreadPoolExecutor(1, "training") if engine.threaded else None

    def block(self, floats: int, cores: int) -> int:
        """How many clients with rows of so many floats are best trained at a time."""
        return max(AT_ONCE * cores, (SHIPPED if self._thread is None else CACHED) // (4 * floats))

    def train(self, work: Work, blocks: Sequence[Block]) -> Iterator[tuple[Block, Trained]]:
        """Each block with its rows, in order. One more block than the caller has asked for may be trained."""
        if self._thread is None:
            for block in blocks:
                yield block, self.engine.train(work, *block)
            return
        waiting = None
        for block in blocks:
            following = block, self._thread.submit(self.engine.train, work, *block)
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting is not None:
            yield waiting[0], waiting[1].result()

    def close(self) -> None:
        """Wait for what is being trained; end the engine."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
        self.engine.close()
