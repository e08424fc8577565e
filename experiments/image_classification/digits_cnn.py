"""A small convolutional network on scikit-learn's handwritten digits.

Command:  make train
          make train WORKDIR=runs/seed_1 ARGS="--config.seed=1", and so on to 4
Hardware: 2 cores of a shared x86-64 server, Python 3.11, JAX 0.10.2
Time:     27 s for the whole command, 12 s of training, 3 s of compiling
Score:    99.83 % test accuracy, mean of five seeds (99.72, 99.72, 100, 99.72, 100)
"""

from research.common.config import to_config_dict
from research.tasks.image_classification.augmentation import Augmentation
from research.tasks.image_classification.data import Digits
from research.tasks.image_classification.models import CNN
from research.tasks.image_classification.task import ImageClassification
from research.training.experiment import Experiment
from research.training.optimizer import Optimizer


def get_config():
    """Returns the experiment as a `ConfigDict`."""
    task = ImageClassification(
        source=Digits(),
        model=CNN(widths=(64, 128), dropout=0.4),
        augmentation=Augmentation(crop_padding=1),
        label_smoothing=0.1,
    )
    return to_config_dict(
        Experiment(
            task=task,
            duration="40 epochs",
            batch_size=64,
            optimizer=Optimizer(name="adamw", learning_rate=3e-3, warmup="10%", weight_decay=0.01),
            ema_decay=0.98,
        )
    )
