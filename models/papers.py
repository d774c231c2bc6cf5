"""The papers that a run's `[model] kind` may name."""

from __future__ import annotations

from typing import Final

from models.contracts import Paper
from models.eimf_training import EIMFPaper
from models.llm4msr_training import LLM4MSRPaper
from models.llm4sbr_training import LLM4SBRPaper
from models.llm_esr_training import LLMESRPaper
from models.sessions.neighbours_run import NeighboursPaper
from models.sessions.training import SessionPaper

PAPERS: Final[dict[str, Paper]] = {
    "llm-esr": LLMESRPaper(),
    "eimf": EIMFPaper(),
    "session": SessionPaper(),
    "llm4msr": LLM4MSRPaper(),
    "llm4sbr": LLM4SBRPaper(),
    "neighbours": NeighboursPaper(),
}
