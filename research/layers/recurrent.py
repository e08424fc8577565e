"""Long short-term memory over padded sequences (Hochreiter and Schmidhuber 1997)."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.experimental import rnn as cudnn

from research.common.config import not_configured
from research.hardware.target import has_cudnn


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
    frames = x.swapaxes(0, 1)
    valid = (jnp.arange(x.shape[1])[:, None] < lengths)[..., None]
    # Both directions go through one loop side by side, where their products run in parallel. The
    # second one meets the padding first, and waits in its first state until it ends.
    scale = _half_sigmoids(kernels[0].recurrent.shape[0])
    inputs = []
    for kernel, turn, *state in zip(kernels, _TURNS, *carry, strict=False):
        read, recurrent, bias = ((part * scale).astype(x.dtype) for part in kernel)
        # All frames at once: one large product instead of a small one in each step.
        inputs.append(_Direction(turn(frames) @ read + bias, recurrent, turn(valid), tuple(state)))
    outputs, last = _recurrence(inputs, unroll)
    outputs = [turn(out) for turn, out in zip(_TURNS, outputs, strict=False)]
    out = jnp.concatenate(outputs, axis=-1) * valid.astype(x.dtype)
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


class _Direction(NamedTuple):
    """What one direction's recurrence computes from, frames in the order it reads them."""

    projected: jax.Array  # [time, batch, 4 features], the part of the gates that the input makes
    kernel: jax.Array  # [features, 4 features]
    valid: jax.Array  # [time, batch, 1] bool
    carry: tuple[jax.Array, jax.Array]  # hidden and cell [batch, features]


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _recurrence(directions, unroll):
    """Outputs [time, batch, features] and the last carry of each direction.

    In padding the state stays as it is. The gradient is by hand because autodiff would add to the
    kernel's gradient, a matrix, in each step of the backward scan; here one large product after
    the scan does it for all frames at once.
    """
    return _forward(directions, unroll)[0]


def _forward(directions, unroll):
    kernels = [direction.kernel for direction in directions]

    def step(carries, frames):
        states = [
            _cell(frame, carry, kernel)
            for frame, carry, kernel in zip(frames, carries, kernels, strict=True)
        ]
        return [state[:2] for state in states], states

    frames = [(direction.projected, direction.valid) for direction in directions]
    carries = [direction.carry for direction in directions]
    last, states = jax.lax.scan(step, carries, frames, unroll=unroll)
    return ([hidden for hidden, _, _ in states], last), (directions, states)


def _cell(frame, carry, kernel):
    """The new hidden state and cell of a frame, and the gates' tanh."""
    (projected, valid), (hidden, cell) = frame, carry
    gates = jnp.tanh((projected + hidden @ kernel).astype(jnp.float32))
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    cell = jnp.where(valid, _sigmoid_of(f) * cell + _sigmoid_of(i) * g, cell)
    hidden = jnp.where(valid, (_sigmoid_of(o) * jnp.tanh(cell)).astype(hidden.dtype), hidden)
    return hidden, cell, gates.astype(hidden.dtype)


def _backward(unroll, saved, gradients):
    directions, states = saved
    d_outputs, d_last = gradients
    kernels = [direction.kernel.T for direction in directions]

    def step(carries, frames):
        found = [
            _cell_gradient(frame, carry, kernel)
            for frame, carry, kernel in zip(frames, carries, kernels, strict=True)
        ]
        return [carry for carry, _ in found], [d_gates for _, d_gates in found]

    begin = [(d_hidden.astype(jnp.float32), d_cell) for d_hidden, d_cell in d_last]
    frames = [
        (d_output, gates, cell, _before(cell, direction.carry[1]), direction.valid)
        for direction, d_output, (_, cell, gates) in zip(directions, d_outputs, states, strict=True)
    ]
    d_carries, d_gates = jax.lax.scan(step, begin, frames, reverse=True, unroll=unroll)
    return (
        [
            _Direction(
                projected=d_gate,
                kernel=jnp.einsum("tbh,tbg->hg", _before(hidden, direction.carry[0]), d_gate),
                valid=_no_gradient(direction.valid),
                carry=(d_hidden.astype(hidden.dtype), d_cell),
            )
            for direction, (hidden, _, _), d_gate, (d_hidden, d_cell) in zip(
                directions, states, d_gates, d_carries, strict=True
            )
        ],
    )


def _cell_gradient(frame, carry, kernel):
    """The gradients of the state before a frame, and of the gates' arguments."""
    (d_output, gates, cell, before, valid), (d_hidden, d_cell) = frame, carry
    i, f, g, o = jnp.split(gates.astype(jnp.float32), 4, axis=-1)
    i, f, o, t = _sigmoid_of(i), _sigmoid_of(f), _sigmoid_of(o), jnp.tanh(cell)
    d_hidden = d_hidden + d_output.astype(jnp.float32)
    # XLA would compute what two results share once for each; the barriers forbid it.
    d_cell = jax.lax.optimization_barrier(d_cell + jnp.where(valid, d_hidden * o * (1 - t * t), 0))
    # Twice the derivatives of the sigmoids, whose arguments come halved.
    factors = [2 * g * i * (1 - i), 2 * before * f * (1 - f), i * (1 - g * g), 2 * t * o * (1 - o)]
    d_gates = jnp.concatenate([d_cell, d_cell, d_cell, d_hidden], -1) * jnp.concatenate(factors, -1)
    d_gates = jax.lax.optimization_barrier(jnp.where(valid, d_gates, 0).astype(gates.dtype))
    d_before = jnp.where(valid, (d_gates @ kernel).astype(jnp.float32), d_hidden)
    return (d_before, jnp.where(valid, d_cell * f, d_cell)), d_gates


def _no_gradient(mask: jax.Array) -> Any:
    """What JAX wants as the gradient of what is not of a floating type."""
    return np.zeros(mask.shape, jax.dtypes.float0)


def _before(states: jax.Array, first: jax.Array) -> jax.Array:
    """For each frame [time, batch, features] the state that its step started from."""
    return jnp.concatenate([first[None], states[:-1]])


_recurrence.defvjp(_forward, _backward)

_TURNS = (lambda frames: frames, lambda frames: jnp.flip(frames, 0))  # of time, by direction
