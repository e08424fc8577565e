"""Multi30k, English to German captions: an LSTM encoder and decoder with attention.

The data set is that of `multi30k_transformer.py`.

Command:  make train CONFIG=experiments/sequence_to_sequence/multi30k_lstm.py
Hardware: intended for one GPU
Time:     not measured
Score:    not measured
"""

from research.common.config import to_config_dict
from research.data.tokenizers import WordPieces
from research.tasks.sequence_to_sequence.data import ParallelText
from research.tasks.sequence_to_sequence.decoding import Decoding
from research.tasks.sequence_to_sequence.models import AttentionLSTM
from research.tasks.sequence_to_sequence.task import SequenceToSequence
from research.training.experiment import Experiment
from research.training.optimizer import Optimizer


def get_config():
    """Returns the experiment as a `ConfigDict`."""
    task = SequenceToSequence(
        source=ParallelText(
            train=("multi30k/train.en.gz", "multi30k/train.de.gz"),
            validation=("multi30k/val.en.gz", "multi30k/val.de.gz"),
            test=("multi30k/test_2016_flickr.en.gz", "multi30k/test_2016_flickr.de.gz"),
        ),
        input_tokenizer=WordPieces(vocab_size=8000, byte_fallback=True),
        joint_vocabulary=True,
        model=AttentionLSTM(embedding_dim=256, features=320, dropout=0.4),
        decoding=Decoding(beam_size=5, length_penalty=1.0),
        label_smoothing=0.1,
        max_length=80,
        num_buckets=12,
    )
    return to_config_dict(
        Experiment(
            task=task,
            duration="30 epochs",
            batch_size=512,
            batch_length=4096,
            optimizer=Optimizer(
                name="adamw", learning_rate=2e-3, warmup="5%", weight_decay=0.01, clip_norm=1.0
            ),
            ema_decay=0.999,
            evaluate_every="5 epochs",
            checkpoint_every="1 epoch",
            keep_checkpoints=5,
        )
    )
