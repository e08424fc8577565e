"""Networks that output class log-probabilities for CTC."""

from research.tasks.speech_recognition.models.lstm_encoder import LSTMEncoder

__all__ = ["LSTMEncoder"]
