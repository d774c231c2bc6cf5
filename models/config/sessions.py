"""Settings of session retrievers, and of what they must beat."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from models.config.sections import Section


class SessionEncoderConfig(Section):
    """What reads a session: the part that plain session retrievers and taught ones share."""

    encoder: Literal["sr-gnn", "gru4rec", "sasrec", "stamp", "gce-gnn"] = "sr-gnn"
    hidden_size: Annotated[int, Field(ge=2)] = 100
    max_seq_len: Annotated[int, Field(ge=1)] = 50
    n_layers: Annotated[int, Field(ge=1, description="graph steps of sr-gnn, layers of gru4rec, blocks of sasrec")] = 1
    n_heads: Annotated[int, Field(ge=1, description="of sasrec")] = 1
    dropout: Annotated[float, Field(ge=0, lt=1, description="of gru4rec, sasrec and gce-gnn's global part")] = 0.0
    attention: Annotated[
        Literal["sum", "softmax"], Field(description="of sr-gnn: weights as published, or made to sum to one")
    ] = "sum"
    n_neighbours: Annotated[int, Field(ge=1, description="of gce-gnn: items near an item in all sessions")] = 12

    @model_validator(mode="after")
    def _encoder_reads_it(self) -> Self:
        owners = {
            "n_layers": ("sr-gnn", "gru4rec", "sasrec"),
            "n_heads": ("sasrec",),
            "dropout": ("gru4rec", "sasrec", "gce-gnn"),
            "attention": ("sr-gnn",),
            "n_neighbours": ("gce-gnn",),
        }
        for name, encoders in owners.items():
            if self.encoder not in encoders and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is of {', '.join(encoders)}, {self.encoder} does not read it")
        if self.hidden_size % self.n_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of n_heads {self.n_heads}")
        return self


class SessionConfig(SessionEncoderConfig):
    """A plain session retriever: an encoder and the readout of its paper. Trained on every prefix of every session."""

    UNREAD: ClassVar[tuple[tuple[str, str], ...]] = (
        ("loss", "positions"),
        ("loss", "mask_probability"),
        ("train", "teachers"),
    )
    SHUFFLES: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["session"]

    @property
    def needs_knowledge(self) -> bool:
        return False


class NeighboursConfig(Section):
    """A baseline without training: what was clicked in the same sessions. [loss] and [train] say nothing to it."""

    UNREAD: ClassVar[tuple[tuple[str, str], ...]] = ()  # so that a study can lay it beside trained models
    SHUFFLES: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["neighbours"]
    method: Annotated[
        Literal["items", "sessions"], Field(description="items: like the newest click; sessions: VMIS-kNN")
    ] = "sessions"
    max_seq_len: Annotated[int, Field(ge=1, description="of sessions: newest clicks that count")] = 3
    n_recent: Annotated[int, Field(ge=1, description="of sessions: newest that share a click, m of the paper")] = 500
    n_neighbours: Annotated[int, Field(ge=1, description="of sessions: nearest among them, k of the paper")] = 100

    @property
    def needs_knowledge(self) -> bool:
        return False
