"""The config of a run: the task, and how the engine trains it."""

import math
import runpy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from research.common.config import from_config_dict
from research.common.errors import ConfigError, UserError
from research.common.overrides import with_changes
from research.data.dataset import Bucket
from research.hardware.mesh import MeshConfig
from research.task import Task
from research.training.optimizer import Optimizer

# Batches of several sizes are multiples of this, so that 1, 2, 4 and 8 devices take the same ones.
_MULTIPLE = 8


@dataclass(frozen=True)
class Experiment:
    """Everything that determines a run. Durations are as in `research.training.duration`."""

    task: Task
    """What is learned."""

    duration: str = "10 epochs"
    """How long to train."""

    batch_size: int = 128
    """Examples per optimizer step, over all devices."""

    batch_length: int = 0
    """Where examples have lengths: the sum of lengths (padding included, over all sides) that a
    batch may hold at most, in the task's unit such as tokens; `batch_size` is then the number of
    examples at most. 0: all batches have `batch_size` examples."""

    accumulate: int = 1
    """Parts that a batch is processed in, one after another, to save memory."""

    seed: int = 0
    """Decides the initial parameters, the order of the data and all augmentation."""

    optimizer: Optimizer = field(default_factory=Optimizer)
    """How gradients change parameters."""

    ema_decay: float = 0.0
    """Evaluate with an exponential moving average of the parameters; 0: with the parameters."""

    mesh: MeshConfig = field(default_factory=MeshConfig)
    """How devices, parameters and batches are arranged."""

    log_every: str = "1 epoch"
    """How often training metrics are written."""

    evaluate_every: str = "1 epoch"
    """How often the validation split is evaluated; "0 steps": not during training."""

    checkpoint_every: str = "10 epochs"
    """How often the run is saved, beside at its end."""

    keep_checkpoints: int = 2
    """How many of the newest checkpoints are kept."""

    def __post_init__(self):
        for key in ("batch_size", "accumulate", "keep_checkpoints"):
            if getattr(self, key) < 1:
                raise ConfigError(key, f"must be at least 1, is {getattr(self, key)}")
        if self.batch_length < 0:
            raise ConfigError("batch_length", f"must not be negative, is {self.batch_length}")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError("ema_decay", f"must lie in [0, 1), is {self.ema_decay}")
        if self.batch_size % self.accumulate:
            raise ConfigError(
                "batch_size", f"{self.batch_size} is not divisible by accumulate={self.accumulate}"
            )

    def check_batch(self, shards: int) -> None:
        """Refuses a batch that the mesh cannot split evenly.

        Args:
          shards: the parts that the mesh splits a batch into.

        Raises:
          ConfigError: the batch size is no multiple of them.
        """
        parts = shards * self.accumulate
        if self.batch_size % parts:
            nearest = max(parts, round(self.batch_size / parts) * parts)
            raise ConfigError(
                "batch_size",
                f"{self.batch_size} is not divisible by {parts} (data x fsdp = {shards}, "
                f"accumulate = {self.accumulate}); try {nearest}",
            )

    def examples_per_batch(self, bucket: Bucket | None, shards: int) -> int:
        """The number of examples of a batch in a bucket; None: of data without lengths."""
        if bucket is None or not self.batch_length:
            return self.batch_size
        multiple = math.lcm(_MULTIPLE, shards) * self.accumulate
        fitting = self.batch_length // int(np.sum(bucket))
        return min(self.batch_size, max(multiple, fitting // multiple * multiple))

    def check_batch_length(self, longest: Bucket | None, shards: int) -> None:
        """Refuses a `batch_length` that does nothing, or cannot be kept.

        Args:
          longest: the greatest bucket of the training data; None: they have no lengths.
          shards: the parts that the mesh splits a batch into.

        Raises:
          ConfigError: it is less than the least batch that can be split evenly.
        """
        if not self.batch_length:
            return
        if longest is None:
            raise ConfigError("batch_length", "the examples have no lengths; set it to 0")
        examples = self.examples_per_batch(longest, shards)
        least = examples * int(np.sum(longest))
        if self.batch_length < least:
            raise ConfigError(
                "batch_length",
                f"{self.batch_length} cannot hold the least batch, {examples} examples padded to "
                f"{longest}; must be at least {least}",
            )


def load_experiment(path: Path, changes: Sequence[str] = ()) -> Experiment:
    """Loads the experiment that `get_config()` of a file returns.

    Args:
      path: the experiment file.
      changes: changes of its config, such as "task.model.dropout=0.1".

    Raises:
      UserError: the file is missing or has no `get_config`, or the config or a change is invalid.
    """
    if not path.is_file():
        raise UserError(f"missing experiment file {path}; see experiments/ for examples")
    definitions = runpy.run_path(str(path))
    if "get_config" not in definitions:
        raise UserError(f"{path} does not define get_config(); see experiments/ for examples")
    return with_changes(from_config_dict(Experiment, definitions["get_config"]()), changes)
