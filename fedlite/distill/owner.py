"""The model owner's training with a teacher: all data in one place, the teacher beside the student."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlite.compress import quantize
from fedlite.distill.features import (
    Pairs,
    Watched,
    attention_loss,
    check_pairs,
    hint_loss,
    regressor,
    shapes_seen,
)
from fedlite.distill.teacher import Teacher
from fedlite.errors import DataError, SettingsError
from fedlite.models.bridge import initial_params
from fedlite.models.registry import ModelSpec, build
from fedlite.seeds import derive
from fedlite.step import Objective, Seen, Soft, Tensors, objective
from fedlite.train import local_train, train_with
from fedlite.train_settings import TrainSettings
from fedlite.types import Array, Masks, Params

METHODS = ("logits", "fitnets", "attention")
BETA = 1000.0  # weight of attention transfer (Zagoruyko & Komodakis 2017, §4.1)


def distill(
    spec: ModelSpec,
    params: Params,
    teacher: Teacher,
    x: NDArray[Any],
    y: NDArray[Any],
    settings: TrainSettings,
    *,
    seed: int,
    method: Literal["logits", "fitnets", "attention"] = "logits",
    layers: Pairs = (),
    beta: float = BETA,
    masks: Masks | None = None,
) -> dict[str, Array]:
    """The student's params after training on (x, y) with the teacher.

    | method | loss |
    |---|---|
    | logits | α · labels + (1 − α) · T² · KL, as `local_train` (Hinton et al. 2015) |
    | fitnets | settings.epochs of the hint loss alone, then as logits (Romero et al. 2015, Algorithm 1) |
    | attention | as logits, plus β · the attention loss of each pair (Zagoruyko & Komodakis 2017, eq. 2) |

    α and T are settings.distill_alpha and settings.temperature. `layers` are (teacher's, student's) names. Hints
    move only what lies before the student's layer, without weight decay. SettingsError for an unknown method, a
    layer that is not there or pairs that do not fit; otherwise as `local_train`.
    """
    if method not in METHODS:
        raise SettingsError(f"method is {method!r}; there are {', '.join(METHODS)}")
    if method == "logits" and settings.distill_alpha == 1:
        raise SettingsError(
            "distill_alpha is 1, so the teacher's logits count nothing",
            remedy="set distill_alpha below 1, 0.1 for example, and a temperature of 2 to 5",
        )
    told = teacher.logits(x) if settings.distill_alpha < 1 else None
    common: dict[str, Any] = {"masks": masks, "teacher": told}
    if method != "logits":
        ours, theirs = _side_by_side(spec, teacher, x, settings.bits, layers)
    if method == "attention":
        goal = _goal(theirs, lambda own, other: beta * attention_loss(own, other))
        return _guided(ours, params, x, y, settings, goal, seed=seed, **common)
    if method == "fitnets":
        still = replace(settings, weight_decay=0.0)
        begun = derive(seed, "hint")
        params = _guided(
            _with_regressors(ours, theirs),
            params,
            x,
            y,
            still,
            _goal(theirs, hint_loss, alone=True),
            seed=begun,
            **common,
        )
    return dict(local_train(build(spec), params, x, y, settings, seed=seed, **common).params)


def _side_by_side(
    spec: ModelSpec, teacher: Teacher, x: NDArray[Any], bits: int, layers: Pairs
) -> tuple[Watched, Watched]:
    """Student and teacher with the layers that teach watched, and what they give for one example seen."""
    if not len(x):
        raise DataError("there are 0 examples; at least one is wanted")
    student, example = quantize.at(build(spec), bits), torch.from_numpy(x[:1])
    guide = teacher.network()
    check_pairs(guide, student, layers)
    both = Watched(student, [each for _, each in layers]), Watched(guide, [each for each, _ in layers])
    for each in both:
        try:
            shapes_seen(each, example)
        except (RuntimeError, ValueError, IndexError) as error:
            raise DataError(f"the model takes no examples of shape {x.shape[1:]} {x.dtype}") from error
    return both


def _with_regressors(ours: Watched, theirs: Watched) -> Watched:
    ours.regressors.extend(regressor(*pair) for pair in zip(ours.seen, theirs.seen, strict=True))
    return ours


def _goal(theirs: Watched, term: Callable[[Tensor, Tensor], Tensor], alone: bool = False) -> Objective:
    """The sum of the pairs' terms, on top of the usual loss unless `alone`."""

    def goal(
        net: nn.Module, learned: Tensors, statistics: Tensors, x: Tensor, y: Tensor, soft: Soft | None
    ) -> tuple[Tensor, Seen]:
        with torch.no_grad():
            theirs(x)
        loss, seen = objective(net, learned, statistics, x, y, soft)
        ours = cast(Watched, net).seen
        guided = torch.stack([term(*pair) for pair in zip(ours, theirs.seen, strict=True)]).sum()
        return guided if alone else loss + guided, seen

    return goal


def _guided(
    ours: Watched,
    params: Params,
    x: NDArray[Any],
    y: NDArray[Any],
    settings: TrainSettings,
    goal: Objective,
    *,
    seed: int,
    masks: Masks | None,
    teacher: Array | None,
) -> dict[str, Array]:
    """The student's params after training by `goal`; regressors begin from the seed and are let go."""
    inside = {f"net.{name}": value for name, value in params.items()}
    beside = {
        f"regressors.{n}": v for n, v in initial_params(ours.regressors, derive(seed, "regressor")).items()
    }
    pruned = {f"net.{name}": mask for name, mask in (masks or {}).items()}
    done = train_with(
        ours, inside | beside, x, y, settings, seed=seed, masks=pruned, teacher=teacher, goal=goal
    )
    return {name: done.params[f"net.{name}"] for name in params}
