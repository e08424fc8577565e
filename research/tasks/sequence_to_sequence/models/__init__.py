from research.tasks.sequence_to_sequence.models.attention_lstm import AttentionLSTM
from research.tasks.sequence_to_sequence.models.protocol import Pairs, SequenceToSequenceModel
from research.tasks.sequence_to_sequence.models.transformer import Transformer

__all__ = ["AttentionLSTM", "Pairs", "SequenceToSequenceModel", "Transformer"]
