"""How a ranker is judged: AUC, GAUC and Logloss of held-out moments, per scenario and by what the LLM told.

scores.npz     the logit of every candidate of every test moment, by each choice of z; its moment, user, scenario and
               label, and the groups that each moment is in
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from models.contracts import Tested
from models.errors import RunError
from models.evaluation_page import Plot
from models.llm4msr import LLM4MSR, ZChoice
from models.progress import bar
from models.ranker_examples import RankingData, Requests
from models.ranker_metrics import auc, gauc, grouped_auc, logloss

CRITERION: Final = "auc"
HEADLINE: Final = ("auc", "gauc")
SCORES: Final = "scores.npz"
CHOICES: Final[tuple[ZChoice, ...]] = ("true", "predicted", "default")
_BATCH: Final = 512


class RankerExam:
    """Test moments scored; `criterion` is the mean of the scenarios' AUC.

    Args:
        told: bool (n_users,), whom the LLM told of; None where nobody says.
    """

    def __init__(self, data: RankingData, split: str, told: NDArray[np.bool_] | None) -> None:
        self.data, self.split, self.told = data, split, told

    @property
    def criterion(self) -> str:
        return CRITERION

    def validate(self, model: nn.Module) -> dict[str, float]:
        assert isinstance(model, LLM4MSR)
        entries = _Entries(self.data.valid, score_requests(model, self.data.valid, "true"))
        everyone = np.ones(len(self.data.valid), dtype=bool)
        return {name: value for name, value in self._figures(entries, everyone).items() if name != "n"}

    def test(self, model: nn.Module, folder: Path, console: Console, n_negatives: int, negatives_seed: int) -> Tested:
        """
        Raises:
            RunError: negatives are asked for.
        """
        if n_negatives:
            raise RunError("a ranker is judged on candidates that were shown or drawn; it takes no --negatives")
        assert isinstance(model, LLM4MSR)
        requests, groups = self.data.test, self._groups(self.data.test)
        choices = CHOICES if model.user_level is not None else CHOICES[:1]
        found: dict[str, _Entries] = {}
        with bar(console) as progress:
            for choice in progress.track(choices, description="scoring test moments"):
                found[choice] = _Entries(requests, score_requests(model, requests, choice))
        report: dict[str, Any] = {
            "policy": {"protocol": "candidates of held-out moments", "split": self.split, **self.data.policy},
            "criterion": CRITERION,
            "headline": list(HEADLINE),
            "groups": {
                "overall": "auc is the mean of the scenarios'; gauc weighs each user of each scenario by candidates",
                "told": "users with a vector of the LLM",
                "n_told": None if self.told is None else int(self.told.sum()),
                "n": "moments",
            },
            "test": {name: self._figures(found["true"], member) for name, member in groups.items()},
            "z": {
                choice: {name: self._figures(entries, member) for name, member in groups.items()}
                for choice, entries in found.items()
            },
        }
        first = found["true"]
        arrays: dict[str, NDArray[Any]] = {f"score:{choice}": entries.scores for choice, entries in found.items()}
        arrays |= {f"group:{name}": member for name, member in groups.items()}
        np.savez_compressed(
            folder / SCORES,
            moment=first.moments,
            user=first.users,
            scenario=first.scenarios,
            label=first.labels,
            **arrays,  # type: ignore[arg-type]  # numpy types **kwds as allow_pickle
        )
        return Tested(report, [_plot(first, requests)])

    def _groups(self, requests: Requests) -> dict[str, NDArray[np.bool_]]:
        """Moments by group: everyone, whom the LLM told of or not, and each of these in each scenario."""
        slices = {"overall": np.ones(len(requests), dtype=bool)}
        if self.told is not None:
            told = self.told[requests.user_index]
            slices |= {"told": told, "untold": ~told}
        return {
            **slices,
            **{
                (scenario if name == "overall" else f"{name}:{scenario}"): member & (requests.scenario_index == place)
                for name, member in slices.items()
                for place, scenario in enumerate(self.data.scenario_names)
            },
        }

    def _figures(self, entries: _Entries, member: NDArray[np.bool_]) -> dict[str, float]:
        here = member[entries.moments]
        scores, labels, scenarios = entries.scores[here], entries.labels[here], entries.scenarios[here]
        found = [auc(scores[scenarios == s], labels[scenarios == s]) for s in np.unique(scenarios).tolist()]
        known = [value for value in found if not np.isnan(value)]
        pairs = entries.users[here] * len(self.data.scenario_names) + scenarios
        return {
            "n": int(member.sum()),
            "auc": float(np.mean(known)) if known else float("nan"),
            "gauc": gauc(scores, labels, pairs),
            "logloss": logloss(scores, labels),
        }


class _Entries:
    """Filled slots of moments, one after another."""

    def __init__(self, requests: Requests, scores: NDArray[np.float32]) -> None:
        self.moments, slots = np.nonzero(requests.candidates)
        self.scores, self.labels = scores[self.moments, slots], requests.labels[self.moments, slots]
        self.users, self.scenarios = requests.user_index[self.moments], requests.scenario_index[self.moments]


def score_requests(model: LLM4MSR, requests: Requests, choice: ZChoice) -> NDArray[np.float32]:
    """Logits float32 (n, C) of the moments; the model is in eval mode."""
    device = next(model.parameters()).device
    parts = []
    with torch.no_grad():
        for start in range(0, len(requests), _BATCH):
            here = slice(start, start + _BATCH)
            columns = (requests.item_seq, requests.seq_len, requests.scenario_index, requests.candidates)
            tensors = [torch.as_tensor(column[here], device=device) for column in (*columns, requests.user_index)]
            parts.append(model(*tensors, choice=choice).cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros(requests.candidates.shape, np.float32)


def _plot(entries: _Entries, requests: Requests) -> Plot:
    """Where the ranker is good: AUC within a moment by length of the history."""
    moments, values, _ = grouped_auc(entries.scores, entries.labels, entries.moments)
    return Plot(
        "AUC within a moment by length of the history it is ranked by",
        "events read",
        "AUC",
        requests.seq_len[moments],
        values,
        [0, 1, 3, 6, 10, 20],
    )
