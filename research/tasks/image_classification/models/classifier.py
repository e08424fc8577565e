"""The protocol of an image classifier."""

from typing import Any, Protocol, Self

import jax


class Classifier(Protocol):
    """A Flax module whose fields are its config, except those that the task fills in.

    To add one, write its class in this package and list it in `ImageClassification.model`.
    """

    num_classes: int
    """Number of classes; `not_configured`, filled in by the task."""

    dtype: Any
    """Of the computation; `not_configured`, filled in by the task. Parameters are float32."""

    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns logits float32 [batch, classes].

        Args:
          images: normalised, [batch, height, width, channels] of `dtype`.
          train: whether batch statistics are updated and dropout, with the random stream "dropout",
            is applied.
        """

    def clone(self, **fields: Any) -> Self:
        """Returns a copy with some fields replaced."""

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns the initial variables for the arguments of `__call__`."""

    def init_with_output(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns the output and the initial variables for the arguments of `__call__`."""

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls the module with these variables."""
