"""Decoding of CTC log-probabilities."""

from research.tasks.speech_recognition.decoding.beam_search import prefix_beam_search
from research.tasks.speech_recognition.decoding.decoder import Decoding
from research.tasks.speech_recognition.decoding.greedy import Hypothesis, greedy_search

__all__ = ["Decoding", "Hypothesis", "greedy_search", "prefix_beam_search"]
