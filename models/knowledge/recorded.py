"""The encoder that knowledge was built with, opened again for texts that came later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from models.errors import KnowledgeError
from models.knowledge.answers_folder import answers_provenance
from models.knowledge.embeddings import AnsweredEncoder
from models.knowledge.encoders import HashEncoder, TextEncoder
from models.knowledge.hidden_options import digest_of_states
from models.knowledge.minilm import MiniLM

# What `knowledge build --encoder` opens without being told more, by the name it records.
LOCAL: dict[str, Callable[[], TextEncoder]] = {MiniLM.name: MiniLM, HashEncoder.name: HashEncoder}


def open_recorded(provenance: Mapping[str, Any], answers: Path | None = None) -> TextEncoder:
    """The encoder that made the knowledge described by `provenance` (a knowledge.json).

    Args:
        answers: folder of ingested vectors of the new texts, for knowledge whose vectors came from an endpoint.

    Raises:
        KnowledgeError: the encoder here is another one, or it is not on this machine and no `answers` were given.
    """
    recorded = provenance["encoder"]
    if answers is not None:
        return _answered(recorded, answers)
    if recorded["name"] not in LOCAL:
        raise KnowledgeError(
            f"the knowledge was built with encoder '{recorded['name']}', which is not on this machine; embed the new "
            "texts with the same model, ingest the vectors and name their folder with --answers"
        )
    encoder = LOCAL[recorded["name"]]()
    if encoder.digest != recorded["digest"]:
        raise KnowledgeError(
            f"encoder '{encoder.name}' has digest {encoder.digest[:12]}, the knowledge was built with "
            f"{recorded['digest'][:12]}: its vectors would mean something else to the adapter"
        )
    return encoder


def _answered(recorded: Mapping[str, Any], folder: Path) -> TextEncoder:
    answered = AnsweredEncoder(folder)
    states = answers_provenance(folder).get("hidden_states")
    if states is not None:
        if digest_of_states(states) != recorded["digest"]:
            raise KnowledgeError(
                f"{folder}: hidden states of another model or with other options than the knowledge, which has "
                f"{recorded['name']}"
            )
    # An endpoint's digest is of the vectors themselves, so that of new texts is another: the model is what counts.
    elif (answered.name, answered.dim) != (recorded["name"], recorded["dim"]):
        raise KnowledgeError(
            f"{folder}: vectors of {answered.name}, {answered.dim} dimensions; the knowledge was built with "
            f"{recorded['name']}, {recorded['dim']} dimensions"
        )
    return answered
