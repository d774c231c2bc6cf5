"""Training of one run, of any paper: early stopping on validation, a checkpoint an epoch, resumed after a kill."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress, TaskID
from torch import Tensor

from models import runs
from models.config import RunConfig, TrainConfig
from models.papers import PAPERS
from models.progress import bar


def train(config: RunConfig, folder: Path, console: Console) -> dict[str, Any]:
    """Train until validation stops improving; the run's summary. A finished run is returned as it is.

    The same configuration gives the same weights on the same machine, killed and resumed or not: every epoch seeds
    its own random numbers.

    Raises:
        ModelsError: an input does not fit, or `folder` holds another run.
    """
    runs.check_config(folder, config)
    summary_file = folder / runs.SUMMARY
    if summary_file.exists():
        console.print(f"{folder}: already finished, nothing to do")
        finished: dict[str, Any] = json.loads(summary_file.read_bytes())
        return finished
    trainer = _Trainer(config, folder)
    runs.write_config(folder, config)
    if trainer.inputs.knowledge is not None and trainer.inputs.knowledge.provenance["test_only"]:
        console.print(
            f"{folder}: the knowledge of this run comes from an encoder for tests and says nothing of the items; "
            f"its figures are worth nothing ({runs.SUMMARY} records it)",
            style="yellow",
        )
    if trainer.epoch:
        console.print(f"{folder}: resuming after epoch {trainer.epoch}")
    summary = trainer.fit(console)
    runs.write_atomic(summary_file, json.dumps(summary, indent=2).encode())
    (folder / runs.CHECKPOINT).unlink(missing_ok=True)
    console.print(
        f"{folder}: best epoch {summary['best_epoch']} of {summary['epochs']}, "
        f"validation {trainer.exam.criterion} {summary['validation'][trainer.exam.criterion]:.4f}"
    )
    return summary


class _Trainer:
    def __init__(self, config: RunConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.inputs = runs.load_inputs(config)
        self.device = _device(config.train.device)
        torch.manual_seed(config.seed)
        paper = PAPERS[config.model.kind]
        self.model = paper.build_model(config, self.inputs).to(self.device)
        self.is_taught = any(True for _ in self.model.parameters())
        self.optimiser = torch.optim.Adam(
            # A baseline has nothing to learn, and an optimiser wants something.
            self.model.parameters() if self.is_taught else [torch.nn.Parameter(torch.zeros(1))],
            lr=config.train.learning_rate,
            weight_decay=config.train.weight_decay,
            fused=True,
        )
        self.curriculum = paper.curriculum(config, self.inputs, self.model, self.device)
        self.exam = paper.exam(config, self.inputs.dataset, self.inputs.split)
        self.epoch, self.best_epoch, self.best = 0, 0, -1.0
        self._resume()

    def fit(self, console: Console) -> dict[str, Any]:
        config = self.config.train
        max_epochs = config.max_epochs if self.is_taught else 1
        with bar(console, "loss", "valid") as progress:
            while self.epoch < max_epochs and self.epoch - self.best_epoch < config.patience:
                total, best = self.curriculum.n_batches, f"best {self.best:.4f}"
                task = progress.add_task(f"epoch {self.epoch + 1}", total=total, loss="", valid=best)
                self._one_epoch(progress, task)
                progress.remove_task(task)
        best_line = _metric_lines(self.folder)[self.best_epoch - 1]
        return {
            "name": self.config.name,
            "seed": self.config.seed,
            "epochs": self.epoch,
            "best_epoch": self.best_epoch,
            "validation": best_line["validation"],
            "n_parameters": sum(p.numel() for p in self.model.parameters()),
            "seconds_per_epoch": float(np.median([line["seconds"] for line in _metric_lines(self.folder)])),
            "peak_memory_mb": best_line["peak_memory_mb"],
            "dataset": {"name": self.inputs.dataset.name, "sha256": self.inputs.dataset.digest},
            "knowledge": dict(self.inputs.knowledge.provenance) if self.inputs.knowledge else None,
        }

    def _one_epoch(self, progress: Progress, task: TaskID) -> None:
        self.epoch += 1
        seed = self.config.seed * 100_003 + self.epoch
        torch.manual_seed(seed)
        started = time.perf_counter()
        self.model.train()
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.config.train, self.epoch)
        self.curriculum.begin_epoch()
        losses: list[Tensor] = []
        for batch in self.curriculum.batches(torch.Generator().manual_seed(seed)):
            losses.append(self._step(batch))
            progress.update(task, advance=1)
            if len(losses) % 20 == 0:  # reading a loss waits for the device
                progress.update(task, loss=f"loss {torch.stack(losses[-20:]).mean().item():.4f}")
        loss = torch.stack(losses).mean().item() if losses else None
        seconds = time.perf_counter() - started
        self.model.eval()
        validation = self.exam.validate(self.model)
        self._record(
            {
                "epoch": self.epoch,
                "loss": loss,
                "validation": validation,
                "seconds": seconds,
                "validation_seconds": time.perf_counter() - started - seconds,
                "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )

    def _step(self, batch: Any) -> Tensor:
        loss = self.curriculum.loss(batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    def _record(self, line: dict[str, Any]) -> None:
        value = line["validation"][self.exam.criterion]
        if value > self.best:
            self.best, self.best_epoch = value, self.epoch
            runs.save_weights(self.folder / runs.WEIGHTS, self.model)
        lines = [*_metric_lines(self.folder)[: self.epoch - 1], line]
        runs.write_atomic(self.folder / runs.METRICS, "".join(json.dumps(x) + "\n" for x in lines).encode())
        # Written last: a kill before it repeats the epoch, with the same random numbers.
        runs.save_checkpoint(
            self.folder / runs.CHECKPOINT,
            {
                "model": self.model.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "epoch": self.epoch,
                "best_epoch": self.best_epoch,
                "best": self.best,
            },
        )

    def _resume(self) -> None:
        path = self.folder / runs.CHECKPOINT
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch, self.best_epoch, self.best = state["epoch"], state["best_epoch"], state["best"]


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """That of the epoch, counted from 1: told by its number alone, so that a resumed run has the same."""
    times = (epoch - 1) // config.decay_every if config.decay_every else 0
    return config.learning_rate * 0.1**times


def _metric_lines(folder: Path) -> list[dict[str, Any]]:
    path = folder / runs.METRICS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
