"""Retrievers of anonymous sessions: one interface, plain encoders behind it, and the prefixes they are trained on."""
