from research.tasks.sequence_to_sequence.decoding.beam_search import EOS, Hypotheses, beam_search
from research.tasks.sequence_to_sequence.decoding.config import Decoding

__all__ = ["EOS", "Decoding", "Hypotheses", "beam_search"]
