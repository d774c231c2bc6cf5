"""LLM4SBR's settings."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from models.config.sessions import SessionConfig, SessionEncoderConfig


class LLM4SBRConfig(SessionEncoderConfig):
    """LLM4SBR and, without intents, gates and `au_weight`, its plain session encoder (arXiv:2402.13840).

    Served from behaviour alone; `intents` says what stands in for the language model's answers there.
    """

    UNREAD: ClassVar[tuple[tuple[str, str], ...]] = SessionConfig.UNREAD
    SHUFFLES: ClassVar[frozenset[str]] = frozenset({"intents"})

    kind: Literal["llm4sbr"]
    intents: Annotated[
        Literal["distilled", "localised", "stand_in", "none"],
        Field(
            description="distilled: heads that learnt the answers; localised: texts of the clicked items, weighed; "
            "stand_in: the session's own view at an intent's length"
        ),
    ] = "distilled"
    views: Annotated[
        tuple[Literal["long", "short"], ...], Field(description="views that an intent is aligned with and gates")
    ] = ("long", "short")
    gates: Annotated[bool, Field(description="scale each view by how it agrees with its intent")] = True
    au_weight: Annotated[float, Field(ge=0, description="tau: alignment and uniformity of views and intents")] = 0.1
    au_views: Annotated[
        Literal["mean", "sum"], Field(description="of the two views' losses: as in the paper, or as in its code")
    ] = "mean"
    intent_dropout: Annotated[
        float, Field(ge=0, le=1, description="share of answered clicks whose gates read no answer in training")
    ] = 0.5
    distillation_weight: Annotated[float, Field(ge=0, description="of learning the answers; 0 switches it off")] = 1.0
    answered_batch: Annotated[int, Field(ge=2, description="answered prefixes that a step learns from")] = 64
    answers: Annotated[
        int | None, Field(ge=2, description="answered training prefixes to learn from, drawn by answers_seed; all")
    ] = None
    answers_seed: Annotated[
        int, Field(ge=0, description="of the division of answered users into training, validation and held back")
    ] = 2402

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.views or len(set(self.views)) != len(self.views):
            raise ValueError("views: expected one or both of 'long' and 'short', each once")
        if self.encoder == "gce-gnn":
            raise ValueError("encoder gce-gnn reads all training sessions, llm4sbr composes encoders of one session")
        if self.gates and self.intents == "none":
            raise ValueError("gates read intents: expected gates = false where intents is 'none'")
        return self

    @property
    def needs_knowledge(self) -> bool:
        """Always: it says which sessions are held back, of the plain encoder too."""
        return True

    @property
    def is_taught(self) -> bool:
        """Whether anything is learnt from answers."""
        return self.au_weight > 0 or self.learns_intents

    @property
    def learns_intents(self) -> bool:
        return self.intents in ("distilled", "localised") and self.distillation_weight > 0
