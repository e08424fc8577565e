"""Properties of a `Backbone` with strides 4, 8, 16 and 32."""

import jax
import jax.numpy as jnp


def check_feature_maps(model, channels):
    images = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)

    def init(images):
        return model.init_with_output(jax.random.key(0), images, train=False, stages=4)

    feature_maps, _ = jax.eval_shape(init, images)
    assert [x.shape for x in feature_maps] == [
        (2, 64 // stride, 96 // stride, width)
        for stride, width in zip(model.strides, channels, strict=True)
    ]


def check_stages(model):
    """Fewer stages have fewer parameters, of which the next stage's are a superset."""
    images = jnp.zeros((1, 32, 32, 3))

    def names(stages):
        init = jax.eval_shape(lambda: model.init(jax.random.key(0), images, False, stages))
        return set(init["params"])

    assert names(1) < names(2) < names(3) < names(4) < names(None)
    maps = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), images, False, stages=2)[0]
    )
    assert len(maps) == 2
