"""LLM-ESR's settings."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from models.config.sections import Section

View = Literal["collaborative", "semantic"]


class LLMESRConfig(Section):
    """LLM-ESR and, with one view and no distillation, the plain backbone: the same parts (arXiv:2405.20646)."""

    UNREAD: ClassVar[tuple[tuple[str, str], ...]] = ()  # settings of other sections that this model does not read
    SHUFFLES: ClassVar[frozenset[str]] = frozenset({"items", "users"})

    kind: Literal["llm-esr"] = "llm-esr"
    backbone: Literal["sasrec", "gru4rec", "bert4rec"] = "sasrec"
    views: tuple[View, ...] = ("collaborative", "semantic")
    hidden_size: Annotated[int, Field(ge=2, description="width of one view")] = 64
    max_seq_len: Annotated[int, Field(ge=1)] = 50
    n_blocks: Annotated[int, Field(ge=1, description="transformer blocks, or layers of a GRU")] = 2
    n_heads: Annotated[int, Field(ge=1)] = 1
    block: Annotated[
        Literal["published", "pre_norm", "ligr"], Field(description="transformer block; a GRU has none")
    ] = "published"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    mode: Annotated[
        Literal["clean", "reference"],
        Field(description="clean: causal, padding changes nothing; reference: no masks, as published"),
    ] = "clean"
    cross_attention: bool = True
    share_backbone: Annotated[bool, Field(description="one encoder for both views, as published")] = True
    adapter_layers: Annotated[Literal[1, 2], Field(description="linear layers of the semantic view's adapter")] = 2
    collaborative_init: Annotated[
        Literal["pca", "random"], Field(description="pca: principal components of the LLM item vectors")
    ] = "pca"
    distillation_weight: Annotated[float, Field(ge=0, description="alpha of the paper; 0 switches it off")] = 0.1
    n_teachers: Annotated[int, Field(ge=1, description="similar users per student, N of the paper")] = 10

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.views or len(set(self.views)) != len(self.views):
            raise ValueError("views: expected one or both of 'collaborative' and 'semantic', each once")
        if self.hidden_size % self.n_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of n_heads {self.n_heads}")
        return self

    @property
    def needs_knowledge(self) -> bool:
        return (
            "semantic" in self.views
            or self.distillation_weight > 0
            or ("collaborative" in self.views and self.collaborative_init == "pca")
        )

    @property
    def is_dual_view(self) -> bool:
        return len(self.views) == 2
