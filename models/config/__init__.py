"""A run's configuration: `run` is the whole of it, the other modules are its sections, one for each paper's models."""

from models.config.eimf import EIMFConfig
from models.config.llm4msr import LLM4MSRConfig
from models.config.llm4sbr import LLM4SBRConfig
from models.config.llm_esr import LLMESRConfig
from models.config.run import RunConfig, parse_config, read_config, read_toml, resolve_paths
from models.config.sections import LossConfig, Shuffled, TrainConfig
from models.config.sessions import NeighboursConfig, SessionConfig, SessionEncoderConfig

__all__ = [
    "EIMFConfig",
    "LLM4MSRConfig",
    "LLM4SBRConfig",
    "LLMESRConfig",
    "LossConfig",
    "NeighboursConfig",
    "RunConfig",
    "SessionConfig",
    "SessionEncoderConfig",
    "Shuffled",
    "TrainConfig",
    "parse_config",
    "read_config",
    "read_toml",
    "resolve_paths",
]
