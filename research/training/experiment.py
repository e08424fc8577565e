"""The config of a run: the task and its training."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from research.common.config import from_config_dict, renamed_from
from research.common.errors import ConfigError
from research.common.overrides import with_changes
from research.data.dataset import Bucket
from research.hardware.mesh import MeshConfig
from research.task import Task
from research.training.experiment_file import read_config
from research.training.initialize import Initialize
from research.training.optimizer import Optimizer

# Batch sizes of buckets are multiples of this, so that 1, 2, 4 and 8 devices get equal batches.
_MULTIPLE = 8


@dataclass(frozen=True)
class Experiment:
    """The config of a run. `research.training.duration` describes the format of durations."""

    task: Task
    """The task, with its data and its model."""

    duration: str = "10 epochs"
    """Length of the training."""

    batch_size: int = 128
    """Examples per optimizer step, over all devices."""

    batch_length: int = 0
    """Largest total length of a batch, padding included, for examples with lengths: in the task's
    unit, such as tokens, with source and target both counted. A batch of a bucket then has as many
    examples as fit, at most `batch_size`, in multiples of 8. 0: always `batch_size` examples."""

    gradient_accumulation_steps: int = renamed_from("accumulate", default=1)
    """Parts that a batch is split into and processed one after another, to save memory; the
    effective batch stays `batch_size`."""

    seed: int = 0
    """Seed of the initial parameters, the order of the data and all augmentation."""

    optimizer: Optimizer = field(default_factory=Optimizer)
    """The update rule."""

    ema_decay: float = 0.0
    """Decay of an exponential moving average of the parameters, which evaluation then uses; smaller
    in the first steps, min(decay, (1 + step) / (10 + step)). 0: no average."""

    initialize: Initialize | None = None
    """Initial parameters from elsewhere; None: drawn at random."""

    mesh: MeshConfig = field(default_factory=MeshConfig)
    """The shape of the device mesh, and the sharding of parameters."""

    log_every: str = "1%"
    """Interval between writes of training metrics."""

    evaluate_every: str = "1 epoch"
    """Interval between evaluations of the validation split; "0 steps" disables them."""

    checkpoint_every: str = "10 epochs"
    """Interval between checkpoints; one is always saved at the end."""

    keep_checkpoints: int = 2
    """Number of checkpoints to keep, the newest ones."""

    def __post_init__(self):
        for key in ("batch_size", "gradient_accumulation_steps", "keep_checkpoints"):
            if getattr(self, key) < 1:
                raise ConfigError(key, f"invalid value {getattr(self, key)}: expected at least 1")
        if not 0 <= self.seed < 2**32:
            problem = f"invalid value {self.seed}: expected an integer from 0 to 2^32 - 1"
            raise ConfigError("seed", problem)
        if self.batch_length < 0:
            problem = f"invalid value {self.batch_length}: expected at least 0"
            raise ConfigError("batch_length", problem)
        if not 0 <= self.ema_decay < 1:
            problem = f"invalid value {self.ema_decay}: expected a number in [0, 1)"
            raise ConfigError("ema_decay", problem)
        parts = self.gradient_accumulation_steps
        if self.batch_size % parts:
            problem = f"{self.batch_size} is not divisible by gradient_accumulation_steps={parts}"
            raise ConfigError("batch_size", f"{problem}; try {_nearest(self.batch_size, parts)}")
        if self.ema_decay and self.optimizer.name.startswith("schedule_free"):
            name = self.optimizer.name
            problem = (
                f"invalid value {self.ema_decay}: expected 0 with {name}, which averages itself"
            )
            raise ConfigError("ema_decay", problem)

        self._check_train()

    def _check_train(self) -> None:
        if self.initialize is None or self.initialize.train == "everything":
            return
        other = "optimizer.freeze" if self.optimizer.freeze else ""
        if self.optimizer.name.startswith("schedule_free"):
            other = f"{self.optimizer.name}, which averages all parameters"
        if other:
            problem = f'invalid value "{self.initialize.train}": expected "everything" with {other}'
            raise ConfigError("initialize.train", problem)

    def check_batch(self, shards: int) -> None:
        """Checks that the mesh can split a batch evenly.

        Args:
          shards: the number of parts that the mesh splits a batch into.

        Raises:
          ConfigError: the batch size is not a multiple of it.
        """
        accumulated = self.gradient_accumulation_steps
        parts = shards * accumulated
        if self.batch_size % parts:
            raise ConfigError(
                "batch_size",
                f"{self.batch_size} is not divisible by {parts} (data x fsdp = {shards}, "
                f"gradient_accumulation_steps = {accumulated}); "
                f"try {_nearest(self.batch_size, parts)}",
            )

    def examples_per_batch(self, bucket: Bucket | None, shards: int) -> int:
        """Returns the batch size of a bucket; None is the bucket of examples without lengths."""
        if bucket is None or not self.batch_length:
            return self.batch_size
        multiple = math.lcm(_MULTIPLE, shards) * self.gradient_accumulation_steps
        fitting = self.batch_length // int(np.sum(bucket))
        return min(self.batch_size, max(multiple, fitting // multiple * multiple))

    def check_batch_length(self, longest: Bucket | None, shards: int) -> None:
        """Checks that `batch_length` has an effect and is large enough.

        Args:
          longest: the largest bucket of the training data; None if they have no lengths.
          shards: the number of parts that the mesh splits a batch into.

        Raises:
          ConfigError: it is smaller than the smallest batch that can be split evenly.
        """
        if not self.batch_length:
            return
        if longest is None:
            problem = f"invalid value {self.batch_length}: expected 0 for examples without lengths"
            raise ConfigError("batch_length", problem)
        examples = self.examples_per_batch(longest, shards)
        least = examples * int(np.sum(longest))
        if self.batch_length < least:
            raise ConfigError(
                "batch_length",
                f"invalid value {self.batch_length}: expected at least {least}, for {examples} "
                f"examples padded to {longest}",
            )


def _nearest(size: int, parts: int) -> int:
    """Returns the batch size nearest to `size` that can be split into `parts`."""
    return max(parts, round(size / parts) * parts)


def load_experiment(path: Path, changes: Sequence[str] = ()) -> Experiment:
    """Loads the experiment that `get_config()` of a file returns.

    Args:
      path: the experiment file.
      changes: changes of its config, such as "task.model.dropout=0.1".

    Raises:
      UserError: the file is missing, has no `get_config` or raises an error, or the config or a
        change is invalid.
    """
    return with_changes(from_config_dict(Experiment, read_config(path)), changes)
