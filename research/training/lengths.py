"""The durations of an experiment in optimizer steps, and the schedule that follows from them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from research.common.errors import ConfigError, UserError
from research.training.duration import in_steps
from research.training.experiment import Experiment
from research.training.schedules import Schedule
from research.training.trainable import NEVER


@dataclass(frozen=True)
class Lengths:
    """Converts the durations in an experiment's config to steps."""

    experiment: Experiment

    batch_size: float
    """Mean number of examples per step."""

    steps_per_epoch: int

    @cached_property
    def total(self) -> int:
        """Length of the run in steps."""
        return self._steps("duration", self.experiment.duration, None)

    def steps(self, key: str) -> int:
        """Returns the duration of a config key, such as "optimizer.warmup", in steps.

        Raises:
          ConfigError: the value is not a duration.
        """
        value: Any = self.experiment
        for part in key.split("."):
            value = getattr(value, part)
        return self._steps(key, value, self.total)

    def schedule(self) -> Schedule:
        """Returns the learning rate schedule, with durations in steps.

        Raises:
          ConfigError: a duration is invalid, or the run is shorter than its warm-up.
        """
        optimizer, total = self.experiment.optimizer, self.total
        warmup = self.steps("optimizer.warmup")
        if total < 1:
            raise ConfigError("duration", "invalid length 0: expected at least 1 step")
        if total <= warmup:
            batch_size = self.experiment.batch_size
            problem = f"invalid length {total}: expected more steps than optimizer.warmup, {warmup}"
            remedy = f"raise it, or lower optimizer.warmup or batch_size={batch_size}"
            raise ConfigError("duration", f"{problem}; {remedy}")
        milestones = [
            self._steps("optimizer.milestones", text, total) for text in optimizer.milestones
        ]
        return optimizer.resolve_schedule(
            total_steps=total,
            warmup_steps=warmup,
            cooldown_steps=min(self.steps("optimizer.cooldown"), total - warmup),
            milestones=tuple(milestones),
            freeze=tuple((pattern, self._unfreeze_step(v)) for pattern, v in optimizer.freeze),
            unfreeze_loaded=self._unfreeze_step(self._freeze_loaded()),
        )

    def _freeze_loaded(self) -> bool | str:
        """How long loaded parameters are frozen, as in `optimizer.freeze`."""
        initialize = self.experiment.initialize
        if initialize is None or initialize.train == "everything":
            return False
        return True if initialize.train == "new" else "25%"

    def _unfreeze_step(self, value: bool | str) -> int:
        if isinstance(value, str):
            return self._steps("optimizer.freeze", value, self.total)
        return NEVER if value else 0

    def _steps(self, key: str, duration: str, total: int | None) -> int:
        try:
            return in_steps(duration, self.batch_size, self.steps_per_epoch, total)
        except UserError as error:
            raise ConfigError(key, str(error)) from None
