"""Multi30k, English to German captions: a small Transformer over joint word pieces.

The raw text files `train`, `val` and `test_2016_flickr` of https://github.com/multi30k/dataset are
expected in a folder `multi30k`. The recipe is that of the "tiny" Transformer of Wu et al. (2021),
"Good for Misconceived Reasons".

Command:  make train CONFIG=experiments/sequence_to_sequence/multi30k_transformer.py
Hardware: intended for one GPU
Time:     not measured
Score:    not measured

Scaled down, on 2 cores of a shared x86-64 server, 11 min 51 s for the whole command:

Command:  ... ARGS='"--config.duration=8 epochs" --config.task.input_tokenizer.vocab_size=4000
          --config.task.model.num_encoder_layers=2 --config.task.model.num_decoder_layers=2
          --config.task.model.dropout=0.1 --config.task.num_buckets=5 --config.batch_length=4096
          --config.optimizer.learning_rate=3e-3 "--config.evaluate_every=2 epochs"'
Score:    BLEU of validation 22.5, 27.7, 30.4 and 31.2 after 2, 4, 6 and 8 epochs; of the test 32.0
          cased (nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0), 32.3 lowercased
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
        source=ParallelText(
            train=("multi30k/train.en.gz", "multi30k/train.de.gz"),
            validation=("multi30k/val.en.gz", "multi30k/val.de.gz"),
            test=("multi30k/test_2016_flickr.en.gz", "multi30k/test_2016_flickr.de.gz"),
        ),
        input_tokenizer=WordPieces(vocab_size=8000, byte_fallback=True),
        joint_vocabulary=True,
        model=Transformer(
            features=128,
            num_heads=4,
            feedforward_dim=256,
            num_encoder_layers=4,
            num_decoder_layers=4,
            dropout=0.3,
        ),
        decoding=Decoding(beam_size=5),
        label_smoothing=0.1,
        max_length=80,
        num_buckets=12,
    )
    return to_config_dict(
        Experiment(
            task=task,
            duration="100 epochs",
            batch_size=512,
            batch_length=8192,
            optimizer=Optimizer(
                name="adamw",
                learning_rate=5e-3,
                warmup="10%",
                weight_decay=0.01,
                weight_decay_mask=(("kernel$", True),),
                clip_norm=1.0,
                options={"b2": 0.98},
            ),
            ema_decay=0.999,
            evaluate_every="10 epochs",
            checkpoint_every="1 epoch",
            keep_checkpoints=5,
        )
    )
