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
        model=CNN(widths=(32, 64)),
        augmentation=Augmentation(crop_padding=1),
        label_smoothing=0.1,
    )
    return to_config_dict(
        Experiment(
            task=task,
            duration="30 epochs",
            batch_size=64,
            optimizer=Optimizer(name="adamw", learning_rate=3e-3, warmup="10%", weight_decay=0.01),
        )
    )
