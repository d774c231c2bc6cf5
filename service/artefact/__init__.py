"""The artefact directory: its manifest, and how it is opened and checked."""
