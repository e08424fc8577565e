"""Your own pairs of texts: a file with a tab between them, or two files whose lines correspond.

Files are UTF-8 with one text per line, and may end in `.gz`. A fiftieth of the lines is held out.
Tokens are word pieces that both sides share, trained on your texts.

Command:  make train CONFIG=experiments/sequence_to_sequence/my_texts.py WORKDIR=runs/mine \\
              ARGS="--config.task.source.train=PATH/train.tsv"
          and for two files
              ARGS="--config.task.source.train=PATH/train.en,PATH/train.de"
          Files of other splits are `--config.task.source.validation=...` and
          `--config.task.source.test=...`.
Hardware: not measured; depends on your texts
Time:     not measured
Score:    not measured; that of the same network on Multi30k is in `multi30k_transformer.py`
"""

from research.common.config import to_config_dict
from research.data.tokenizers import WordPieces
from research.tasks.sequence_to_sequence.data import ParallelText
from research.tasks.sequence_to_sequence.decoding import Decoding
from research.tasks.sequence_to_sequence.models import Transformer
from research.tasks.sequence_to_sequence.task import SequenceToSequence
from research.training.experiment import Experiment
from research.training.optimizer import Optimizer


def get_config():
    """Returns the experiment as a `ConfigDict`."""
    task = SequenceToSequence(
        source=ParallelText(train=("train.tsv",)),
        input_tokenizer=WordPieces(vocab_size=4000, byte_fallback=True),
        joint_vocabulary=True,
        model=Transformer(
            features=128,
            num_heads=4,
            feedforward_dim=256,
            num_encoder_layers=2,
            num_decoder_layers=2,
            dropout=0.1,
        ),
        decoding=Decoding(beam_size=5),
        label_smoothing=0.1,
        max_length=128,
        num_buckets=5,
    )
    return to_config_dict(
        Experiment(
            task=task,
            duration="20 epochs",
            batch_size=512,
            batch_length=4096,
            optimizer=Optimizer(
                name="adamw",
                learning_rate=3e-3,
                warmup="10%",
                weight_decay=0.01,
                weight_decay_mask=(("kernel$", True),),
                clip_norm=1.0,
                options={"b2": 0.98},
            ),
            ema_decay=0.99,
            evaluate_every="2 epochs",
            checkpoint_every="2 epochs",
        )
    )
