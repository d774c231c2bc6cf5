"""Every text this project puts before a language model, one module per paper, each versioned by its digest."""

from __future__ import annotations

from typing import Final

from models.knowledge.prompts import eimf, llm4msr, llm4sbr, llm_esr
from models.knowledge.prompts.llm_esr import ITEM_PROMPT, USER_PROMPT, item_prompts, used_columns, user_prompts
from models.knowledge.prompts.template import Options, Paper, PromptTemplate, Question, texts_digest

__all__ = [
    "ITEM_PROMPT",
    "PAPERS",
    "USER_PROMPT",
    "Options",
    "Paper",
    "PromptTemplate",
    "Question",
    "item_prompts",
    "texts_digest",
    "used_columns",
    "user_prompts",
]

PAPERS: Final[dict[str, Paper]] = {
    paper.name: paper for paper in (llm_esr.PAPER, eimf.PAPER, llm4sbr.PAPER, llm4msr.PAPER)
}
