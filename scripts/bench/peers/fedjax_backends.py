# ruff: noqa: E402  # JAX reads its flags when it is imported
"""FedJAX's own federated averaging on its jit backend (`jit`), or on pmap over one device per core (`pmap`)."""

import os

from workload import read, report, time_rounds

work = read()
if work.variant == "pmap":
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={work.threads}"

import fedjax
import jax
from fedjax.algorithms import fed_avg
from jax_models import accuracy, initial, loss


def main() -> None:
    fedjax.set_for_each_client_backend(work.variant or "jit")
    batches = fedjax.ShuffleRepeatBatchHParams(
        batch_size=work.batch_size, num_epochs=work.epochs, seed=work.seed
    )
    algorithm = fed_avg.federated_averaging(
        lambda params, batch, key: jax.grad(loss)(params, batch["x"], batch["y"]),
        fedjax.optimizers.sgd(work.learning_rate),
        fedjax.optimizers.sgd(1.0),
        batches,
    )
    state, keys = algorithm.init(initial(work)), jax.random.split(jax.random.PRNGKey(0), work.cohort)

    def play(cohort) -> None:
        nonlocal state
        clients = [
            (int(index), fedjax.ClientDataset(dict(zip("xy", work.client(index), strict=True))), key)
            for index, key in zip(cohort, keys, strict=True)
        ]
        state, _ = algorithm.apply(state, clients)
        jax.block_until_ready(state.params)

    seconds = time_rounds(work, play)
    report(work, seconds, accuracy(state.params, work))


if __name__ == "__main__":
    main()
