"""Load, capacity, replay and fault tests of a running service, which is known here through HTTP alone."""
