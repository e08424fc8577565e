import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.layers.resnet import ResNet
from research.tasks.object_detection.models import Detector, anchor_points

SMALL = ResNet(width=4)


def shapes(model, size, train=False):
    """Shapes of the outputs and variables of a model for two images of a size (height, width)."""
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    init = lambda x: model.init_with_output(jax.random.key(0), x, train=train)  # noqa: E731
    return jax.eval_shape(init, images)


def test_anchor_points_are_in_row_major_order_finest_level_first():
    points, strides = anchor_points((16, 32), (8, 16))
    assert points.tolist() == [
        *([4, 4], [12, 4], [20, 4], [28, 4]),
        *([4, 12], [12, 12], [20, 12], [28, 12]),
        *([8, 8], [24, 8]),
    ]
    assert strides.tolist() == [8] * 8 + [16] * 2
    assert points.dtype == strides.dtype == np.float32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("strides", "size"), [((8, 16, 32), (64, 96)), ((4, 8), (24, 16)), ((16,), (32, 16))]
)
def test_outputs_have_the_shapes_of_the_anchor_points_in_float32(
    strides, size, dtype, standard_promotion
):
    model = Detector(
        backbone=SMALL, strides=strides, channels=8, num_classes=5, dtype=jnp.dtype(dtype)
    )
    (logits, boxes), variables = shapes(model, size)
    count = len(anchor_points(size, strides)[0])
    assert logits.shape == (2, count, 5) and boxes.shape == (2, count, 4)
    assert {leaf.dtype for leaf in (logits, boxes)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    "backbone",
    [
        ResNet(width=4),
        pytest.param(ResNet(depth=50, width=4), marks=pytest.mark.slow),
        pytest.param(ResNet(stem="strided", width=4), marks=pytest.mark.slow),
    ],
)
def test_the_backbone_has_the_variables_of_a_classifier(backbone):
    """So a trained classifier can initialise it, without its head."""
    _, detector = shapes(Detector(backbone=backbone, channels=8, num_classes=5), (64, 64))
    _, classifier = shapes(backbone.clone(num_classes=7), (64, 64))
    assert classifier["params"].pop("head")
    assert set(detector) == set(classifier)
    for collection, variables in classifier.items():
        assert detector[collection]["backbone"] == variables


def test_unused_stages_have_no_parameters():
    _, few = shapes(Detector(backbone=SMALL, strides=(4, 8), channels=8, num_classes=5), (64, 64))
    _, all_of_them = shapes(Detector(backbone=SMALL, channels=8, num_classes=5), (64, 64))
    few, all_of_them = few["params"]["backbone"], all_of_them["params"]["backbone"]
    assert set(few) < set(all_of_them)
    assert all(few[name] == all_of_them[name] for name in few)


SIZE = (320, 352)
STRIDES = (8, 16, 32)
CORNER = np.array([144, 160])  # y and x, far enough from the edges for all receptive fields
MOVES = {"right": (0, 32), "down": (32, 0), "left and up": (-32, -32)}


@pytest.fixture(scope="module")
def outputs():
    """Logits and boxes of a blank image, of one with a patch, and of shifted ones."""
    model = Detector(backbone=SMALL, strides=STRIDES, channels=8, num_head_convs=1, num_classes=5)
    patch = np.random.default_rng(0).normal(size=(24, 24, 3))
    images = np.zeros((2 + len(MOVES), *SIZE, 3), np.float32)
    for image, move in zip(images[1:], [(0, 0), *MOVES.values()], strict=True):
        y, x = CORNER + move
        image[y : y + 24, x : x + 24] = patch
    init = lambda x: model.init_with_output(jax.random.key(0), x, train=False)[0]  # noqa: E731
    return jax.device_get(jax.jit(init)(images))


def levels(output):
    """Splits [points, values] into the maps [height, width, values] of each level."""
    sizes = [(SIZE[0] // stride, SIZE[1] // stride) for stride in STRIDES]
    ends = np.cumsum([height * width for height, width in sizes])
    parts = np.split(output, ends[:-1])
    return [part.reshape(*size, -1) for part, size in zip(parts, sizes, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(MOVES)), ids=MOVES)
def test_outputs_are_translation_equivariant_at_all_levels(outputs, number):
    for output in outputs:
        first, moved = levels(output[1] - output[0]), levels(output[2 + number] - output[0])
        for stride, before, after in zip(STRIDES, first, moved, strict=True):
            cells = np.array(list(MOVES.values())[number]) // stride
            expected = np.roll(before, cells, axis=(0, 1))
            scale = np.abs(expected).max()
            assert scale > 1e-4
            np.testing.assert_allclose(after, expected, atol=1e-3 * scale)
            assert np.abs(after - before).max() > 0.1 * scale


@pytest.mark.slow
def test_boxes_contain_their_anchor_points(outputs):
    """Initially, they are a few strides wide."""
    points, strides = anchor_points(SIZE, STRIDES)
    for boxes in outputs[1]:
        low, high = points - boxes[:, :2], boxes[:, 2:] - points
        sides = np.concatenate([low, high], axis=1) / strides[:, None]
        assert (sides > 0.2).all() and (sides < 5).all()


@pytest.mark.slow
def test_initial_scores_are_close_to_the_prior(outputs):
    scores = 1 / (1 + np.exp(-outputs[0]))
    assert scores.min() > 0.005 and scores.max() < 0.02
