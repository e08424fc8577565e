"""COCO 2017 (Lin et al. 2014): 80 classes, 118,287 training and 5,000 validation images.

A ResNet-50 with a feature pyramid and heads of the size of FCOS, at 640 x 640. `COCO(path=...)`
reads the files of cocodataset.org instead of TFDS.

Command:  make dataset NAME=coco/2017
          make train CONFIG=experiments/object_detection/coco.py
Hardware: not measured
Time:     not measured
Score:    not measured; published for FCOS with a ResNet-50 pretrained on ImageNet, unlike this one:
          AP 39.2 (torchvision)
"""

from research.common.config import to_config_dict
from research.layers.resnet import ResNet
from research.tasks.object_detection.augmentation import Augmentation
from research.tasks.object_detection.data import DetectionTFDS
from research.tasks.object_detection.decoding import Decoding
from research.tasks.object_detection.models import Detector
from research.tasks.object_detection.task import ObjectDetection
from research.training.experiment import Experiment
from research.training.optimizer import Optimizer


def get_config():
    """Returns the experiment as a `ConfigDict`."""
    # COCO's test annotations are not public: as in the literature, scores are reported on the
    # validation images; the last 2 % of the training images serve for validation.
    source = DetectionTFDS(
        name="coco/2017",
        train="train[:98%]",
        validation="train[98%:]",
        test="validation",
        crowd="is_crowd",
    )
    task = ObjectDetection(
        source=source,
        model=Detector(backbone=ResNet(depth=50), channels=256, num_head_convs=4),
        image_size=(640, 640),
        augmentation=Augmentation(
            scale=(0.5, 1.5), horizontal_flip=True, color_jitter=0.2, mosaic_probability=0.5
        ),
        decoding=Decoding(topk_candidates=1000),
        dtype="bfloat16",
    )
    adamw = Optimizer(
        name="adamw", learning_rate=1e-3, warmup="2%", weight_decay=0.05, clip_norm=10.0
    )
    experiment = Experiment(
        task=task,
        duration="72 epochs",
        batch_size=128,
        optimizer=adamw,
        ema_decay=0.9998,
        evaluate_every="4 epochs",
        checkpoint_every="1 epoch",
    )
    return to_config_dict(experiment)
