"""Features shared by training and serving."""

from service.features.sequence import Padding, SequenceFeatures, encode_sequences

__all__ = ["Padding", "SequenceFeatures", "encode_sequences"]
