"""ResNet-50 v1.5 on ImageNet, 90 epochs; others report 76.5 % for this recipe.

SGD with Nesterov momentum, batch size 1,024, learning rate 0.1 per 256 examples after five epochs
of warm-up, cosine decay, label smoothing, bfloat16 (after Goyal et al. 2017 and He et al. 2018).

Command:  make dataset NAME=imagenet2012
          make train CONFIG=experiments/image_classification/imagenet_resnet50.py
Hardware: not measured; written for 8 devices or more
Time:     not measured
Score:    not measured
"""

from research.common.config import to_config_dict
from research.tasks.image_classification.augmentation import Augmentation
from research.tasks.image_classification.data import TFDS
from research.tasks.image_classification.models import ResNet
from research.tasks.image_classification.task import ImageClassification
from research.training.experiment import Experiment
from research.training.optimizer import Optimizer


def get_config():
    """Returns the experiment as a `ConfigDict`."""
    source = TFDS(
        name="imagenet2012",
        image_shape=(224, 224, 3),
        num_classes=1000,
        train="train[10000:]",
        validation="train[:10000]",
        test="validation",  # the labels of ImageNet's test split are not public
        random_resized_crop=0.08,
        crop_fraction=0.875,
    )
    task = ImageClassification(
        source=source,
        model=ResNet(depth=50),
        augmentation=Augmentation(horizontal_flip=True),
        label_smoothing=0.1,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        dtype="bfloat16",
    )
    batch_size = 1024
    sgd = Optimizer(
        name="sgd",
        learning_rate=0.1 * batch_size / 256,
        warmup="5 epochs",
        weight_decay=5e-5,
        options={"momentum": 0.9, "nesterov": True},
    )
    return to_config_dict(
        Experiment(
            task=task,
            duration="90 epochs",
            batch_size=batch_size,
            optimizer=sgd,
            log_every="100 steps",
            evaluate_every="2 epochs",
            checkpoint_every="1 epoch",
        )
    )
