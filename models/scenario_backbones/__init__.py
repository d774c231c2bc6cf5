"""Backbones that rank for several scenarios at once, behind one interface."""
