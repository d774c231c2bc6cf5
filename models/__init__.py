"""The offline half: datasets, LLM knowledge, training and evaluation."""
