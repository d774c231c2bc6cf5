"""Sequence encoders that a model composes: vectors of a history in, one state per position out."""
