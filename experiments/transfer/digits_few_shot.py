"""A CNN trained on the digits 0 to 4 learns 5 to 9 from 1, 5, 10 and 50 examples of each.

The same network also learns them from scratch, from the same examples, by the same steps. The
digits are over photographs, so there is more to learn than their shapes; on a plain background
0 to 4 add nothing to 5 examples of 5 to 9. No download: both are scikit-learn's.

Command:  make train CONFIG=experiments/transfer/digits_few_shot.py
Hardware: 2 cores of a shared x86-64 server, Python 3.12, JAX 0.12.0.1
Time:     16 min for the whole command, with seven other programs running
Score:    Accuracy on the test images of 5 to 9 in %, mean of 10 draws, one seed:

              examples of each    1      5     10     50
              pretrained       31.3   46.2   58.6   77.4
              from scratch     21.0   23.6   28.3   45.7
              gain             10.3   22.6   30.2   31.7
              its deviation     5.1    5.6    5.5    4.3

          97.8 % of the test images of 0 to 4
"""

from research.common.config import to_config_dict
from research.tasks.image_classification.augmentation import Augmentation
from research.tasks.image_classification.data import DigitPhotographs
from research.tasks.image_classification.few_shot import FewShot
from research.tasks.image_classification.models import CNN
from research.tasks.image_classification.task import ImageClassification
from research.training.experiment import Experiment
from research.training.optimizer import Optimizer


def get_config():
    """Returns the experiment as a `ConfigDict`."""
    task = ImageClassification(
        source=DigitPhotographs(classes=tuple("01234")),
        model=CNN(widths=(32, 64), dropout=0.4),
        augmentation=Augmentation(crop_padding=1),
        label_smoothing=0.1,
        few_shot=FewShot(source=DigitPhotographs(classes=tuple("56789"))),
    )
    return to_config_dict(
        Experiment(
            task=task,
            duration="150 epochs",
            batch_size=64,
            optimizer=Optimizer(name="adamw", learning_rate=3e-3, warmup="10%", weight_decay=0.01),
            ema_decay=0.98,
        )
    )
