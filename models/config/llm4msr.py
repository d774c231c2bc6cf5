"""LLM4MSR's settings."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from models.config.sections import Section


class LLM4MSRConfig(Section):
    """LLM4MSR and, without either level, its plain multi-scenario backbone (arXiv:2406.12529).

    Every size here is a choice of this project: the paper's could not be had (sheet, section 0).
    """

    UNREAD: ClassVar[tuple[tuple[str, str], ...]] = (
        ("loss", "kind"),
        ("loss", "n_negatives"),
        ("loss", "negatives"),
        ("loss", "log_q"),
        ("loss", "positions"),
        ("loss", "mask_probability"),
        ("train", "teachers"),
    )
    SHUFFLES: ClassVar[frozenset[str]] = frozenset({"users"})

    kind: Literal["llm4msr"]
    backbone: Literal["shared-bottom", "mmoe", "ple", "star", "aitm", "pepnet"] = "star"
    embedding_size: Annotated[int, Field(ge=1, description="of an item, and of each of its attributes")] = 16
    min_item_events: Annotated[
        int,
        Field(ge=0, description="training events below which an item has its attributes alone, like a new one"),
    ] = 5
    width: Annotated[int, Field(ge=1, description="of a candidate's features, D: what meta layers are square in")] = 32
    max_seq_len: Annotated[int, Field(ge=1)] = 20
    dropout: Annotated[float, Field(ge=0, lt=1, description="of a candidate's features, before they are D wide")] = 0.2
    hidden_sizes: Annotated[
        tuple[int, ...],
        Field(min_length=1, description="star: its network; pepnet: a tower; shared-bottom: the first is the bottom"),
    ] = (64, 32)
    tower_size: Annotated[int, Field(ge=1, description="of a tower, but pepnet's; star: of the auxiliary network")] = 16
    expert_size: Annotated[int, Field(ge=1, description="mmoe, ple; aitm: of a scenario's bottom")] = 32
    n_experts: Annotated[int, Field(ge=1, description="mmoe")] = 4
    n_levels: Annotated[int, Field(ge=1, description="ple")] = 1
    n_specific: Annotated[int, Field(ge=1, description="ple: experts of each scenario")] = 2
    n_shared: Annotated[int, Field(ge=1, description="ple: experts for all scenarios")] = 2

    user_level: Annotated[bool, Field(description="meta layers of a user, below the backbone")] = True
    scenario_level: Annotated[bool, Field(description="meta layers of a scenario, beside the backbone")] = True
    z_size: Annotated[int, Field(ge=1, description="bottleneck of the meta networks")] = 32
    n_user_layers: Annotated[int, Field(ge=1)] = 1
    n_scenario_layers: Annotated[int, Field(ge=1, description="the last one gives the logit")] = 2
    vectors: Annotated[
        Literal["told", "random"], Field(description="random, a control: noise for the same users and scenarios")
    ] = "told"
    predicted_share: Annotated[
        float, Field(ge=0, le=1, description="of training requests of told users that read the predicted z instead")
    ] = 0.5
    default_share: Annotated[float, Field(ge=0, lt=1, description="of training requests that read the default z")] = 0.1
    match_weight: Annotated[float, Field(ge=0, description="of predicting z from behaviour")] = 0.1

    n_negatives: Annotated[
        int, Field(ge=1, description="for each event of an epoch, where the data set has no impressions")
    ] = 9
    n_unshown_negatives: Annotated[
        int,
        Field(
            ge=0, description="for each moment of an epoch, beside what it showed, where the data set has impressions"
        ),
    ] = 0
    n_test_negatives: Annotated[
        int,
        Field(ge=1, description="beside each held-out event, drawn once; as many as in training for a true logloss"),
    ] = 9
    negatives_seed: Annotated[int, Field(ge=0, description="of those")] = 11

    @property
    def needs_knowledge(self) -> bool:
        return self.user_level or self.scenario_level
