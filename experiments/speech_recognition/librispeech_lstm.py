"""LibriSpeech, 960 hours: two strided convolutions, six bidirectional LSTM layers, word pieces.

After AlgoPerf's DeepSpeech (https://github.com/mlcommons/algorithmic-efficiency).

Command:  make train CONFIG=experiments/speech_recognition/librispeech_lstm.py
Hardware: intended for 8 TPU chips or 8 GPUs
Time:     not measured
Score:    not measured
"""

from research.common.config import to_config_dict
from research.data.tokenizers import WordPieces
from research.tasks.speech_recognition.augmentation import Augmentation
from research.tasks.speech_recognition.data import LibriSpeech
from research.tasks.speech_recognition.features import LogMel
from research.tasks.speech_recognition.models import LSTMEncoder
from research.tasks.speech_recognition.task import SpeechRecognition
from research.training.experiment import Experiment
from research.training.optimizer import Optimizer


def get_config():
    """Returns the experiment as a `ConfigDict`."""
    task = SpeechRecognition(
        source=LibriSpeech(path="LibriSpeech"),
        features=LogMel(sample_rate=16000, num_mel_bins=80),
        tokenizer=WordPieces(vocab_size=1024),
        model=LSTMEncoder(
            channels=(512, 512), strides=(2, 2), num_layers=6, features=512, dropout=0.1, unroll=4
        ),
        augmentation=Augmentation(
            speed_perturbation=0.1,
            num_frequency_masks=2,
            frequency_mask_width=27,
            num_time_masks=10,
            time_mask_fraction=0.05,
        ),
        tokens_per_second=10.0,
        num_buckets=8,
        dtype="bfloat16",
    )
    return to_config_dict(
        Experiment(
            task=task,
            duration="80 epochs",
            batch_size=256,
            optimizer=Optimizer(
                name="adamw", learning_rate=1e-3, warmup="5%", weight_decay=0.05, clip_norm=5.0
            ),
            ema_decay=0.999,
            log_every="100 steps",
        )
    )
