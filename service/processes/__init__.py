"""Several processes on one machine: who starts them, what they are told, and what each of them does."""
