"""The run folder: resolved config, best weights, per-epoch metrics, evaluation report; and the way back from it.

config.toml      the resolved configuration
weights.safetensors   the best epoch's trainable parameters
metrics.jsonl    one line an epoch
checkpoint.pt    the last finished epoch, to resume from; gone once the run is finished
run.json         written last: best epoch and its validation metric, dataset, knowledge
evaluation.json, evaluation.html, predictions.parquet    by `python -m models evaluate`
"""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import tomli_w
import torch
from torch import nn

from models.config import RunConfig, parse_config
from models.data.dataset import Dataset, read_dataset
from models.data.splits import SPLITS, Split
from models.errors import ConfigError, RunError
from models.inputs import Inputs
from models.papers import PAPERS

CONFIG, WEIGHTS, METRICS, CHECKPOINT, SUMMARY = (
    "config.toml",
    "weights.safetensors",
    "metrics.jsonl",
    "checkpoint.pt",
    "run.json",
)


@dataclass(frozen=True)
class Run:
    """A finished run, its model in eval mode on the CPU."""

    path: Path
    config: dict[str, Any]
    model: Any  # of the paper's own class; a `RetrieverModel` where the paper's is one
    dataset: Dataset
    split: Split
    evaluation: dict[str, Any] | None
    knowledge: dict[str, Any] | None


def load_inputs(config: RunConfig) -> Inputs:
    """Dataset, split and (where the model needs it) knowledge of a run.

    Raises:
        DatasetError, KnowledgeError, ConfigError: whichever part is missing or does not fit.
    """
    if config.data.split not in SPLITS:
        raise ConfigError(f"data.split is {config.data.split!r}, expected one of {sorted(SPLITS)}")
    dataset = read_dataset(config.data.dataset)
    knowledge = PAPERS[config.model.kind].read_knowledge(config, dataset)
    return Inputs(dataset, SPLITS[config.data.split](dataset), knowledge)


def build_model(config: RunConfig, inputs: Inputs) -> Any:
    """A freshly initialised model of the run's paper; the caller seeds torch."""
    return PAPERS[config.model.kind].build_model(config, inputs)


def check_config(folder: Path, config: RunConfig) -> None:
    """`RunError` if the folder holds a run of another configuration; a new folder is fine."""
    if (folder / CONFIG).exists() and read_run_config(folder) != config:
        raise RunError(f"{folder}: holds a run of another configuration, name another folder with --out")


def write_config(folder: Path, config: RunConfig) -> None:
    """Write `config.toml` into the run's folder, made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / CONFIG, tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)).encode())


def read_run_config(folder: Path) -> RunConfig:
    """The configuration of the run in `folder`; `RunError` if there is none."""
    path = folder / CONFIG
    if not path.is_file():
        raise RunError(f"{folder}: is not a run, it has no {CONFIG}")
    return parse_config(tomllib.loads(path.read_text(encoding="utf-8")), str(path))


def load_run(folder: Path) -> Run:
    """The finished run in `folder`.

    Raises:
        RunError: not a run, not finished, or its weights do not fit its configuration.
    """
    config = read_run_config(folder)
    if not (folder / SUMMARY).is_file():
        raise RunError(f"{folder}: the run is not finished, resume it with `python -m models train`")
    inputs = load_inputs(config)
    model = build_model(config, inputs)
    load_weights(folder / WEIGHTS, model)
    report = folder / "evaluation.json"
    return Run(
        path=folder,
        config=config.model_dump(mode="json"),
        model=model.eval(),
        dataset=inputs.dataset,
        split=inputs.split,
        evaluation=json.loads(report.read_bytes()) if report.is_file() else None,
        knowledge=dict(inputs.knowledge.provenance) if inputs.knowledge else None,
    )


def load_weights(path: Path, model: nn.Module) -> None:
    """Load safetensors into `model`; `RunError` names the file and the tensors that do not fit."""
    try:
        model.load_state_dict(safetensors.torch.load_file(path))
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise RunError(f"{path}: weights do not fit the run's configuration ({error})") from error


def save_weights(path: Path, model: nn.Module) -> None:
    """Write the trainable parameters atomically."""
    write_atomic(
        path, safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()})
    )


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a torch checkpoint atomically."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the whole new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)
