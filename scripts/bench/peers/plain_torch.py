"""No framework: a pool of processes, each with one model that it reuses (`pool`), or one process (`threads`)."""

import torch
import torch.multiprocessing as mp
from torch_models import accuracy, flat, load_flat, make, train
from workload import Workload, read, report, time_rounds

_mine: dict[str, object] = {}


def begin(work: Workload, start: torch.Tensor, results: torch.Tensor) -> None:
    """In a worker: weights come and go through shared memory."""
    torch.set_num_threads(1)
    _mine.update(work=work, model=make(work.model), start=start, results=results)


def one(job: tuple[int, int]) -> None:
    place, index = job
    model = _mine["model"]
    load_flat(model, _mine["start"])
    train(model, _mine["work"], index)
    _mine["results"][place] = flat(model)


def main() -> None:
    work = read()
    model = make(work.model)
    start = flat(model).share_memory_()
    results = torch.zeros(work.cohort, len(start)).share_memory_()
    if work.variant == "threads":
        begin(work, start, results)
        torch.set_num_threads(work.threads)

        def play(cohort: object) -> None:
            for job in enumerate(cohort):
                one(job)
            start.copy_(results.mean(0))

        seconds = time_rounds(work, play)
    else:
        with mp.get_context("spawn").Pool(work.threads, begin, (work, start, results)) as pool:

            def play(cohort: object) -> None:
                pool.map(one, list(enumerate(cohort)), chunksize=max(1, work.cohort // (4 * work.threads)))
                start.copy_(results.mean(0))

            seconds = time_rounds(work, play)
    load_flat(model, start)
    report(work, seconds, accuracy(model, work))


if __name__ == "__main__":
    main()
