"""Optimizers by their names in optax, with schedule, clipping, and weight decay under a mask."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import optax
import optax.contrib

from research.common.config import suggest
from research.common.errors import ConfigError
from research.hardware.mesh import path_name

_MASKS = ("mask", "weight_decay_mask")  # what optax calls the choice of what decays


@dataclass(frozen=True)
class Optimizer:
    """How gradients change parameters."""

    name: str = "adamw"
    """A function of `optax` or `optax.contrib` that takes a learning rate."""

    learning_rate: float = 1e-3
    """The peak of the schedule."""

    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """How the learning rate goes from its peak, after the warm-up, to the end of the run."""

    warmup: str = "0 steps"
    """A duration over which the learning rate rises linearly from 0."""

    final_fraction: float = 0.0
    """The learning rate at the end, as a fraction of the peak."""

    clip: float = 0.0
    """The largest global norm of a gradient; 0: no limit."""

    weight_decay: float = 0.0
    """Decoupled where the optimizer takes it and a mask, else added to the gradient (L2)."""

    decay_mask: str = "kernel$"
    """A pattern; the parameters in whose path it is found decay."""

    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the optax function, such as `{"momentum": 0.9}`, set in the file."""

    def __post_init__(self):
        makers = _makers()
        if self.name not in makers:
            raise ConfigError("name", f"optax has no '{self.name}'; {suggest(self.name, makers)}")
        known = set(inspect.signature(makers[self.name]).parameters)
        known -= {"learning_rate", "weight_decay", *_MASKS}
        for option in self.options:
            if option not in known:
                problem = f"optax's {self.name} takes no such argument; {suggest(option, known)}"
                raise ConfigError(f"options.{option}", problem)
        for key in ("learning_rate", "final_fraction", "clip", "weight_decay"):
            if getattr(self, key) < 0:
                raise ConfigError(key, f"must not be negative, is {getattr(self, key)}")
        try:
            re.compile(self.decay_mask)
        except re.error as error:
            raise ConfigError("decay_mask", f"is no regular expression: {error}") from None

    def learning_rates(self, warmup: int, total: int) -> optax.Schedule:
        """The learning rate as a function of the step.

        Args:
          warmup: steps of linear rise.
          total: steps of the whole run.
        """
        rest, peak, end = max(total - warmup, 1), self.learning_rate, self.final_fraction
        after = {
            "constant": optax.constant_schedule(peak),
            "linear": optax.linear_schedule(peak, peak * end, rest),
            "cosine": optax.cosine_decay_schedule(peak, rest, alpha=end),
        }[self.schedule]
        if not warmup:
            return after
        return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])

    def build(self, learning_rates: optax.Schedule) -> optax.GradientTransformation:
        """The gradient transformation."""
        maker = _makers()[self.name]
        arguments: dict[str, Any] = dict(self.options)
        chain = [optax.clip_by_global_norm(self.clip)] if self.clip else []
        known = inspect.signature(maker).parameters
        masks = [name for name in _MASKS if name in known and "weight_decay" in known]
        if masks:
            arguments |= {"weight_decay": self.weight_decay, masks[0]: self._decays}
        elif self.weight_decay:
            chain.append(optax.add_decayed_weights(self.weight_decay, self._decays))
        try:
            return optax.chain(*chain, maker(learning_rates, **arguments))
        except TypeError as error:
            raise ConfigError("optimizer.options", f"optax's {self.name}: {error}") from None

    def _decays(self, params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: re.search(self.decay_mask, path_name(path)) is not None, params
        )


def _makers() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """The optimizers of optax: what it exports that takes a learning rate first."""
    functions = (vars(optax.contrib) | vars(optax)).items()
    return {
        name: function
        for name, function in functions
        if inspect.isfunction(function)
        and not name.startswith("scale_by")
        and next(iter(inspect.signature(function).parameters), "") == "learning_rate"
    }
