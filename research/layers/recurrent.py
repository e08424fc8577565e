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
from research.weights.conversion import Rules


class Carry(NamedTuple):
    """The recurrent state of each direction."""

    hidden: jax.Array  # [directions, batch, features]
    cell: jax.Array  # [directions, batch, features] float32


class LSTM(nn.Module):
    """A unidirectional or bidirectional LSTM layer whose results do not depend on padding.

    The order of the gates is input, forget, candidate, output. On a single GPU in float32 cuDNN
    computes the layer; otherwise a scan with a custom gradient.
    """

    features: int
    """Size of the hidden state of one direction."""

    bidirectional: bool = True
    """Also process each sequence backwards from its last valid frame; outputs are concatenated."""

    unroll: int = 1
    """Number of frames per iteration of the scan, for devices with slow loops."""

    dtype: Any = not_configured(jnp.float32)

    @nn.compact
    def __call__(
        self, x: jax.Array, lengths: jax.Array, carry: Carry | None = None
    ) -> tuple[jax.Array, Carry]:
        """Computes the outputs and the final state.

        Args:
          x: [batch, time, inputs].
          lengths: number of valid frames, int [batch].
          carry: the initial state; zero by default.

        Returns:
          outputs [batch, time, features], or [batch, time, 2 * features] if bidirectional, zero in
          the padding; and the state after the last valid frame of each sequence.
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
        """Initialises float32 parameters: orthogonal recurrent kernels, and a forget bias of 1."""
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
    """Computes the layer by a scan over time.

    Args:
      x: [batch, time, inputs].
      lengths: number of valid frames, int [batch].
      kernels: the parameters of each direction.
      carry: the initial state.
      unroll: number of frames per iteration.

    Returns:
      outputs [batch, time, directions * features] and the final state, as `LSTM`.
    """
    frames = x.swapaxes(0, 1)
    valid = (jnp.arange(x.shape[1])[:, None] < lengths)[..., None]
    # One loop computes both directions, so that their matrix products run in parallel. The backward
    # direction starts in the padding, where it keeps its initial state.
    scale = _half_sigmoids(kernels[0].recurrent.shape[0])
    inputs = []
    for kernel, order, hidden, cell in zip(kernels, _ORDERS, *carry, strict=False):
        input_kernel, recurrent, bias = ((part * scale).astype(x.dtype) for part in kernel)
        # One large product for all frames instead of a small one in each step.
        projected = order(frames) @ input_kernel + bias
        inputs.append(_Direction(projected, recurrent, order(valid), (hidden, cell)))
    outputs, last = _recurrence(inputs, unroll)
    outputs = [order(out) for order, out in zip(_ORDERS, outputs, strict=False)]
    out = jnp.concatenate(outputs, axis=-1) * valid.astype(x.dtype)
    hidden, cell = (jnp.stack(part) for part in zip(*last, strict=True))
    return out.swapaxes(0, 1), Carry(hidden, cell)


def cudnn_lstm(
    x: jax.Array, lengths: jax.Array, kernels: list[Kernels], carry: Carry
) -> tuple[jax.Array, Carry]:
    """Computes the layer by cuDNN in float32; arguments and results as `scan_lstm`."""
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
    return out * valid.astype(out.dtype), Carry(hidden, cell)


def cudnn_weights(kernels: list[Kernels]) -> jax.Array:
    """Returns the parameters in cuDNN's layout: all matrices, then two biases per direction."""
    matrices = [matrix.T.ravel() for kernel in kernels for matrix in kernel[:2]]
    biases = [part for kernel in kernels for part in (kernel.bias, jnp.zeros_like(kernel.bias))]
    return jnp.concatenate(matrices + biases)


def _half_sigmoids(features: int) -> jax.Array:
    """Returns factors [4 * features] that halve the arguments of the three sigmoid gates.

    Because sigmoid(x) = (1 + tanh(x / 2)) / 2, one tanh then computes all four gates.
    """
    return jnp.array([0.5, 0.5, 1.0, 0.5]).repeat(features)


