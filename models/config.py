"""One TOML file describes one training run; these frozen models are what it may say."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from models.errors import ConfigError

View = Literal["collaborative", "semantic"]
Shuffled = Literal["items", "users", "exemplars", "interests", "titles", "intents"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Section):
    """Where the run reads. `$NAME` in a path is replaced from the environment."""

    dataset: Path
    split: str = "leave_one_out"
    knowledge: Path | None = None
    shuffle_knowledge: Annotated[
        tuple[Shuffled, ...],
        Field(description="a control: whose texts are dealt out anew, so that they say nothing of who has them"),
    ] = ()
    shuffle_seed: Annotated[int, Field(ge=0)] = 0


class LLMESRConfig(_Section):
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


class EIMFConfig(_Section):
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


class SessionEncoderConfig(_Section):
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


class LLM4MSRConfig(_Section):
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
    n_test_negatives: Annotated[
        int,
        Field(ge=1, description="beside each held-out event, drawn once; as many as in training for a true logloss"),
    ] = 9
    negatives_seed: Annotated[int, Field(ge=0, description="of those")] = 11

    @property
    def needs_knowledge(self) -> bool:
        return self.user_level or self.scenario_level


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


class NeighboursConfig(_Section):
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


def _kind_of(section: Any) -> Any:
    """A section without a kind is LLM-ESR's, the first there was."""
    return section.get("kind", "llm-esr") if isinstance(section, dict) else getattr(section, "kind", None)


KINDS = ("llm-esr", "eimf", "session", "llm4msr", "llm4sbr", "neighbours")
AnyModelConfig = Annotated[
    Annotated[LLMESRConfig, Tag("llm-esr")]
    | Annotated[EIMFConfig, Tag("eimf")]
    | Annotated[SessionConfig, Tag("session")]
    | Annotated[LLM4MSRConfig, Tag("llm4msr")]
    | Annotated[LLM4SBRConfig, Tag("llm4sbr")]
    | Annotated[NeighboursConfig, Tag("neighbours")],
    Discriminator(
        _kind_of,
        custom_error_type="unknown_kind",
        custom_error_message=f"kind is unknown, expected one of {', '.join(KINDS)}",
    ),
]


class LossConfig(_Section):
    """What a position is taught: its next item against others."""

    kind: Literal["bce", "sampled_softmax", "full_softmax"] = "sampled_softmax"
    n_negatives: Annotated[
        int, Field(ge=1, description="bce: per position; sampled_softmax: shared by the positions of a batch")
    ] = 512
    negatives: Annotated[
        Literal["uniform", "popular"], Field(description="of sampled_softmax: evenly, or by training interactions")
    ] = "uniform"
    log_q: Annotated[
        bool, Field(description="sampled_softmax: count each negative for the items it stands for (logQ correction)")
    ] = False
    positions: Annotated[
        Literal["all", "last"], Field(description="which positions of a history are taught; bert4rec masks its own")
    ] = "all"
    mask_probability: Annotated[float, Field(gt=0, lt=1, description="of bert4rec: share of items masked")] = 0.6


class TrainConfig(_Section):
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    batch_size: Annotated[int, Field(ge=1, description="users per step")] = 256
    weight_decay: Annotated[float, Field(ge=0, description="L2 of every parameter, as part of Adam's gradient")] = 0.0
    decay_every: Annotated[
        int, Field(ge=0, description="epochs after which the learning rate falls to a tenth, again and again; 0: never")
    ] = 0
    max_epochs: Annotated[int, Field(ge=1)] = 200
    patience: Annotated[
        int, Field(ge=1, description="epochs without a better validation, by the criterion of the paper")
    ] = 10
    teachers: Annotated[
        Literal["step", "epoch"], Field(description="encode the teachers anew in each step, or all once an epoch")
    ] = "step"
    device: Literal["auto", "cpu", "cuda"] = "auto"


class RunConfig(_Section):
    """The whole of a run's TOML."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    seed: Annotated[int, Field(ge=0)] = 42
    data: DataConfig
    model: AnyModelConfig = LLMESRConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _knowledge_is_named(self) -> Self:
        if self.model.needs_knowledge and self.data.knowledge is None:
            raise ValueError("data.knowledge is missing, the model of this run is built on LLM knowledge")
        return self

    @model_validator(mode="after")
    def _every_setting_is_read(self) -> Self:
        kind = self.model.kind
        for section, name in self.model.UNREAD:
            part = getattr(self, section)
            if getattr(part, name) != type(part).model_fields[name].default:
                raise ValueError(f"{section}.{name} says nothing to {kind}, leave it out")
        if (
            isinstance(self.model, EIMFConfig)
            and self.model.mines_negatives
            and (self.loss.kind != "sampled_softmax" or self.loss.log_q)
        ):
            raise ValueError(
                "model.hard_negatives weighs the negatives of sampled_softmax without log_q; "
                f"found {self.loss.kind}{' with log_q' if self.loss.log_q else ''}, or set it to 0"
            )
        if isinstance(self.model, SessionConfig | LLM4SBRConfig) and self.loss.kind == "bce":
            raise ValueError(f"loss.kind bce is not for {kind}, expected full_softmax or sampled_softmax")
        if foreign := sorted(set(self.data.shuffle_knowledge) - self.model.SHUFFLES):
            raise ValueError(f"data.shuffle_knowledge: {kind} has no texts of {', '.join(foreign)} to deal out anew")
        return self


def expand(text: str) -> str:
    """`text` with each `$NAME` replaced from the environment.

    Raises:
        ConfigError: a name is not set.
    """

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise ConfigError(f"the environment variable {name} is not set, {text!r} needs it")
        return os.environ[name]

    return re.sub(r"\$([A-Z][A-Z0-9_]*)", value, text)


def read_config(path: Path) -> RunConfig:
    """The run described by the TOML file `path`; relative paths in it start at the working directory.

    Raises:
        ConfigError: the file cannot be read, or a key is unknown, missing or out of range.
    """
    return parse_config(resolve_paths(read_toml(path)), str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The document in the TOML file `path`; `ConfigError` if it cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML ({error})") from error


def resolve_paths(raw: dict[str, Any]) -> dict[str, Any]:
    """`raw` with each `$NAME` in the paths of its [data] section replaced from the environment."""
    data = raw.get("data")
    if not isinstance(data, dict):
        return raw
    paths = {key: expand(data[key]) for key in ("dataset", "knowledge") if isinstance(data.get(key), str)}
    return {**raw, "data": {**data, **paths}}


def parse_config(raw: object, origin: str) -> RunConfig:
    """`raw` as a `RunConfig`; a `ConfigError` names `origin` and every key that does not fit."""
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        # The kind that a section was read as stands in pydantic's path, and in no file.
        places = ((".".join(str(at) for at in e["loc"] if at not in KINDS), e["msg"]) for e in error.errors())
        faults = [f"  {place or 'run'}: {message}" for place, message in places]
        raise ConfigError(f"{origin}: the run's configuration does not fit\n" + "\n".join(faults)) from None
