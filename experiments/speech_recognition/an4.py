"""CMU AN4 (census): spelled names, numbers and commands, from 13 MFCC.

AN4 is at http://www.speech.cs.cmu.edu/databases/an4. Convert it to features, `.npy` [frames, 13],
and two manifests, or use LogMel and its audio. Validation is on a tenth of the training speakers.

Command:  make train CONFIG=experiments/speech_recognition/an4.py
Hardware: 2 cores of a shared x86-64 server, Python 3.11, JAX 0.10.2
Time:     21 min of training, with other programs running
Score:    7.89 % WER on the 130 test utterances, 10.97 % in validation, one seed, greedy. With a
          3-gram model of the training transcripts 8.15 % and 10.78 %
          (--change=task.decoding.beam_size=16 --change=task.decoding.language_model=transcripts
          --change=task.decoding.language_model_weight=0.1)
"""

from research.common.config import to_config_dict
from research.data.tokenizers import Words
from research.tasks.speech_recognition.augmentation import Augmentation
from research.tasks.speech_recognition.data import Manifest
from research.tasks.speech_recognition.features import PrecomputedFeatures
from research.tasks.speech_recognition.models import LSTMEncoder
from research.tasks.speech_recognition.task import SpeechRecognition
from research.training.experiment import Experiment
from research.training.optimizer import Optimizer

# All words of the domain; the training transcripts lack some of them.
VOCABULARY = """
a b c d e f g h i j k l m n o p q r s t u v w x y z
zero oh one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred
thousand first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth
thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth thirtieth
january february march april may june july august september october november december
and apostrophe area code double enter erase go half help no of repeat rubout start stop yes
"""


def get_config():
    """Returns the experiment as a `ConfigDict`."""
    task = SpeechRecognition(
        source=Manifest(train="an4_mfcc/train.jsonl", test="an4_mfcc/test.jsonl"),
        features=PrecomputedFeatures(size=13),
        tokenizer=Words(vocabulary=tuple(sorted(set(VOCABULARY.split())))),
        model=LSTMEncoder(
            channels=(192, 192),
            kernel_size=5,
            strides=(2, 2),
            num_layers=3,
            features=192,
            dropout=0.4,
        ),
        augmentation=Augmentation(
            time_stretch=0.15,
            num_frequency_masks=1,
            frequency_mask_width=3,
            num_time_masks=2,
            time_mask_fraction=0.08,
        ),
        tokens_per_second=12.0,
        num_buckets=4,
    )
    return to_config_dict(
        Experiment(
            task=task,
            duration="100 epochs",
            batch_size=32,
            optimizer=Optimizer(
                name="adamw",
                learning_rate=2e-3,
                warmup="5%",
                weight_decay=0.01,
                weight_decay_mask=(("kernel$", True),),
                clip_norm=1.0,
            ),
            ema_decay=0.99,
            evaluate_every="20 epochs",
        )
    )
