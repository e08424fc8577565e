"""A small convolutional network on scikit-learn's handwritten digits.

Command:  make train CONFIG=experiments/image_classification/digits_cnn.py
Hardware: not measured
Time:     not measured
Score:    not measured
"""

from research.config import to_config_dict
from research.tasks.image_classification.augmentation import Augmentation
from research.tasks.image_classification.data import Digits
from research.tasks.image_classification.models import CNN
from research.tasks.image_classification.task import ImageClassification
from research.training.experiment import Experiment
from research.training.optimizer import Optimizer


def get_config():
    """The typed config, as the `ConfigDict` that the command line can change."""
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
