"""The training loop: the order of events, independent of the task."""

import math
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np

from research.common.errors import ConfigError, Interrupted, UserError
from research.common.files import check_is_writable
from research.common.processes import are_several, heartbeat
from research.common.progress import activity
from research.common.storage import AnyPath
from research.hardware.mesh import replicated
from research.training.checkpoint import Checkpoints, Saved
from research.training.clock import Clock, CompilationCounter
from research.training.evaluation import check_size, evaluate
from research.training.experiment import Experiment
from research.training.initialize import load, log_table
from research.training.input import input_pipeline
from research.training.interruption import Interruption
from research.training.lengths import Lengths
from research.training.lock import WorkdirLock
from research.training.logging import TrainingLogger
from research.training.memory import check_memory
from research.training.program import Program
from research.training.run import (
    CHECKPOINTS,
    CONFIG,
    Run,
    claim,
    has_checkpoint,
    read_parameters,
    resolve,
)
from research.training.state import Progress, TrainState


class Trainer:
    """Trains an experiment in a workdir, from its newest checkpoint if it has one.

    The constructor opens the data, checks the config against them and then claims the workdir.

    Args:
      experiment: the config.
      workdir: folder for everything that the run writes.
      allow_config_change: continue a run under a config that differs from its own.

    Raises:
      UserError: the config is invalid or does not fit the devices' memory, and nothing has been
        written; or another training uses the workdir.
    """

    def __init__(self, experiment: Experiment, workdir: AnyPath, allow_config_change: bool = False):
        check_is_writable(workdir)
        self._opened = time.perf_counter()
        # A run that exists is locked before the work of opening its data.
        lock = WorkdirLock(workdir) if (workdir / CONFIG).exists() else None
        with activity("opening the data"):
            self.experiment, self.workdir = resolve(experiment), workdir
            task = self.experiment.task
            # The schedule depends on the length of an epoch, and so on the data.
            self.data = input_pipeline(Program(self.experiment), task.training(), training=True)
        sampler = self.data.sampler
        lengths = Lengths(self.experiment, sampler.mean_batch_size, sampler.batches_per_epoch)
        self.total = lengths.total
        self.log_every = lengths.steps("log_every")
        self.evaluate_every = lengths.steps("evaluate_every")
        self.checkpoint_every = lengths.steps("checkpoint_every")
        self.validation = task.dataset("validation") if self.evaluate_every else None
        if self.validation is not None:
            check_size(task, "validation", self.validation)
        # A missing test split would otherwise end the run after training.
        check_size(task, "test", task.dataset("test"))
        self.program = Program(self.experiment, lengths.schedule())
        self._check_example()
        _ = self.program.shardings  # checks the optimizer and the sharding rules
        self.loaded = self._load_initial()
        self._compilations = CompilationCounter()
        self._check_memory()
        self._lock = lock or WorkdirLock(workdir)
        claim(workdir, self.experiment, allow_config_change)

    def train(self) -> tuple[Run, bool]:
        """Trains to the end. Returns the run, and whether it was trained, False if it was finished.

        Raises:
          Interrupted: on SIGTERM or Ctrl-C, after the run was saved.
        """
        checkpoints = Checkpoints(
            self.workdir / CHECKPOINTS, self.program.mesh, self.experiment.keep_checkpoints
        )
        with _closing(checkpoints):
            saved = checkpoints.restore(self.program.state_shape, self.program.shardings)
            if saved is None:
                saved = Saved(self.program.initialize(self.loaded), Progress())
            finished = saved.progress.step >= self.total
            if not finished:
                with self._compilations:
                    saved = self._train_from(saved, checkpoints)
            run = Run(self.workdir, self.program, saved.state.inference, saved.progress)
            return run, not finished

    def _train_from(self, saved: Saved, checkpoints: Checkpoints) -> Saved:
        state, progress = saved
        start, first = progress.step, self._next_batch(progress)
        batches = self.data.batches(first, first + self.total - start)
        clock = Clock(self._compilations, progress, self._opened)
        throttle = _Throttle(self.program.steps_ahead)
        sampler, metrics = self.data.sampler, self.program.task.metrics
        logger = TrainingLogger(self.workdir, start, self.total, sampler, first, metrics)
        examples = 0
        with logger, Interruption() as interruption:
            for step in range(start + 1, self.total + 1):
                with jax.transfer_guard("disallow"):
                    batch = next(batches)
                    heartbeat(step)
                    state, loss = self.program.train_step(state, batch)
                logger.advance(throttle.wait(loss))
                examples += len(batch["index"])
                if self._due(self.log_every, step):
                    values, state = self._take_totals(state)
                    speed, examples = clock.lap(examples), 0
                    logger.write(step, "train", values | speed)
                    _check_finite(values["loss"], step)
                if self._due(self.evaluate_every, step) and self.validation is not None:
                    with clock.paused():
                        values, _ = evaluate(self.program, state.inference, self.validation)
                        logger.write(step, "validation", values)
                interrupted = interruption.is_due(step)
                if interrupted or self._due(self.checkpoint_every, step):
                    with clock.paused():
                        _check_finite(float(loss), step)  # before it replaces a good checkpoint
                        logger.flush()  # a resumed run keeps these metrics
                        progress = self._progress(first + step - start, step, clock)
                        checkpoints.save(state, progress)
                number = interruption.signal_number or signal.SIGTERM
                # Preemption leaves time to evaluate a finished run; Ctrl-C ends the command.
                if interrupted and (step < self.total or number == signal.SIGINT):
                    raise Interrupted(step, number)
        return Saved(state, progress)

    def _check_memory(self) -> None:
        """Compiles the step for the longest examples; a run with a checkpoint has fitted before."""
        if not has_checkpoint(self.workdir):
            lowered = self.program.lower_train_step(self.data.sampler.buckets[-1].length)
            with self._compilations, activity("compiling the training step"):
                step = lowered.compile()
            check_memory(self.program, step)

    def _load_initial(self) -> dict[str, np.ndarray]:
        """The arrays of `config.initialize`, unless the run has a checkpoint of its own."""
        config = self.experiment.initialize
        if config is None or has_checkpoint(self.workdir):
            return {}
        params, variables = self.program.initial_shape
        shapes = {"params": params, **variables}
        loaded, rows = load(config, self.program.task, shapes, read_parameters)
        if jax.process_index() == 0:
            log_table(config.source, rows)
        return loaded

    def _next_batch(self, progress: Progress) -> int:
        """Returns the number of the next batch, counted over all epochs."""
        sampler, epoch = self.data.sampler, progress.epoch
        within = np.searchsorted(sampler.offsets(epoch), progress.example)
        return epoch * sampler.batches_per_epoch + int(within)

    def _progress(self, batch_number: int, step: int, clock: Clock) -> Progress:
        epoch, batch = divmod(batch_number, self.data.sampler.batches_per_epoch)
        example = int(self.data.sampler.offsets(epoch)[batch])
        seconds = clock.seconds, clock.compile_seconds, clock.total_seconds
        return Progress(step, epoch, example, *seconds)

    def _take_totals(self, state: TrainState) -> tuple[dict[str, float], TrainState]:
        """Returns the mean metrics since the last call, and the state with totals of zero."""
        totals = jax.device_get(state.totals)
        zeros = jax.device_put(jax.tree.map(np.zeros_like, totals), replicated(self.program.mesh))
        means = {name: float(t.total) / max(float(t.count), 1.0) for name, t in totals.items()}
        return means, state.replace(totals=zeros)

    def _due(self, every: int, step: int) -> bool:
        return step == self.total or (every > 0 and step % every == 0)

    def _check_example(self) -> None:
        """Compares an example with the task's `batch_spec`, before anything is traced with it."""
        bucket = self.data.sampler.buckets[0]
        promised = self.program.task.batch_spec(1, bucket.length)
        # A whole batch may exceed the memory, which is checked later.
        given = self.data.example(bucket)
        for name in promised | given:
            found, expected = (
                f"{jax.dtypes.canonicalize_dtype(array.dtype)}{list(array.shape[1:])}"
                if array is not None
                else "nothing"
                for array in (given.get(name), promised.get(name))
            )
            if found != expected:
                problem = f"'{name}' of an example is {found}, but batch_spec gives {expected}"
                raise ConfigError("task", problem)


@contextmanager
def _closing(checkpoints: Checkpoints) -> Iterator[None]:
    """Closes the checkpoints; not after a failure of one of several processes, which would wait."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, Interrupted) or not are_several():
            checkpoints.close()
        raise
    checkpoints.close()


class _Throttle:
    """Limits the number of steps that the host dispatches ahead of the devices."""

    def __init__(self, steps: int):
        self._steps = steps
        self._in_flight: deque[jax.Array] = deque()

    def wait(self, loss: jax.Array) -> jax.Array | None:
        """Waits for the step dispatched `steps` earlier and returns its loss, if there is one."""
        self._in_flight.append(loss)
        if len(self._in_flight) <= self._steps:
            return None
        return jax.block_until_ready(self._in_flight.popleft())


def _check_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise UserError(
            f"the loss is {loss} at step {step}; lower config.optimizer.learning_rate, "
            "set config.optimizer.clip_norm, or check the data"
        )
