"""Your own images: `PATH/train/CLASS/*.jpg`, and likewise `PATH/validation` and `PATH/test`.

A ResNet-18 on images of 64x64 pixels; for larger ones set `task.source.image_shape` and
`task.model.stem`.

Command:  make train CONFIG=experiments/image_classification/image_folder.py \\
              ARGS="--config.task.source.path=PATH"
Hardware: not measured; depends on your images
Time:     not measured
Score:    not measured
"""

from research.common.config import to_config_dict
from research.tasks.image_classification.augmentation import Augmentation
from research.tasks.image_classification.data import ImageFolder
from research.tasks.image_classification.models import ResNet
from research.tasks.image_classification.task import ImageClassification
from research.training.experiment import Experiment
from research.training.optimizer import Optimizer


def get_config():
    """Returns the experiment as a `ConfigDict`."""
    source = ImageFolder(path="images", image_shape=(64, 64, 3), random_resized_crop=0.35)
    task = ImageClassification(
        source=source,
        model=ResNet(depth=18, stem="cifar", width=32),
        augmentation=Augmentation(horizontal_flip=True),
        label_smoothing=0.1,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    adamw = Optimizer(name="adamw", learning_rate=1e-3, warmup="5%", weight_decay=0.05)
    return to_config_dict(
        Experiment(
            task=task,
            duration="30 epochs",
            batch_size=64,
            optimizer=adamw,
            ema_decay=0.99,
            checkpoint_every="5 epochs",
        )
    )
