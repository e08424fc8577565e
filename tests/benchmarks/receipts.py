"""Compares predicted step times with published ones.

    make plan  # installs the TPU compiler
    PYTHONPATH=.venv/libtpu .venv/bin/python -m tests.benchmarks.receipts

The published times contain input and, where noted, evaluation; the code that they were measured
with is not ours. Of a language model two layers are compiled for one chip; attention and logits are
charged at half of the peak, and communication is left out. A ratio above 1 is pessimistic.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import SingleDeviceSharding

from research.hardware import compiler
from research.hardware.chips import chips
from research.hardware.hlo import parse
from research.hardware.roofline import Device, estimate
from research.hardware.slices import one_chip, parse_slice
from research.planning.plan import plan, subject
from research.planning.table import columns
from research.training.experiment import load_experiment

EXPERIMENT = Path("experiments/image_classification/imagenet_resnet50.py")
VIT = ("task.model.type=ViT", "optimizer.name=adamw", "optimizer.learning_rate=1e-3")
SAVED = {
    "nothing": jax.checkpoint_policies.nothing_saveable,
    "projections": jax.checkpoint_policies.save_only_these_names("projection"),
    "products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclass(frozen=True)
class ImageModel:
    """A published step time of an image classifier."""

    what: str
    slice: str
    batch_size: int
    seconds: float
    changes: tuple[str, ...] = ()

    def predict(self) -> float:
        """Returns the predicted time of a step in seconds."""
        changes = [f"batch_size={self.batch_size}", *self.changes]
        what = subject(load_experiment(EXPERIMENT, changes), examples=1_271_167)
        return plan(what, parse_slice(self.slice)).step_seconds


@dataclass(frozen=True)
class LanguageModel:
    """A published step time of a decoder with gated feed-forward layers.

    Attributes:
      what: name and source.
      generation: of the chips.
      sizes: width, hidden width, layers, heads, heads of keys and values, vocabulary.
      length: tokens of a sequence.
      sequences: per chip.
      saved: which activations are kept for the backward pass, a key of `SAVED`.
      seconds: published, or from the published MFU.
    """

    what: str
    generation: str
    sizes: tuple[int, int, int, int, int, int]
    length: int
    sequences: int
    saved: str
    seconds: float

    @property
    def slice(self) -> str:
        """The generation, as the number of chips does not matter."""
        return self.generation

    def predict(self) -> float:
        """Returns the predicted time of a step in seconds."""
        width, _, layers, heads, _, vocabulary = self.sizes
        chip = next(chip for chip in chips() if chip.generation == self.generation)
        tpu = one_chip(chip)
        where = SingleDeviceSharding(compiler.devices_of(tpu)[0])
        layer = {name: self._array(shape, where) for name, shape in self._parameters().items()}
        x = self._array((self.sequences * self.length, width), where)
        lowered = jax.jit(jax.grad(self._loss, argnums=(0, 1))).lower([layer] * 2, x)
        device = Device.of(tpu)
        program = parse(compiler.compile_cached(lowered, tpu).text)
        seconds = estimate(program, device, 1).kernel_seconds * layers / 2
        tokens = self.sequences * self.length
        attention = 12 * tokens * self.length * heads * HEAD * layers
        logits = 6 * tokens * width * vocabulary
        return seconds + (attention + logits) / (0.5 * device.flops_per_second)

    def _array(self, shape: tuple[int, int], where: SingleDeviceSharding) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=where)

    def _parameters(self) -> dict[str, tuple[int, int]]:
        width, hidden, _, heads, kv_heads, _ = self.sizes
        return {
            "query": (width, heads * HEAD),
            "key": (width, kv_heads * HEAD),
            "value": (width, kv_heads * HEAD),
            "output": (heads * HEAD, width),
            "gate": (width, hidden),
            "up": (width, hidden),
            "down": (hidden, width),
        }

    def _loss(self, parameters: list[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
        layer = jax.checkpoint(_layer, policy=SAVED[self.saved])
        for one in parameters:
            x = layer(one, x)
        return jnp.sum(x.astype(jnp.float32) ** 2)


HEAD = 128  # size of a head of all models below


def _layer(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """A layer of a decoder without the product of queries and keys."""
    normed = _norm(x)
    query, key, value = (
        checkpoint_name(normed @ p[name], "projection") for name in ("query", "key", "value")
    )
    groups = p["query"].shape[1] // p["key"].shape[1]
    context = query + jnp.tile(key * value, (1, groups))  # stands in for attention
    x = x + checkpoint_name(context @ p["output"], "projection")
    normed = _norm(x)
    return x + (jax.nn.silu(normed @ p["gate"]) * (normed @ p["up"])) @ p["down"]


def _norm(x: jax.Array) -> jax.Array:
    squares = jnp.mean(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
    return (x * jax.lax.rsqrt(squares + 1e-6)).astype(x.dtype)


def receipts() -> Iterator[ImageModel | LanguageModel]:
    """Yields all published times.

    Sources: results of MLPerf training v0.7; flax/examples/imagenet; big_vision's table of
    ViT-S/16; of the language models MaxText's configs/v5e and v5p (READMEs at commit 0ed7bd52) and
    tpu-recipes' training/trillium.
    """
    yield ImageModel("ResNet-50, MLPerf 0.7", "v3-32", 32 * 128, 0.1256)
    yield ImageModel("ResNet-50, Flax's example, with evaluation", "v3-8", 8 * 128, 0.1266)
    yield ImageModel("ResNet-50, MLPerf 0.7, with evaluation", "v4-128", 64 * 128, 0.0389)
    yield ImageModel("ViT-S/16, big_vision, with evaluation", "v3-8", 1024, 0.208, VIT)
    sizes = 4096, 28672, 32, 64, 64, 32000
    yield LanguageModel("16B, MaxText, 61.1 % MFU", "v5e", sizes, 2048, 6, "nothing", 10.275)
    sizes = 8192, 28672, 32, 64, 64, 32000
    yield LanguageModel("32B, MaxText, 66.9 % MFU", "v5e", sizes, 2048, 4, "nothing", 12.119)
    yield LanguageModel("32B, MaxText, 71.5 % MFU", "v5p", sizes, 2048, 6, "products", 7.299)
    sizes = 8192, 28672, 80, 64, 8, 32000
    yield LanguageModel("Llama 2 70B, tpu-recipes", "v6e", sizes, 4096, 2, "projections", 9.052)
    sizes = 4096, 14336, 32, 32, 8, 128256
    yield LanguageModel("Llama 3.1 8B, tpu-recipes", "v6e", sizes, 8192, 3, "projections", 3.443)


def main() -> None:
    """Prints a row for each published time."""
    rows = [("what", "slice", "published", "predicted", "ratio")]
    for one in receipts():
        predicted = one.predict()
        times = (f"{1e3 * one.seconds:,.1f} ms", f"{1e3 * predicted:,.1f} ms")
        rows.append((one.what, one.slice, *times, f"{predicted / one.seconds:.2f}"))
        print(rows[-1], flush=True)
    print("\n".join(columns(rows)))


if __name__ == "__main__":
    main()
