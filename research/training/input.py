"""The input pipeline of a program: batches of a dataset, sharded over its mesh."""

import logging

from research.common.errors import UserError
from research.data.dataset import Bucket, Dataset
from research.data.pipeline import Pipeline
from research.data.sampler import BatchSampler
from research.hardware.mesh import batch_sharding, batch_shards
from research.training.program import Program

log = logging.getLogger(__name__)


def input_pipeline(program: Program, dataset: Dataset, training: bool) -> Pipeline:
    """Returns the pipeline of a dataset's batches, in the form of the program's steps.

    Args:
      program: provides the batch sizes, the shapes and the mesh.
      dataset: the examples.
      training: whether to shuffle and to fill the last batch of each bucket.

    Raises:
      UserError: no example fits the dataset's buckets, or the config's `batch_length` is too
        small for the longest examples.
    """
    experiment, mesh = program.experiment, program.mesh

    def example_shapes(length: Bucket | None) -> dict[str, tuple[int, ...]]:
        spec = program.task.batch_spec(1, length)
        return {name: array.shape[1:] for name, array in spec.items()}

    sampler = BatchSampler(dataset, program.batch_size, experiment.seed, training)
    if not sampler.batches_per_epoch:
        raise UserError("no example fits the buckets; check the dataset's lengths and buckets")
    if training:
        experiment.check_batch_length(sampler.buckets[-1].length, batch_shards(mesh))
        if sampler.num_dropped:  # evaluation counts them in its results
            log.warning("dropped %d of %d examples: too long", sampler.num_dropped, len(dataset))
    return Pipeline(dataset, sampler, batch_sharding(mesh), example_shapes)
