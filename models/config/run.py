"""One TOML file describes one training run; these frozen models are what it may say."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from models.config.eimf import EIMFConfig
from models.config.llm4msr import LLM4MSRConfig
from models.config.llm4sbr import LLM4SBRConfig
from models.config.llm_esr import LLMESRConfig
from models.config.sections import DataConfig, LossConfig, Section, TrainConfig
from models.config.sessions import NeighboursConfig, SessionConfig
from models.errors import ConfigError


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


class RunConfig(Section):
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
