"""pfl-research's simulated backend with its FederatedAveraging, one process per core under torchrun."""

import time
from itertools import pairwise

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.hyperparam import NNTrainHyperParams
from pfl.internal.ops import pytorch_ops
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch.nn import functional as F
from torch_models import accuracy, client_tensors, make
from workload import read, report


class Clock(TrainingProcessCallback):
    def __init__(self) -> None:
        self.times: list[float] = []

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        self.times.append(time.perf_counter())
        return False, Metrics()


def main() -> None:
    torch.set_num_threads(1)
    work = read()
    module = make(work.model)
    module.loss = lambda x, y: F.cross_entropy(module(x), y)
    module.metrics = lambda x, y: {"loss": Weighted(float(module.loss(x, y)) * len(y), len(y))}
    model = PyTorchModel(module, torch.optim.SGD, torch.optim.SGD(module.parameters(), lr=1.0))
    drawn = iter(work.cohorts().ravel().tolist())
    parts = FederatedDataset(
        lambda index: PyTorchTensorDataset(client_tensors(work, index), user_id=str(index)),
        lambda: next(drawn),
    )
    rounds, clock = work.warmup + work.rounds, Clock()
    began = time.perf_counter()
    FederatedAveraging().run(
        # it tests on the cohort's own data when the frequency divides the round's number: in round 0 alone
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=rounds, evaluation_frequency=10**9, train_cohort_size=work.cohort,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=parts, val_data=parts),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_batch_size=work.batch_size, local_num_epochs=work.epochs,
            local_learning_rate=work.learning_rate,
        ),
        callbacks=[clock],
    )  # fmt: skip
    times = [began, *clock.times]
    seconds = [after - before for before, after in pairwise(times)][work.warmup :]
    if pytorch_ops.distributed.global_rank == 0:
        report(work, seconds, accuracy(module, work), processes=pytorch_ops.distributed.world_size)


if __name__ == "__main__":
    main()
