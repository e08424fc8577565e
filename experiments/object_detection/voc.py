"""Pascal VOC 2007 (Everingham et al. 2010): 20 classes, 5,011 training, 4,952 test images.

`ap50` is COCO's metric, close but not equal to VOC's mAP. Objects marked difficult are excluded
from the loss and from AP.

Command:  make dataset NAME=voc/2007
          make train CONFIG=experiments/object_detection/voc.py
Hardware: not measured
Time:     not measured
Score:    not measured; published for CenterNet with a ResNet-18, unlike this one pretrained on
          ImageNet and trained on VOC 2012 too: mAP 75.7 (Zhou et al. 2019)
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
    source = DetectionTFDS(
        name="voc/2007",
        train="train+validation[:90%]",
        validation="validation[90%:]",
        crowd="is_difficult",
    )
    task = ObjectDetection(
        source=source,
        model=Detector(backbone=ResNet(depth=18), channels=128),
        image_size=(512, 512),
        augmentation=Augmentation(
            scale=(0.5, 1.5), horizontal_flip=True, color_jitter=0.3, mosaic_probability=0.5
        ),
        dtype="bfloat16",
    )
    adamw = Optimizer(
        name="adamw", learning_rate=1e-3, warmup="5%", weight_decay=0.05, clip_norm=10.0
    )
    experiment = Experiment(
        task=task,
        duration="150 epochs",
        batch_size=32,
        optimizer=adamw,
        ema_decay=0.9998,
        evaluate_every="10 epochs",
    )
    return to_config_dict(experiment)
