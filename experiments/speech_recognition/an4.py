"""CMU AN4 (census): spelled names, numbers and commands, from 13 MFCC.

Command:  not measured
Hardware:
Time:
Score:
"""

from research.config import to_config_dict
from research.data.tokenizers import Characters
from research.tasks.speech_recognition.augmentation import Augmentation
from research.tasks.speech_recognition.data import Manifest
from research.tasks.speech_recognition.features import Given
from research.tasks.speech_recognition.models import LSTMEncoder
from research.tasks.speech_recognition.task import SpeechRecognition
from research.training.experiment import Experiment
from research.training.optimizer import Optimizer


def get_config():
    """The typed config, as the `ConfigDict` that the command line can change."""
    task = SpeechRecognition(
        source=Manifest(
            train="../shared/data/an4_mfcc/train.jsonl", test="../shared/data/an4_mfcc/test.jsonl"
        ),
        features=Given(size=13),
        tokenizer=Characters(),
        model=LSTMEncoder(
            channels=(192, 192), kernel=5, strides=(2, 1), layers=3, features=192, dropout=0.3
        ),
        augmentation=Augmentation(
            stretch=0.15, frequency_masks=1, frequency_mask_width=3, time_masks=2
        ),
        buckets=4,
    )
    return to_config_dict(
        Experiment(
            task=task,
            duration="60 epochs",
            batch_size=32,
            optimizer=Optimizer(
                name="adamw", learning_rate=2e-3, warmup="5%", weight_decay=0.01, clip=1.0
            ),
            ema_decay=0.99,
            evaluate_every="5 epochs",
        )
    )
