"""A small convolutional network on Fashion-MNIST (Xiao et al. 2017), 28x28 grey images.

Command:  make dataset NAME=fashion_mnist
          make train CONFIG=experiments/image_classification/fashion_mnist_cnn.py
Hardware: not measured
Time:     not measured
Score:    not measured; the data set was not available on the machine of the other experiments
"""

from research.common.config import to_config_dict
from research.tasks.image_classification.augmentation import Augmentation
from research.tasks.image_classification.data import TFDS
from research.tasks.image_classification.models import CNN
from research.tasks.image_classification.task import ImageClassification
from research.training.experiment import Experiment
from research.training.optimizer import Optimizer


def get_config():
    """Returns the experiment as a `ConfigDict`."""
    source = TFDS(name="fashion_mnist", image_shape=(28, 28, 1), num_classes=10, in_memory=True)
    task = ImageClassification(
        source=source,
        model=CNN(widths=(32, 64, 128), dropout=0.3),
        augmentation=Augmentation(crop_padding=2, horizontal_flip=True),
        label_smoothing=0.1,
        test_time_flip=True,
        mean=(0.286,),
        std=(0.353,),
    )
    adamw = Optimizer(name="adamw", learning_rate=2e-3, warmup="5%", weight_decay=0.02)
    return to_config_dict(
        Experiment(task=task, duration="15 epochs", batch_size=250, optimizer=adamw)
    )
