"""A small residual network on CIFAR-10 (Krizhevsky 2009), ten minutes on a two-core CPU.

Command:  make dataset NAME=cifar10
          make train CONFIG=experiments/image_classification/cifar10_resnet.py
Hardware: 2 cores of a shared x86-64 server, Python 3.12, JAX 0.12.0
Time:     9 min 23 s for the whole command, 508 s of training
Score:    85.66 % test accuracy, one seed, on JPEG copies of the images; on one H100 (JAX 0.11.2)
          85.29 % in 61 s for the whole command, of which 2.6 s of training
"""

from research.common.config import to_config_dict
from research.tasks.image_classification.augmentation import Augmentation
from research.tasks.image_classification.data import TFDS
from research.tasks.image_classification.models import FastResNet
from research.tasks.image_classification.task import ImageClassification
from research.training.experiment import Experiment
from research.training.optimizer import Optimizer


def get_config():
    """Returns the experiment as a `ConfigDict`."""
    source = TFDS(
        name="cifar10",
        image_shape=(32, 32, 3),
        num_classes=10,
        train="train[:49000]",
        validation="train[49000:]",
        in_memory=True,
    )
    task = ImageClassification(
        source=source,
        model=FastResNet(widths=(32, 128, 128), stem_width=16),
        augmentation=Augmentation(crop_padding=2, horizontal_flip=True),
        label_smoothing=0.1,
        test_time_flip=True,
        mean=(0.491, 0.482, 0.447),
        std=(0.247, 0.243, 0.262),
    )
    sgd = Optimizer(
        name="sgd",
        learning_rate=0.8,
        schedule="linear",
        warmup="20%",
        weight_decay=5e-4,
        options={"momentum": 0.9, "nesterov": True},
    )
    return to_config_dict(Experiment(task=task, duration="5 epochs", batch_size=250, optimizer=sgd))
