"""A small detector that is overfitted to a few scenes."""

from research.layers.resnet import ResNet
from research.tasks.object_detection.data import DigitScenes
from research.tasks.object_detection.models import Detector
from research.tasks.object_detection.task import ObjectDetection

SCENES, SIZE = 6, 64  # scenes to overfit, and their height and width
TASK = ObjectDetection(
    source=DigitScenes(
        scene_size=SIZE,
        num_digits=(1, 3),
        digit_height=(20, 40),
        num_train_scenes=8,
        num_test_scenes=SCENES,
    ),
    image_size=(SIZE, SIZE),
    model=Detector(
        backbone=ResNet(stem="strided", width=8), strides=(8, 16), channels=16, num_head_convs=1
    ),
)
