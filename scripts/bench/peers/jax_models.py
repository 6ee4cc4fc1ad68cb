"""The two W1 models in JAX: mean cross-entropy, and the initial weights that the torch models have."""

import jax
import jax.numpy as jnp
import numpy as np


def initial(work) -> dict:
    """From torch's layout to JAX's: dense (in, out), kernels HWIO, and features flattened as H, W, C."""
    with np.load(f"{work.data}/{work.model}.npz") as raw:
        torch = {name: raw[name] for name in raw.files}
    if work.model == "mlp":
        layers = {
            "hidden": (torch["hidden.0.weight"].T, torch["hidden.0.bias"]),
            "output": (torch["output.weight"].T, torch["output.bias"]),
        }
    else:
        output = torch["output.weight"].reshape(10, 32, 7, 7).transpose(2, 3, 1, 0).reshape(1568, 10)
        layers = {
            "first": (torch["features.0.weight"].transpose(2, 3, 1, 0), torch["features.0.bias"]),
            "second": (torch["features.3.weight"].transpose(2, 3, 1, 0), torch["features.3.bias"]),
            "output": (output, torch["output.bias"]),
        }
    return jax.tree_util.tree_map(jnp.asarray, layers)


def _block(weights: tuple, x: jax.Array) -> jax.Array:
    x = jax.lax.conv_general_dilated(
        x, weights[0], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jax.nn.relu(x + weights[1])
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def logits(params: dict, x: jax.Array) -> jax.Array:
    """x is (batch, 1, 28, 28), as the data are."""
    if "hidden" in params:
        x = jax.nn.relu(x.reshape(len(x), -1) @ params["hidden"][0] + params["hidden"][1])
    else:
        x = _block(params["second"], _block(params["first"], x.reshape(len(x), 28, 28, 1)))
        x = x.reshape(len(x), -1)
    return x @ params["output"][0] + params["output"][1]


def loss(params: dict, x: jax.Array, y: jax.Array) -> jax.Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits(params, x)), y[:, None], 1).mean()


def accuracy(params: dict, work) -> float:
    x, y = np.array(work.array("test_x")), np.array(work.array("test_y"))
    return float((np.asarray(jax.jit(logits)(params, x)).argmax(-1) == y).mean())
