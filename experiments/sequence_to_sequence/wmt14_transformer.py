"""WMT 2014, English to German: the base Transformer on packed rows, over a slice of 8 chips.

The base model of Vaswani et al. (2017) in pre-norm form. The rules of the mesh shard heads and
feed-forward layers over the tensor axis, for example with `ARGS="--config.mesh.tensor=2"`.

Command:  make dataset NAME=wmt14_translate/de-en
          make train CONFIG=experiments/sequence_to_sequence/wmt14_transformer.py
Hardware: intended for 8 TPU chips or 8 GPUs
Time:     not measured
Score:    not measured
"""

from research.common.config import to_config_dict
from research.data.tokenizers import WordPieces
from research.hardware.mesh import MeshConfig
from research.layers.transformer import TENSOR_RULES
from research.tasks.sequence_to_sequence.data import TranslationTFDS
from research.tasks.sequence_to_sequence.decoding import Decoding
from research.tasks.sequence_to_sequence.models import Transformer
from research.tasks.sequence_to_sequence.task import SequenceToSequence
from research.training.experiment import Experiment
from research.training.optimizer import Optimizer


def get_config():
    """Returns the experiment as a `ConfigDict`."""
    task = SequenceToSequence(
        source=TranslationTFDS(
            name="wmt14_translate/de-en", source_language="en", target_language="de"
        ),
        input_tokenizer=WordPieces(vocab_size=32000, byte_fallback=True),
        joint_vocabulary=True,
        model=Transformer(
            features=512,
            num_heads=8,
            feedforward_dim=2048,
            num_encoder_layers=6,
            num_decoder_layers=6,
            dropout=0.1,
        ),
        decoding=Decoding(beam_size=4),
        label_smoothing=0.1,
        max_length=256,
        packed_length=256,
        dtype="bfloat16",
    )
    return to_config_dict(
        Experiment(
            task=task,
            duration="100_000 steps",
            batch_size=256,
            optimizer=Optimizer(
                name="adamw",
                learning_rate=1e-3,
                warmup="4_000 steps",
                weight_decay=0.01,
                clip_norm=1.0,
                options={"b2": 0.98},
            ),
            mesh=MeshConfig(rules=(*TENSOR_RULES, (".*", "fsdp"))),
            log_every="100 steps",
            evaluate_every="5_000 steps",
            checkpoint_every="5_000 steps",
            keep_checkpoints=5,
        )
    )
