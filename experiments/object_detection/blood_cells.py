"""Blood cells of three kinds, from 205 images: BCCD (https://github.com/Shenggan/BCCD_Dataset).

The splits are those of BCCD: 205 training, 87 validation and 72 test images.

Command:  make dataset NAME=bccd
          make train CONFIG=experiments/object_detection/blood_cells.py
Hardware: 2 cores of a shared x86-64 server, Python 3.11, JAX 0.10.2
Time:     11 min 50 s for the whole command
Score:    AP 0.588, AP50 0.898, AP75 0.668 on the test images, one seed (validation: AP50 0.887);
          RBC 0.576, WBC 0.758, platelets 0.428; on one H100 (JAX 0.11.2), shared with three
          other trainings, AP 0.584, AP50 0.894 in 3 min 18 s for the whole command
"""

from research.common.config import to_config_dict
from research.layers.resnet import ResNet
from research.tasks.object_detection.augmentation import Augmentation
from research.tasks.object_detection.data import DetectionTFDS
from research.tasks.object_detection.models import Detector
from research.tasks.object_detection.task import ObjectDetection
from research.training.experiment import Experiment
from research.training.optimizer import Optimizer


def get_config():
    """Returns the experiment as a `ConfigDict`."""
    model = Detector(
        backbone=ResNet(depth=18, stem="strided", width=32),
        strides=(8, 16),
        channels=64,
        num_head_convs=1,
    )
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
    )
    adamw = Optimizer(
        name="adamw", learning_rate=3e-3, warmup="5%", weight_decay=1e-2, clip_norm=30.0
    )
    experiment = Experiment(
        task=task,
        duration="80 epochs",
        batch_size=8,
        optimizer=adamw,
        ema_decay=0.998,
        evaluate_every="10 epochs",
    )
    return to_config_dict(experiment)
