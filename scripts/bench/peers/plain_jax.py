"""No framework: a cohort as one jitted JAX program, clients stacked (`vmap`) or one after another (`map`)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax_models import accuracy, initial, loss
from workload import read, report, time_rounds


def main() -> None:
    work = read()

    def train(params, x, y):
        def step(params, batch):
            grads = jax.grad(loss)(params, *batch)
            return jax.tree.map(lambda w, g: w - work.learning_rate * g, params, grads), None

        return jax.lax.scan(step, params, (x, y))[0]

    @jax.jit
    def train_all(params, x, y):
        if work.variant == "map":
            local = jax.lax.map(lambda data: train(params, *data), (x, y))
        else:
            local = jax.vmap(train, (None, 0, 0))(params, x, y)
        return jax.tree.map(lambda w: w.mean(0), local), local

    params, chance = initial(work), np.random.default_rng(work.seed)
    steps = work.epochs * work.samples // work.batch_size

    def play(cohort) -> None:
        nonlocal params
        orders = [
            np.concatenate([chance.permutation(work.samples) for _ in range(work.epochs)]) for _ in cohort
        ]
        x, y = work.array("x"), work.array("y")
        xs = np.stack([x[index][order] for index, order in zip(cohort, orders, strict=True)])
        ys = np.stack([y[index][order] for index, order in zip(cohort, orders, strict=True)])
        batched = (work.cohort, steps, work.batch_size)
        params, local = train_all(
            params, jnp.asarray(xs.reshape(*batched, *xs.shape[2:])), jnp.asarray(ys.reshape(batched))
        )
        jax.block_until_ready((params, local))

    seconds = time_rounds(work, play)
    report(work, seconds, accuracy(params, work))


if __name__ == "__main__":
    main()