def _sigmoid_of(tanh: jax.Array) -> jax.Array:
    """Returns sigmoid(x), given tanh(x / 2)."""
    return 0.5 + 0.5 * tanh


class _Direction(NamedTuple):
    """Inputs of one direction's recurrence, with frames in its processing order."""

    projected: jax.Array  # [time, batch, 4 features], input projection of the gates
    kernel: jax.Array  # [features, 4 features]
    valid: jax.Array  # [time, batch, 1] bool
    carry: tuple[jax.Array, jax.Array]  # hidden and cell [batch, features]


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _recurrence(directions, unroll):
    """Returns outputs [time, batch, features] and the final carry of each direction.

    The state does not change in the padding. The gradient is custom because autodiff would
    accumulate the kernel's gradient, a matrix, in each step of the backward scan. Here one large
    product after the scan computes it for all frames.
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
    """Returns hidden state and cell after a frame, and the tanh of the gates."""
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
        results = [
            _cell_gradient(frame, carry, kernel)
            for frame, carry, kernel in zip(frames, carries, kernels, strict=True)
        ]
        return [carry for carry, _ in results], [d_gates for _, d_gates in results]

    initial = [(d_hidden.astype(jnp.float32), d_cell) for d_hidden, d_cell in d_last]
    frames = [
        (d_output, gates, cell, _before(cell, direction.carry[1]), direction.valid)
        for direction, d_output, (_, cell, gates) in zip(directions, d_outputs, states, strict=True)
    ]
    d_carries, d_gates = jax.lax.scan(step, initial, frames, reverse=True, unroll=unroll)
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
    """Returns the gradients of the state before a frame, and of the gates' arguments."""
    (d_output, gates, cell, before, valid), (d_hidden, d_cell) = frame, carry
    i, f, g, o = jnp.split(gates.astype(jnp.float32), 4, axis=-1)
    i, f, o, t = _sigmoid_of(i), _sigmoid_of(f), _sigmoid_of(o), jnp.tanh(cell)
    d_hidden = d_hidden + d_output.astype(jnp.float32)
    # Without the barriers XLA duplicates the shared subexpressions into several fusions.
    d_cell = jax.lax.optimization_barrier(d_cell + jnp.where(valid, d_hidden * o * (1 - t * t), 0))
    # Twice the derivatives of the sigmoids, because their arguments are halved.
    factors = [2 * g * i * (1 - i), 2 * before * f * (1 - f), i * (1 - g * g), 2 * t * o * (1 - o)]
    d_gates = jnp.concatenate([d_cell, d_cell, d_cell, d_hidden], -1) * jnp.concatenate(factors, -1)
    d_gates = jax.lax.optimization_barrier(jnp.where(valid, d_gates, 0).astype(gates.dtype))
    d_before = jnp.where(valid, (d_gates @ kernel).astype(jnp.float32), d_hidden)
    return (d_before, jnp.where(valid, d_cell * f, d_cell)), d_gates


def _no_gradient(mask: jax.Array) -> Any:
    """Returns the gradient of a mask: JAX expects float0 for inputs that are not floats."""
    return np.zeros(mask.shape, jax.dtypes.float0)


def _before(states: jax.Array, first: jax.Array) -> jax.Array:
    """Returns the state before each frame, given those after it [time, batch, features]."""
    return jnp.concatenate([first[None], states[:-1]])


_recurrence.defvjp(_forward, _backward)

_ORDERS = (lambda frames: frames, lambda frames: jnp.flip(frames, 0))  # by direction

NAME_TABLES: dict[str, Rules] = {"lstm": (("lstm", "LSTM_{layer}", "lstm"),)}
"""PyTorch names of the parameters: a `torch.nn.LSTM` named `lstm` is a stack of layers here."""
