"""EIMF's settings."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from models.config.sections import Section


class EIMFConfig(Section):
    """EIMF and, with both of ESIM's weights 0, its plain multi-interest retriever (arXiv:2411.09410)."""

    UNREAD: ClassVar[tuple[tuple[str, str], ...]] = (
        ("loss", "positions"),
        ("loss", "mask_probability"),
        ("train", "teachers"),
    )
    SHUFFLES: ClassVar[frozenset[str]] = frozenset({"exemplars", "interests", "titles"})

    kind: Literal["eimf"]
    retriever: Literal["comirec-sa", "comirec-dr", "mind", "remi"] = "remi"
    hidden_size: Annotated[int, Field(ge=2)] = 64
    n_interests: Annotated[int, Field(ge=1, description="query vectors of a history, K of the papers")] = 4
    max_seq_len: Annotated[int, Field(ge=1)] = 20
    first_target: Annotated[
        int, Field(ge=1, description="events before the earliest target of a sequence, where it has as many")
    ] = 4
    routing_rounds: Annotated[int, Field(ge=1, description="of the capsules of comirec-dr and mind")] = 3
    hard_negatives: Annotated[
        float, Field(ge=0, description="remi: beta, how much more a hard negative weighs; 0: all alike")
    ] = 1.0
    routing_weight: Annotated[
        float, Field(ge=0, description="remi: lambda, against interests that attend to one item alone")
    ] = 3.0
    semantic_prediction_weight: Annotated[
        float, Field(ge=0, description="ESIM: LLM interests name the next item; 0 switches it off")
    ] = 0.1
    alignment_weight: Annotated[
        float, Field(ge=0, description="ESIM: queries near LLM interests, items near titles; 0 switches it off")
    ] = 0.1
    text_size: Annotated[int, Field(ge=2, description="ESIM: width that texts are projected to")] = 100

    @model_validator(mode="after")
    def _is_read(self) -> Self:
        for name, owners in (
            ("routing_rounds", ("comirec-dr", "mind")),
            ("hard_negatives", ("remi",)),
            ("routing_weight", ("remi",)),
        ):
            if self.retriever not in owners and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is of {' and '.join(owners)} alone, {self.retriever} does not read it")
        return self

    @property
    def needs_knowledge(self) -> bool:
        return self.semantic_prediction_weight > 0 or self.alignment_weight > 0

    @property
    def mines_negatives(self) -> bool:
        return self.retriever == "remi" and self.hard_negatives > 0
