"""Long short-term memory over padded sequences (Hochreiter and Schmidhuber 1997)."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.experimental import rnn as cudnn

from research.config import not_configured
from research.hardware.mesh import has_cudnn


class Carry(NamedTuple):
    """The state between two frames, for each direction."""

    hidden: jax.Array  # [directions, batch, features]
    cell: jax.Array  # [directions, batch, features] float32


class LSTM(nn.Module):
    """One layer, in one direction or in both, whose results do not depend on padding.

    The gates are, in this order, input, forget, candidate and output. On a single GPU in float32
    cuDNN computes it; elsewhere a scan whose gradient is written by hand. `unroll` is for devices
    on which a step of a loop costs much beside what it computes.
    """

    features: int
    """The size of the state of one direction."""

    bidirectional: bool = True
    """Read each sequence backwards too, from its last valid frame; outputs are concatenated."""

    unroll: int = 1
    """Frames in one round of the loop."""

    dtype: Any = not_configured(jnp.float32)

    @nn.compact
    def __call__(
        self, x: jax.Array, lengths: jax.Array, carry: Carry | None = None
    ) -> tuple[jax.Array, Carry]:
        """Outputs, zero in the padding, and the state after each sequence's last valid frame.

        Args:
          x: [batch, time, inputs].
          lengths: valid frames, int [batch].
          carry: the state before the first frame; zero by default.

        Returns:
          [batch, time, features], twice the features where bidirectional, and the state.
        """
        directions = 2 if self.bidirectional else 1
        kernels = [
            self._kernels(name, x.shape[-1]) for name in ("forward", "backward")[:directions]
        ]
        if carry is None:
            zeros = jnp.zeros((directions, x.shape[0], self.features))
            carry = Carry(zeros.astype(self.dtype), zeros)
        if has_cudnn() and self.dtype == jnp.float32:
            return cudnn_lstm(x, lengths, kernels, carry)
        return scan_lstm(x.astype(self.dtype), lengths, kernels, carry, self.unroll)

    def _kernels(self, direction: str, inputs: int) -> "Kernels":
        """Float32; each gate's recurrent kernel is orthogonal, and the forget gate begins open."""
        shape = (self.features, 4, self.features)
        orthogonal = nn.initializers.orthogonal(column_axis=-1)

        def recurrent(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            gates = [orthogonal(k, (shape[0], shape[2])) for k in jax.random.split(key, 4)]
            return jnp.concatenate(gates, axis=-1)

        def bias(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return jnp.zeros(shape).at[1].set(1.0).reshape(-1)  # Jozefowicz et al. 2015

        glorot = nn.initializers.glorot_uniform()
        return Kernels(
            self.param(f"{direction}_input", glorot, (inputs, 4 * self.features)),
            self.param(f"{direction}_recurrent", recurrent, shape),
            self.param(f"{direction}_bias", bias, shape[1:]),
        )


class Kernels(NamedTuple):
    """The parameters of one direction."""

    input: jax.Array  # [inputs, 4 features]
    recurrent: jax.Array  # [features, 4 features]
    bias: jax.Array  # [4 features]


def scan_lstm(
    x: jax.Array, lengths: jax.Array, kernels: list[Kernels], carry: Carry, unroll: int = 1
) -> tuple[jax.Array, Carry]:
    """The layer as a scan over time; arguments and results as those of `LSTM`."""
    time = x.shape[1]
    frames = x.swapaxes(0, 1)
    valid = jnp.arange(time)[:, None] < lengths
    outputs, last = [], []
    for direction, (kernel, hidden, cell) in enumerate(zip(kernels, *carry, strict=True)):
        scale = _half_sigmoids(kernel.recurrent.shape[0])
        cast = lambda array, scale=scale: (array * scale).astype(x.dtype)  # noqa: E731
        # All frames at once: one large product instead of a small one in each step.
        projected = frames @ cast(kernel.input) + cast(kernel.bias)
        out, state = _recurrence(
            projected,
            cast(kernel.recurrent),
            valid[..., None],
            (hidden, cell),
            bool(direction),
            unroll,
        )
        outputs.append(out)
        last.append(state)
    out = jnp.concatenate(outputs, axis=-1) * valid[..., None].astype(x.dtype)
    hidden, cell = (jnp.stack(part) for part in zip(*last, strict=True))
    return out.swapaxes(0, 1), Carry(hidden, cell)


def cudnn_lstm(
    x: jax.Array, lengths: jax.Array, kernels: list[Kernels], carry: Carry
) -> tuple[jax.Array, Carry]:
    """The layer by cuDNN, in float32; arguments and results as those of `LSTM`."""
    features = kernels[0].recurrent.shape[0]
    out, hidden, cell = cudnn.lstm(
        x.astype(jnp.float32),
        carry.hidden,
        carry.cell,
        cudnn_weights(kernels),
        lengths.astype(jnp.int32),
        x.shape[-1],
        features,
        num_layers=1,
        dropout=0.0,
        bidirectional=len(kernels) == 2,
    )
    valid = jnp.arange(x.shape[1])[:, None] < lengths[:, None, None]
    return out * valid, Carry(hidden, cell)


def cudnn_weights(kernels: list[Kernels]) -> jax.Array:
    """One flat array as cuDNN wants it: the matrices of all directions, then two biases of each."""
    matrices = [matrix.T.ravel() for kernel in kernels for matrix in kernel[:2]]
    biases = [part for kernel in kernels for part in (kernel.bias, jnp.zeros_like(kernel.bias))]
    return jnp.concatenate(matrices + biases)


def _half_sigmoids(features: int) -> jax.Array:
    """[4 features]: with sigmoid(x) = (1 + tanh(x / 2)) / 2 one tanh does for all four gates."""
    return jnp.array([0.5, 0.5, 1.0, 0.5]).repeat(features)


def _sigmoid_of(tanh: jax.Array) -> jax.Array:
    return 0.5 + 0.5 * tanh


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _recurrence(projected, kernel, valid, carry, reverse, unroll):
    """Outputs [time, batch, features] and the last carry; in padding the state stays as it is.

    The gradient by hand keeps small what is computed between two steps of the backward scan: all
    factors that do not depend on the step before are made for all frames at once, and so is the
    kernel's gradient, where autodiff would add up a matrix in each step.
    """
    return _forward(projected, kernel, valid, carry, reverse, unroll)[0]


def _forward(projected, kernel, valid, carry, reverse, unroll):
    def step(carry, frame):
        hidden, cell = carry
        projected, valid = frame
        gates = jnp.tanh((projected + hidden @ kernel).astype(jnp.float32))
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        new_cell = _sigmoid_of(f) * cell + _sigmoid_of(i) * g
        cell = jnp.where(valid, new_cell, cell)
        hidden = jnp.where(valid, (_sigmoid_of(o) * jnp.tanh(cell)).astype(hidden.dtype), hidden)
        return (hidden, cell), (hidden, cell, gates.astype(hidden.dtype))

    last, (hidden, cell, gates) = jax.lax.scan(
        step, carry, (projected, valid), reverse=reverse, unroll=unroll
    )
    return (hidden, last), (hidden, cell, gates, kernel, valid, carry)


def _backward(reverse, unroll, saved, gradients):
    hidden, cell, gates, kernel, valid, carry = saved
    d_outputs, (d_hidden, d_cell) = gradients
    before = partial(_before, reverse=reverse)
    i, f, g, o = jnp.split(gates.astype(jnp.float32), 4, axis=-1)
    i, f, o, t = _sigmoid_of(i), _sigmoid_of(f), _sigmoid_of(o), jnp.tanh(cell)
    # Twice the derivatives of the sigmoids, whose arguments come halved.
    of_gates = jnp.concatenate(
        [
            2 * g * i * (1 - i),
            2 * before(cell, carry[1]) * f * (1 - f),
            i * (1 - g * g),
            2 * t * o * (1 - o),
        ],
        axis=-1,
    )
    of_gates = jnp.where(valid, of_gates, 0).astype(hidden.dtype)
    to_cell = jnp.where(valid, o * (1 - t * t), 0)
    kept = jnp.where(valid, f, 1)
    back = kernel.T

    def step(carry, frame):
        d_hidden, d_cell = carry
        d_output, of_gates, to_cell, kept, valid = frame
        d_hidden = d_hidden + d_output.astype(jnp.float32)
        d_cell = d_cell + d_hidden * to_cell
        d_gates = jnp.concatenate([d_cell, d_cell, d_cell, d_hidden], axis=-1) * of_gates
        d_gates = d_gates.astype(of_gates.dtype)
        through = (d_gates @ back).astype(jnp.float32)
        return (jnp.where(valid, through, d_hidden), d_cell * kept), d_gates

    begin = d_hidden.astype(jnp.float32), d_cell
    frames = (d_outputs, of_gates, to_cell, kept, valid)
    (d_hidden, d_cell), d_gates = jax.lax.scan(
        step, begin, frames, reverse=not reverse, unroll=unroll
    )
    d_kernel = jnp.einsum("tbh,tbg->hg", before(hidden, carry[0]), d_gates)
    d_carry = d_hidden.astype(hidden.dtype), d_cell
    return d_gates, d_kernel, jnp.zeros(valid.shape, jax.dtypes.float0), d_carry


def _before(states: jax.Array, first: jax.Array, reverse: bool) -> jax.Array:
    """For each frame [time, batch, features] the state that its step started from."""
    if reverse:
        return jnp.concatenate([states[1:], first[None]])
    return jnp.concatenate([first[None], states[:-1]])


_recurrence.defvjp(_forward, _backward)
