"""Optimizers of optax by name, with a schedule, clipping and masked weight decay."""

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from research.common.config import renamed_from, suggest
from research.common.errors import ConfigError
from research.common.patterns import check_patterns, match
from research.training.schedules import SCHEDULES, Schedule, with_standard_promotion

_RATES = ("b1", "b2", "decay", "momentum")  # of exponential moving averages
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

    decay_to: Literal["zero", "initial"] = "zero"
    """The point that weight decay pulls parameters to: "initial" is L2-SP (Li et al. 2018), in
    which it is added to the gradient."""

    freeze: tuple[tuple[Any, ...], ...] = ()
    """(pattern, value) pairs; the first pattern that matches a parameter's path decides. True:
    frozen for the whole run; False: trained; a duration such as "25%": frozen until then."""

    learning_rate_multipliers: tuple[tuple[Any, ...], ...] = ()
    """(pattern, factor) pairs; the first pattern that matches a parameter's path decides, and its
    factor multiplies the parameter's updates."""

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
            value = self.options[option]
            if option in _RATES and isinstance(value, int | float) and not 0 <= value < 1:
                problem = f"invalid value {value}: expected a number in [0, 1)"
                raise ConfigError(f"options.{option}", problem)
        for key in ("learning_rate", "final_fraction", "gamma", "clip_norm", "weight_decay"):
            if getattr(self, key) < 0:
                raise ConfigError(key, f"invalid value {getattr(self, key)}: expected at least 0")
        self._check_schedule()
        self._check_patterns()

    def _check_patterns(self) -> None:
        kinds: dict[str, tuple[tuple[type, ...], str]] = {
            "weight_decay_mask": ((bool,), "True or False"),
            "freeze": ((bool, str), "True, False or a duration"),
            "learning_rate_multipliers": ((float, int), "a factor"),
        }
        for key, (types, expected) in kinds.items():
            check_patterns(getattr(self, key), key)
            for pattern, value in getattr(self, key):
                if not isinstance(value, types) or (bool not in types and isinstance(value, bool)):
                    problem = f"invalid value {value!r} of '{pattern}': expected {expected}"
                    raise ConfigError(key, problem)
        if self.freeze and self.name.startswith("schedule_free"):
            raise ConfigError("freeze", f"must be empty: {self.name} averages all parameters")

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
        freeze: tuple[tuple[str, int], ...] = (),
        unfreeze_loaded: int = 0,
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
            freeze=freeze,
            unfreeze_loaded=unfreeze_loaded,
        )

    def build(self, learning_rate: optax.Schedule) -> optax.GradientTransformationExtraArgs:
        """Returns the gradient transformation; its `update` takes the loss as `value`.

        Raises:
          ConfigError: optax refuses these settings, or the optimizer needs more than gradients
            and the loss; when initialised, if a pattern of the mask matches no parameter.
        """
        params = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}

        def update(params: Any) -> Any:
            optimizer = self._transform(
                learning_rate, lambda tree: jax.tree.map(lambda _: True, tree)
            )
            return optimizer.update(params, optimizer.init(params), params, value=jnp.ones(()))

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of optax, about arguments that have a default
                jax.eval_shape(with_standard_promotion(update), params)
                multipliers = self._multiply if self.learning_rate_multipliers else None
                transform = self._transform(learning_rate, self._decays, multipliers)
        except Exception as error:  # each optimizer raises its own
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            key = "optimizer.options" if self.options else "optimizer.name"
            problem = f"optax's {self.name} cannot be used with these settings: {reason}"
            raise ConfigError(key, problem) from None
        return optax.GradientTransformationExtraArgs(
            with_standard_promotion(transform.init), with_standard_promotion(transform.update)
        )

    def _transform(
        self,
        learning_rate: optax.Schedule,
        mask: Callable[[Any], Any],
        multipliers: Callable[[Any, Any], Any] | None = None,
    ) -> optax.GradientTransformationExtraArgs:
        maker = _makers()[self.name]
        arguments: dict[str, Any] = dict(self.options)
        chain = [optax.clip_by_global_norm(self.clip_norm)] if self.clip_norm else []
        known = inspect.signature(maker).parameters
        masks = [name for name in _MASKS if name in known and "weight_decay" in known]
        if self.decay_to == "initial":
            chain.append(_decay_to_initial(self.weight_decay, mask))
            arguments |= {"weight_decay": 0.0} if "weight_decay" in known else {}
        elif masks:
            arguments |= {"weight_decay": self.weight_decay, masks[0]: mask}
        elif self.weight_decay:
            chain.append(optax.add_decayed_weights(self.weight_decay, mask))
        chain.append(maker(learning_rate, **arguments))
        if multipliers:
            chain.append(optax.stateless(multipliers))
        return optax.with_extra_args_support(optax.chain(*chain))

    def _multiply(self, updates: Any, params: Any) -> Any:
        """Multiplies the updates by `learning_rate_multipliers`."""
        key = "optimizer.learning_rate_multipliers"
        factors = match(params, self.learning_rate_multipliers, key, default=1.0)
        return jax.tree.map(lambda update, factor: update * factor, updates, factors)

    def _decays(self, params: Any) -> Any:
        """Returns whether each parameter decays, a tree of bools."""
        if not self.weight_decay_mask:
            return jax.tree.map(lambda parameter: parameter.ndim >= 2, params)
        key = "optimizer.weight_decay_mask"
        return match(params, self.weight_decay_mask, key, default=False)


def _decay_to_initial(
    weight_decay: float, mask: Callable[[Any], Any]
) -> optax.GradientTransformation:
    """Adds `weight_decay` times the distance from the initial parameters to the gradient."""

    def update(updates: Any, initial: Any, params: Any = None) -> tuple[Any, Any]:
        def decay(update: Any, start: Any, param: Any, decays: bool) -> Any:
            return update + weight_decay * (param - start) if decays else update

        return jax.tree.map(decay, updates, initial, params, mask(params)), initial

    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.copy, params), update)


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
