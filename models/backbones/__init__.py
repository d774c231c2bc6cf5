"""Sequence encoders that a model composes: vectors of a history in, one state per position out.

Every encoder keeps `models.backbones.interface.Backbone`; `models.backbones.build` makes the one a configuration names.
"""
