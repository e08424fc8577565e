"""Learning rate schedules: a linear warm-up, then one of `SCHEDULES`.

To add a schedule, write a function from a `Schedule` to an `optax.Schedule` over the steps after
the warm-up, and list it in `SCHEDULES`.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import optax

P = ParamSpec("P")
R = TypeVar("R")


def with_standard_promotion(function: Callable[P, R]) -> Callable[P, R]:
    """Returns the function with JAX's standard dtype promotion, on which optax relies.

    Our own code is tested under strict promotion.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.numpy_dtype_promotion("standard"):
            return function(*args, **kwargs)

    return call


@dataclass(frozen=True)
class Schedule:
    """A learning rate schedule with all durations in steps."""

    name: str
    """A key of `SCHEDULES`."""

    peak: float
    """Learning rate at the end of the warm-up."""

    total_steps: int
    """Length of the run."""

    warmup_steps: int = 0
    """Length of the linear warm-up from 0."""

    final_fraction: float = 0.0
    """Final learning rate as a fraction of the peak, for decays that have one."""

    cooldown_steps: int = 0
    """Length of the final decay of "warmup_stable_decay"."""

    milestones: tuple[int, ...] = ()
    """Steps at which "piecewise_constant" multiplies the learning rate by `gamma`."""

    gamma: float = 0.1
    """Factor of the learning rate at each milestone."""

    freeze: tuple[tuple[str, int], ...] = ()
    """(pattern, step) pairs: the step from which parameters are trained, -1 for never."""

    unfreeze_loaded: int = 0
    """The step from which the parameters that `config.initialize` loads are trained."""

    @property
    def decay_steps(self) -> int:
        """Number of steps after the warm-up."""
        return max(self.total_steps - self.warmup_steps, 1)

    def build(self) -> optax.Schedule:
        """Returns the optax schedule, a function from a step to a float32 scalar."""
        schedule = SCHEDULES[self.name](self)
        if self.warmup_steps:
            warmup = optax.linear_schedule(0.0, self.peak, self.warmup_steps)
            schedule = optax.join_schedules([warmup, schedule], [self.warmup_steps])
        return with_standard_promotion(schedule)


def _constant(schedule: Schedule) -> optax.Schedule:
    return optax.constant_schedule(schedule.peak)


def _linear(schedule: Schedule) -> optax.Schedule:
    end = schedule.peak * schedule.final_fraction
    return optax.linear_schedule(schedule.peak, end, schedule.decay_steps)


def _cosine(schedule: Schedule) -> optax.Schedule:
    """Half a period of a cosine (Loshchilov and Hutter 2016)."""
    return optax.cosine_decay_schedule(
        schedule.peak, schedule.decay_steps, alpha=schedule.final_fraction
    )


def _warmup_stable_decay(schedule: Schedule) -> optax.Schedule:
    """Constant, then linear over the last `cooldown_steps` (Hägele et al. 2024)."""
    end = schedule.peak * schedule.final_fraction
    start = schedule.decay_steps - schedule.cooldown_steps
    return optax.linear_schedule(schedule.peak, end, schedule.cooldown_steps, start)


def _inverse_sqrt(schedule: Schedule) -> optax.Schedule:
    """Proportional to 1 / sqrt(step) (Vaswani et al. 2017, section 5.3), the peak at the warm-up.

    Without a warm-up the peak is at step 1.
    """
    offset = max(schedule.warmup_steps, 1)

    def learning_rate(step):
        return schedule.peak * jnp.sqrt(offset / jnp.maximum(step + offset, 1))

    return learning_rate


def _piecewise_constant(schedule: Schedule) -> optax.Schedule:
    scales = {step - schedule.warmup_steps: schedule.gamma for step in schedule.milestones}
    return optax.piecewise_constant_schedule(schedule.peak, scales)


SCHEDULES: dict[str, Callable[[Schedule], optax.Schedule]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "warmup_stable_decay": _warmup_stable_decay,
    "inverse_sqrt": _inverse_sqrt,
    "piecewise_constant": _piecewise_constant,
}
