"""The training loop: the order of things, and nothing of what is learned."""

import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from research.common.errors import ConfigError, UserError
from research.common.storage import AnyPath
from research.hardware.mesh import replicated
from research.hardware.processes import are_several, heartbeat
from research.training.checkpoint import Checkpoints, Saved
from research.training.clock import Clock, Compilations
from research.training.duration import in_steps
from research.training.evaluation import evaluate
from research.training.experiment import Experiment
from research.training.interruption import Interrupted, Interruption
from research.training.logging import TrainingLogger
from research.training.program import Program
from research.training.run import CHECKPOINTS, Run, claim, resolve
from research.training.state import TrainState

BEGINNING = {"step": 0, "epoch": 0, "example": 0, "seconds": 0.0, "compile_seconds": 0.0}


class Trainer:
    """Trains an experiment in a workdir, from its newest checkpoint if it has one.

    Making it opens the data, checks all that can be checked and then claims the workdir.

    Args:
      experiment: the config.
      workdir: where everything that the run writes goes.
      allow_config_change: continue a run under a config that differs from its own.

    Raises:
      UserError: something in the config cannot work. Nothing has been written then.
    """

    def __init__(self, experiment: Experiment, workdir: AnyPath, allow_config_change: bool = False):
        self.experiment, self.workdir = resolve(experiment), workdir
        task = self.experiment.task
        # How long an epoch is, and so the schedule, is known only with the data.
        self.data = Program(self.experiment).pipeline(task.training(), training=True)
        self.total = self._steps("duration", None)
        self.log_every = self._steps("log_every", self.total)
        self.evaluate_every = self._steps("evaluate_every", self.total)
        self.checkpoint_every = self._steps("checkpoint_every", self.total)
        self.validation = task.dataset("validation") if self.evaluate_every else None
        task.dataset("test")  # that it is missing should not come out at the end
        warmup = self._steps("optimizer.warmup", self.total)
        if not 0 < self.total > warmup:
            problem = f"is {self.total} steps, with {warmup} of warm-up; train for longer"
            raise ConfigError("duration", problem)
        self.program = Program(self.experiment, warmup, self.total)
        self._check_batch()
        claim(workdir, self.experiment, allow_config_change)

    def train(self) -> tuple[Run, bool]:
        """Trains to the end. Returns the run, and False where it had ended before.

        Raises:
          Interrupted: by SIGTERM; the run is saved.
        """
        checkpoints = Checkpoints(
            self.workdir / CHECKPOINTS, self.program.mesh, self.experiment.keep_checkpoints
        )
        shape, shardings = self.program.state_shape, self.program.shardings
        with _closing(checkpoints):
            saved = checkpoints.restore(shape, shardings, set_aside=True)
            if saved is None:
                saved = Saved(self.program.initialize(), BEGINNING)
            if saved.progress["step"] >= self.total:
                return Run(self.workdir, self.program, *saved), False
            with Compilations() as compilations:
                return self._train_from(saved, checkpoints, compilations), True

    def _train_from(
        self, saved: Saved, checkpoints: Checkpoints, compilations: Compilations
    ) -> Run:
        state, progress = saved
        start, first = progress["step"], self._next_batch(progress)
        batches = self.data.batches(first, first + self.total - start)
        clock = Clock(compilations, progress)
        throttle = _Throttle(self.program.steps_ahead)
        batch_size, examples = self.data.sampler.mean_batch_size, 0
        reporter = TrainingLogger(self.workdir, start, self.total, batch_size)
        with reporter as report, Interruption() as interruption:
            for step in range(start + 1, self.total + 1):
                with jax.transfer_guard("disallow"):
                    batch = next(batches)
                    heartbeat(step)
                    state, loss = self.program.train_step(state, batch)
                report.advance(throttle.wait(loss))
                examples += len(batch["index"])
                if self._due(self.log_every, step):
                    values, state = self._take_totals(state)
                    speed, examples = clock.lap(examples), 0
                    report.write(step, "train", values | speed)
                    _check_finite(values["loss"], step)
                if self._due(self.evaluate_every, step) and self.validation is not None:
                    with clock.paused():
                        values, _ = evaluate(self.program, state, self.validation)
                        report.write(step, "validation", values)
                interrupted = interruption.is_due(step)
                if interrupted or self._due(self.checkpoint_every, step):
                    with clock.paused():
                        _check_finite(float(loss), step)  # it would replace good checkpoints
                        report.flush()  # what goes on from this checkpoint keeps what was told
                        progress = self._progress(first + step - start, step, clock)
                        checkpoints.save(state, step, progress)
                if interrupted and step < self.total:
                    raise Interrupted(step)
        return Run(self.workdir, self.program, state, progress)

    def _next_batch(self, progress: dict[str, Any]) -> int:
        """The number of the batch to go on with, counted through all epochs."""
        sampler, epoch = self.data.sampler, progress["epoch"]
        within = np.searchsorted(sampler.offsets(epoch), progress["example"])
        return epoch * sampler.batches_per_epoch + int(within)

    def _progress(self, batch_number: int, step: int, clock: Clock) -> dict[str, Any]:
        """How far the run is. Data are counted in epochs and examples: a data set may grow."""
        epoch, batch = divmod(batch_number, self.data.sampler.batches_per_epoch)
        example = int(self.data.sampler.offsets(epoch)[batch])
        position = {"step": step, "epoch": epoch, "example": example}
        return position | {"seconds": clock.seconds, "compile_seconds": clock.compile_seconds}

    def _take_totals(self, state: TrainState) -> tuple[dict[str, float], TrainState]:
        """The metrics since the last fetch as means, and the state with its totals at zero."""
        totals = jax.device_get(state.totals)
        zeros = jax.device_put(jax.tree.map(np.zeros_like, totals), replicated(self.program.mesh))
        means = {name: float(t.total) / max(float(t.count), 1.0) for name, t in totals.items()}
        return means, state.replace(totals=zeros)

    def _due(self, every: int, step: int) -> bool:
        return step == self.total or (every > 0 and step % every == 0)

    def _steps(self, key: str, total: int | None) -> int:
        owner: Any = self.experiment
        for part in key.split("."):
            owner = getattr(owner, part)
        sampler = self.data.sampler
        try:
            return in_steps(owner, sampler.mean_batch_size, sampler.batches_per_epoch, total)
        except UserError as error:
            raise ConfigError(key, str(error)) from None

    def _check_batch(self) -> None:
        """Compares what the data give with what the task promised, before anything compiles."""
        first = self.data.sampler.epoch(0)[0]
        promised, given = self.program.batch_shape(first.length), next(self.data.batches(0, 1))
        for name in promised | given:
            found, expected = (
                f"{array.dtype}{list(array.shape)}" if array is not None else "nothing"
                for array in (given.get(name), promised.get(name))
            )
            if found != expected:
                raise ConfigError("task", f"the data give '{name}' as {found}, expected {expected}")


@contextmanager
def _closing(checkpoints: Checkpoints) -> Iterator[None]:
    """Waits at the end until all is saved; not after a failure where that takes other processes."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, Interrupted) or not are_several():
            checkpoints.close()
        raise
    checkpoints.close()


class _Throttle:
    """Lets the host run only so many steps ahead of the devices."""

    def __init__(self, steps: int):
        self._steps = steps
        self._under_way: deque[jax.Array] = deque()

    def wait(self, loss: jax.Array) -> jax.Array | None:
        """Waits for the step that many before; its loss, which is then there to be read."""
        self._under_way.append(loss)
        if len(self._under_way) <= self._steps:
            return None
        return jax.block_until_ready(self._under_way.popleft())


def _check_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise UserError(
            f"the loss is {loss} at step {step}; lower config.optimizer.learning_rate, "
            "set config.optimizer.clip, or look at the data"
        )
