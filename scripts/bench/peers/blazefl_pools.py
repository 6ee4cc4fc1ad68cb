"""BlazeFL's own FedAvg: its thread pool (`threads`, what it recommends) or its process pool (`processes`)."""

import tempfile
from enum import StrEnum
from pathlib import Path

import torch
from blazefl.contrib import (
    FedAvgBaseServerHandler,
    FedAvgProcessPoolClientTrainer,
    FedAvgThreadPoolClientTrainer,
)
from blazefl.core import IPCMode
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset
from torch_models import accuracy, client_tensors, make
from workload import Workload, read, report, time_rounds


class Name(StrEnum):
    MODEL = "model"


class Selector:
    def __init__(self, work: Workload) -> None:
        self.work = work

    def select_model(self, model_name: str) -> torch.nn.Module:
        torch.set_num_threads(1)  # here because it is the first thing a worker does
        return make(self.work.model)


class Parts:
    """Batches are taken whole by their indices: torch's documented fast way through a DataLoader."""

    def __init__(self, work: Workload) -> None:
        self.work = work

    def get_dataset(self, type_, cid):
        return TensorDataset(*client_tensors(self.work, cid))

    def set_dataset(self, type_, cid, dataset) -> None:
        pass

    def get_dataloader(self, type_, cid, batch_size, generator):
        data = self.get_dataset(type_, cid)
        sampler = BatchSampler(RandomSampler(data, generator=generator), batch_size, drop_last=False)
        return DataLoader(data, sampler=sampler, batch_size=None)


def main() -> None:
    work = read()
    selector, parts, name = Selector(work), Parts(work), Name.MODEL
    shared = {
        "model_selector": selector, "model_name": name, "dataset": parts, "device": "cpu", "seed": work.seed,
        "num_clients": work.clients, "epochs": work.epochs, "batch_size": work.batch_size,
        "lr": work.learning_rate, "num_parallels": work.threads,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        if work.variant == "processes":
            places = {"share_dir": Path(folder) / "share", "state_dir": Path(folder) / "state"}
            trainer = FedAvgProcessPoolClientTrainer(**shared, **places, ipc_mode=IPCMode.SHARED_MEMORY)
        else:
            trainer = FedAvgThreadPoolClientTrainer(**shared)
        trainer.progress_fn = lambda futures: futures
        ratio = (work.cohort + 0.5) / work.clients
        server = FedAvgBaseServerHandler(
            selector, name, parts, 10**6, work.clients, ratio, "cpu", work.batch_size, work.seed
        )

        def play(cohort) -> None:
            trainer.local_process(server.downlink_package(), [int(index) for index in cohort])
            for package in trainer.uplink_package():
                server.load(package)

        seconds = time_rounds(work, play)
    report(work, seconds, accuracy(server.model, work), played=server.round)


if __name__ == "__main__":
    main()
