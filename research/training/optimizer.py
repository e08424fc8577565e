"""Optimizers of optax by name, with a schedule, clipping and masked weight decay."""

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from research.common.config import renamed_from, suggest
from research.common.errors import ConfigError
from research.common.patterns import check_patterns, match
from research.training.schedules import SCHEDULES, Schedule, with_standard_promotion

_MASKS = ("mask", "weight_decay_mask")  # optax's names of the weight decay mask


@dataclass(frozen=True)
class Optimizer:
    """The update rule: an optax optimizer with its schedule, clipping and weight decay."""

    name: str = "adamw"
    """A function of `optax` or `optax.contrib` that takes a learning rate."""

    learning_rate: float = 1e-3
    """Peak of the schedule."""

    schedule: str = "cosine"
    """The schedule after the warm-up, a key of `SCHEDULES` in research/training/schedules.py such
    as "constant", "cosine" or "warmup_stable_decay"."""

    warmup: str = "0 steps"
    """Duration of the linear warm-up from a learning rate of 0."""

    final_fraction: float = 0.0
    """Final learning rate as a fraction of the peak; for "linear", "cosine" and
    "warmup_stable_decay"."""

    cooldown: str = "20%"
    """Duration of the linear decay at the end of "warmup_stable_decay"."""

    milestones: tuple[str, ...] = ()
    """Durations after which "piecewise_constant" multiplies the learning rate by `gamma`."""

    gamma: float = 0.1
    """Factor of the learning rate at each of the `milestones`."""

    clip_norm: float = renamed_from("clip", default=0.0)
    """Maximum global norm of the gradient; 0 disables clipping."""

    weight_decay: float = 0.0
    """Weight decay, decoupled if the optax function has a mask, else added to the gradient (L2)."""

    weight_decay_mask: tuple[tuple[Any, ...], ...] = renamed_from(
        "decay_mask", default=(), convert=lambda pattern: ((pattern, True),)
    )
    """(pattern, bool) pairs; the first pattern that matches a parameter's path decides whether it
    decays; unmatched parameters do not. Empty: parameters with two or more dimensions decay. An
    example: `(("embedding", False), ("kernel$", True))`."""

    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the optax function, such as `{"momentum": 0.9}`."""

    def __post_init__(self):
        makers = _makers()
        if self.name not in makers:
            raise ConfigError("name", f"unknown optimizer '{self.name}'; {_suggest(self.name)}")
        known = set(inspect.signature(makers[self.name]).parameters)
        known -= {"learning_rate", "weight_decay", *_MASKS}
        for option in self.options:
            if option not in known:
                problem = f"unknown argument of optax's {self.name}; {suggest(option, known)}"
                raise ConfigError(f"options.{option}", problem)
        for key in ("learning_rate", "final_fraction", "gamma", "clip_norm", "weight_decay"):
            if getattr(self, key) < 0:
                raise ConfigError(key, f"invalid value {getattr(self, key)}: expected at least 0")
        self._check_schedule()
        check_patterns(self.weight_decay_mask, "weight_decay_mask")
        for pattern, value in self.weight_decay_mask:
            if not isinstance(value, bool):
                problem = f"invalid value {value!r} of '{pattern}': expected True or False"
                raise ConfigError("weight_decay_mask", problem)

    def _check_schedule(self) -> None:
        if self.schedule not in SCHEDULES:
            problem = f"unknown schedule '{self.schedule}'; {suggest(self.schedule, SCHEDULES)}"
            raise ConfigError("schedule", problem)
        if not self.milestones and self.schedule == "piecewise_constant":
            problem = 'missing; schedule "piecewise_constant" requires at least one'
            raise ConfigError("milestones", problem)
        if self.milestones and self.schedule != "piecewise_constant":
            problem = f'invalid value {self.milestones}: expected none with "{self.schedule}"'
            raise ConfigError("milestones", problem)

    def resolve_schedule(
        self,
        total_steps: int,
        warmup_steps: int = 0,
        cooldown_steps: int = 0,
        milestones: tuple[int, ...] = (),
    ) -> Schedule:
        """Returns the schedule, given all durations in steps."""
        return Schedule(
            name=self.schedule,
            peak=self.learning_rate,
            total_steps=total_steps,
            warmup_steps=warmup_steps,
            final_fraction=self.final_fraction,
            cooldown_steps=cooldown_steps,
            milestones=milestones,
            gamma=self.gamma,
        )

    def build(self, learning_rate: optax.Schedule) -> optax.GradientTransformationExtraArgs:
        """Returns the gradient transformation; its `update` takes the loss as `value`.

        Raises:
          ConfigError: optax refuses these settings, or the optimizer needs more than gradients
            and the loss; when initialised, if a pattern of the mask matches no parameter.
        """
        params = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}

        def update(params: Any) -> Any:
            optimizer = self._transform(learning_rate, lambda _: True)
            return optimizer.update(params, optimizer.init(params), params, value=jnp.ones(()))

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of optax, about arguments that have a default
                jax.eval_shape(with_standard_promotion(update), params)
                transform = self._transform(learning_rate, self._decays)
        except Exception as error:  # each optimizer raises its own
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            key = "optimizer.options" if self.options else "optimizer.name"
            problem = f"optax's {self.name} cannot be used with these settings: {reason}"
            raise ConfigError(key, problem) from None
        return optax.GradientTransformationExtraArgs(
            with_standard_promotion(transform.init), with_standard_promotion(transform.update)
        )

    def _transform(
        self, learning_rate: optax.Schedule, mask: Callable[[Any], Any]
    ) -> optax.GradientTransformationExtraArgs:
        maker = _makers()[self.name]
        arguments: dict[str, Any] = dict(self.options)
        chain = [optax.clip_by_global_norm(self.clip_norm)] if self.clip_norm else []
        known = inspect.signature(maker).parameters
        masks = [name for name in _MASKS if name in known and "weight_decay" in known]
        if masks:
            arguments |= {"weight_decay": self.weight_decay, masks[0]: mask}
        elif self.weight_decay:
            chain.append(optax.add_decayed_weights(self.weight_decay, mask))
        return optax.with_extra_args_support(optax.chain(*chain, maker(learning_rate, **arguments)))

    def _decays(self, params: Any) -> Any:
        """Returns whether each parameter decays, a tree of bools."""
        if not self.weight_decay_mask:
            return jax.tree.map(lambda parameter: parameter.ndim >= 2, params)
        key = "optimizer.weight_decay_mask"
        return match(params, self.weight_decay_mask, key, default=False)


def evaluation_params(params: Any, opt_state: Any) -> Any:
    """Returns the parameters to evaluate with.

    Those of schedule-free optimizers (Defazio et al. 2024) differ from the parameters at which
    gradients are computed.
    """
    for state in _schedule_free_states(opt_state):
        return with_standard_promotion(optax.contrib.schedule_free_eval_params)(state, params)
    return params


def is_schedule_free(opt_state: Any) -> bool:
    """Returns whether an (abstract) optimizer state is that of a schedule-free optimizer."""
    return bool(_schedule_free_states(opt_state))


def _schedule_free_states(opt_state: Any) -> list[Any]:
    matches = lambda node: isinstance(node, optax.contrib.ScheduleFreeState)  # noqa: E731
    return [node for node in jax.tree.leaves(opt_state, is_leaf=matches) if matches(node)]


def _suggest(name: str) -> str:
    return suggest(name, _makers())


def _makers() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """Returns the optimizers of optax: public functions whose first argument is a learning rate."""
    functions = (vars(optax.contrib) | vars(optax)).items()
    return {
        name: function
        for name, function in functions
        if inspect.isfunction(function)
        and not name.startswith(("_", "scale_by"))
        and next(iter(inspect.signature(function).parameters), "") == "learning_rate"
    }
