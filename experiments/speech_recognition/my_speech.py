"""Your own speech: a manifest with the path and the transcript of each recording.

A manifest has one JSON object per line, in the format of NVIDIA NeMo; paths are relative to it, and
`speaker` is optional:

    {"audio_filepath": "a.flac", "text": "the transcript", "speaker": "ann"}

A tenth of the speakers is held out, or of the recordings where speakers are unknown. Tokens are
characters, so that the transcripts may be in any language with an alphabet.

Command:  make train CONFIG=experiments/speech_recognition/my_speech.py WORKDIR=runs/mine \\
              ARGS="--config.task.source.train=PATH/train.jsonl"
          Manifests of other splits are `--config.task.source.validation=PATH/validation.jsonl` and
          `--config.task.source.test=PATH/test.jsonl`.
Hardware: not measured; depends on your recordings
Time:     not measured
Score:    not measured
"""

from research.common.config import to_config_dict
from research.data.tokenizers import Characters
from research.tasks.speech_recognition.augmentation import Augmentation
from research.tasks.speech_recognition.data import Manifest
from research.tasks.speech_recognition.features import LogMel
from research.tasks.speech_recognition.models import LSTMEncoder
from research.tasks.speech_recognition.task import SpeechRecognition
from research.training.experiment import Experiment
from research.training.optimizer import Optimizer


def get_config():
    """Returns the experiment as a `ConfigDict`."""
    task = SpeechRecognition(
        source=Manifest(train="train.jsonl"),
        features=LogMel(sample_rate=16000, num_mel_bins=80),
        tokenizer=Characters(),
        model=LSTMEncoder(
            channels=(256, 256), strides=(2, 1), num_layers=3, features=256, dropout=0.3
        ),
        augmentation=Augmentation(
            speed_perturbation=0.1,
            num_frequency_masks=2,
            frequency_mask_width=15,
            num_time_masks=2,
            time_mask_fraction=0.05,
        ),
        num_buckets=4,
    )
    return to_config_dict(
        Experiment(
            task=task,
            duration="50 epochs",
            batch_size=32,
            optimizer=Optimizer(
                name="adamw", learning_rate=1e-3, warmup="5%", weight_decay=0.01, clip_norm=5.0
            ),
            ema_decay=0.99,
            evaluate_every="5 epochs",
            checkpoint_every="5 epochs",
        )
    )
