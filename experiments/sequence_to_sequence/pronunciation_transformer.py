"""English spelling to pronunciation by a Transformer: the full-length recipe for an accelerator.

The data and the split are those of `pronunciation.py`.

Command:  make train CONFIG=experiments/sequence_to_sequence/pronunciation_transformer.py
Hardware: intended for one GPU
Time:     not measured
Score:    not measured
"""

from research.common.config import to_config_dict
from research.data.tokenizers import Characters, Words
from research.tasks.sequence_to_sequence.data import Pronunciations
from research.tasks.sequence_to_sequence.decoding import Decoding
from research.tasks.sequence_to_sequence.models import Transformer
from research.tasks.sequence_to_sequence.task import SequenceToSequence
from research.training.experiment import Experiment
from research.training.optimizer import Optimizer


def get_config():
    """Returns the experiment as a `ConfigDict`."""
    task = SequenceToSequence(
        source=Pronunciations(),
        input_tokenizer=Characters(),
        output_tokenizer=Words(),
        model=Transformer(
            features=256,
            num_heads=4,
            feedforward_dim=1024,
            num_encoder_layers=4,
            num_decoder_layers=4,
            dropout=0.2,
        ),
        decoding=Decoding(beam_size=5),
        scoring="pronunciation",
        label_smoothing=0.1,
        max_length=40,
        num_buckets=8,
    )
    return to_config_dict(
        Experiment(
            task=task,
            duration="100 epochs",
            batch_size=512,
            optimizer=Optimizer(
                name="adamw", learning_rate=1e-3, warmup="5%", weight_decay=0.01, clip_norm=1.0
            ),
            ema_decay=0.999,
            evaluate_every="10 epochs",
            checkpoint_every="2 epochs",
            keep_checkpoints=5,
        )
    )
