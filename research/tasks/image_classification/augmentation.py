"""Augmentation of image batches on the device: pure functions of a key."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from research.common.errors import ConfigError


@dataclass(frozen=True)
class Augmentation:
    """What is done to a batch of training images, in this order. By default nothing."""

    crop_padding: int = 0
    """Pixels of zero padding on each side, out of which a window of the image's size is cut."""

    flip: bool = False
    """Mirror half of the images left to right."""

    mixup: float = 0.0
    """Blend pairs of images with a weight from Beta(a, a) (Zhang et al. 2017); 0: do not."""

    cutmix: float = 0.0
    """Paste a box of one image into another, its area from Beta(a, a) (Yun et al. 2019); 0: do not.

    With `mixup` too, each batch gets one of the two by chance.
    """

    def __post_init__(self):
        for key in ("crop_padding", "mixup", "cutmix"):
            if getattr(self, key) < 0:
                raise ConfigError(key, f"must not be negative, is {getattr(self, key)}")

    def __call__(
        self, key: jax.Array, images: jax.Array, targets: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Augmented images [batch, height, width, channels] and class weights [batch, classes]."""
        crop_key, flip_key, mix_key, choice_key = jax.random.split(key, 4)
        if self.crop_padding:
            images = random_crop(crop_key, images, self.crop_padding)
        if self.flip:
            images = random_flip(flip_key, images)
        if self.mixup and self.cutmix:
            mixed = mixup(mix_key, images, targets, self.mixup)
            cut = cutmix(mix_key, images, targets, self.cutmix)
            first = jax.random.bernoulli(choice_key)
            return jax.tree.map(lambda a, b: jnp.where(first, a, b), mixed, cut)
        if self.mixup:
            return mixup(mix_key, images, targets, self.mixup)
        if self.cutmix:
            return cutmix(mix_key, images, targets, self.cutmix)
        return images, targets


def random_crop(key: jax.Array, images: jax.Array, padding: int) -> jax.Array:
    """Shifts each image [height, width, channels] by up to `padding` pixels both ways, zeros in."""
    batch, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corners = jax.random.randint(key, (batch, 2), 0, 2 * padding + 1)

    def window(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (*corner, 0), (height, width, channels))

    return jax.vmap(window)(padded, corners)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each image left to right with probability one half."""
    flipped = jax.random.bernoulli(key, shape=(images.shape[0], 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def mixup(
    key: jax.Array, images: jax.Array, targets: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Blends each example with its neighbour in the batch, all with one weight from Beta(a, a)."""
    weight = jax.random.beta(key, alpha, alpha)
    blend = lambda x: weight * x + (1 - weight) * jnp.roll(x, 1, axis=0)  # noqa: E731
    return blend(images), blend(targets)


def cutmix(
    key: jax.Array, images: jax.Array, targets: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Pastes one box, the same for the whole batch, from each example's neighbour into it.

    The targets are weighted by the area that is really covered, the box being clipped at the edge.
    """
    area_key, row_key, column_key = jax.random.split(key, 3)
    _, height, width, _ = images.shape
    side = jnp.sqrt(1 - jax.random.beta(area_key, alpha, alpha))
    rows = _interval(row_key, height, side)
    columns = _interval(column_key, width, side)
    box = rows[:, None] & columns[None, :]
    covered = box.mean()
    pasted = jnp.where(box[None, :, :, None], jnp.roll(images, 1, axis=0), images)
    return pasted, (1 - covered) * targets + covered * jnp.roll(targets, 1, axis=0)


def _interval(key: jax.Array, size: int, fraction: jax.Array) -> jax.Array:
    """[size] bool, true within `fraction * size` of a random centre."""
    centre = jax.random.uniform(key, maxval=size)
    return jnp.abs(jnp.arange(size) + 0.5 - centre) < fraction * size / 2
