"""English spelling to pronunciation, the 126,000 words of the CMU Pronouncing Dictionary.

A bidirectional LSTM encodes the letters, and an LSTM with attention decodes phonemes without stress
marks. The test split is one word in twenty, chosen by a hash of its letters.

Command:  make train CONFIG=experiments/sequence_to_sequence/pronunciation.py
Hardware: 2 cores of a shared x86-64 server, Python 3.11, JAX 0.10.2
Time:     9 min 25 s for the whole command
Score:    27.83 % of the 6,370 test words are wrong, 6.66 % of their phonemes; 29.81 % where the
          first pronunciation alone is right. Validation 29.47 %, one seed

The full-length recipe, larger and with dropout, takes half an hour:

Command:  ... ARGS='"--config.duration=14 epochs" --config.task.model.features=256
          --config.task.model.dropout=0.2'
Time:     25 min 50 s for the whole command, with other programs running
Score:    25.51 % of the test words wrong, 5.97 % of their phonemes; 27.50 % by the first
          pronunciation alone. Validation 25.75 %, one seed
"""

from research.common.config import to_config_dict
from research.data.tokenizers import Characters, Words
from research.tasks.sequence_to_sequence.data import Pronunciations
from research.tasks.sequence_to_sequence.decoding import Decoding
from research.tasks.sequence_to_sequence.models import AttentionLSTM
from research.tasks.sequence_to_sequence.task import SequenceToSequence
from research.training.experiment import Experiment
from research.training.optimizer import Optimizer


def get_config():
    """Returns the experiment as a `ConfigDict`."""
    task = SequenceToSequence(
        source=Pronunciations(),
        input_tokenizer=Characters(),
        output_tokenizer=Words(),
        # A training this short does not overfit: it is faster, and better, without dropout.
        model=AttentionLSTM(embedding_dim=64, features=192, dropout=0.0),
        decoding=Decoding(beam_size=5),
        scoring="pronunciation",
        max_length=40,
        num_buckets=8,
    )
    return to_config_dict(
        Experiment(
            task=task,
            duration="8 epochs",
            batch_size=256,
            optimizer=Optimizer(
                name="adamw",
                learning_rate=3e-3,
                warmup="5%",
                weight_decay=0.01,
                weight_decay_mask=(("kernel$", True),),
                clip_norm=1.0,
            ),
            ema_decay=0.999,
            evaluate_every="4 epochs",
        )
    )
