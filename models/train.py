"""Training of one run: early stopping on validation ndcg@10, a checkpoint an epoch, resumed after a kill."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, TaskID
from torch import Tensor

from models import runs
from models.batches import TrainBatch, TrainingHistories, compact, n_batches
from models.config import RunConfig
from models.llm_esr import LLMESR
from models.losses import NegativeItems, SeenItems, distillation_loss, ranking_loss
from models.metrics import metrics_of
from models.objectives import make_objective
from models.progress import bar
from models.ranking import rank_cases

# Teachers encoded together. On a CPU the activations of 64 users stay in its cache (measured: 48 users 152 ms a step of
# Beauty, 64 138, 250 172, 500 245); a GPU wants them all.
_AT_ONCE = {"cpu": 64, "cuda": 8192}

# What early stopping looks at.
CRITERION = "ndcg@10"


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
        f"validation {CRITERION} {summary['validation'][CRITERION]:.4f}"
    )
    return summary


class _Trainer:
    def __init__(self, config: RunConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.inputs = runs.load_inputs(config)
        self.device = _device(config.train.device)
        torch.manual_seed(config.seed)
        self.model: LLMESR = runs.build_model(config, self.inputs).to(self.device)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=config.train.learning_rate, fused=True)
        train = self.inputs.split.train
        self.histories = TrainingHistories(
            train, config.model.max_seq_len, self.device, self.model.describe_inputs().fixed_length
        )
        users = torch.as_tensor(np.repeat(np.arange(len(train)), train.lengths), device=self.device)
        items = torch.as_tensor(train.items, device=self.device)
        self.n_rows = len(self.inputs.dataset.item_ids) + 1
        self.seen = SeenItems(users, items, self.n_rows)
        popularity = torch.bincount(items, minlength=self.n_rows)
        self.negatives = NegativeItems(config.loss.negatives, popularity)
        self.objective = make_objective(config)
        self.similar_users = self._similar_users()
        # With `teachers = "epoch"`: the state of every user, as the model was when the epoch began.
        self.teacher_states: Tensor | None = None
        self.epoch, self.best_epoch, self.best = 0, 0, -1.0
        self._resume()

    def fit(self, console: Console) -> dict[str, Any]:
        config = self.config.train
        steps = n_batches(len(self.histories.trainable), config.batch_size)
        with bar(console, "loss", "valid") as progress:
            while self.epoch < config.max_epochs and self.epoch - self.best_epoch < config.patience:
                task = progress.add_task(f"epoch {self.epoch + 1}", total=steps, loss="", valid=f"best {self.best:.4f}")
                self._one_epoch(progress, task)
                progress.remove_task(task)
        best = _metric_lines(self.folder)[self.best_epoch - 1]
        return {
            "name": self.config.name,
            "seed": self.config.seed,
            "epochs": self.epoch,
            "best_epoch": self.best_epoch,
            "validation": best["validation"],
            "n_parameters": sum(p.numel() for p in self.model.parameters()),
            "seconds_per_epoch": float(np.median([line["seconds"] for line in _metric_lines(self.folder)])),
            "peak_memory_mb": best["peak_memory_mb"],
            "dataset": {"name": self.inputs.dataset.name, "sha256": self.inputs.dataset.digest},
            "knowledge": dict(self.inputs.knowledge.provenance) if self.inputs.knowledge else None,
        }

    def _one_epoch(self, progress: Progress, task: TaskID) -> None:
        self.epoch += 1
        seed = self.config.seed * 100_003 + self.epoch
        torch.manual_seed(seed)
        started = time.perf_counter()
        self.model.train()
        if self.similar_users is not None and self.config.train.teachers == "epoch":
            self.teacher_states = self._user_states(torch.arange(len(self.histories.input_len), device=self.device))
        losses: list[Tensor] = []
        for batch in self.histories.epoch(self.config.train.batch_size, torch.Generator().manual_seed(seed)):
            losses.append(self._step(batch))
            progress.update(task, advance=1)
            if len(losses) % 20 == 0:  # reading a loss waits for the device
                progress.update(task, loss=f"loss {torch.stack(losses[-20:]).mean().item():.4f}")
        loss = torch.stack(losses).mean().item() if losses else None
        seconds = time.perf_counter() - started
        validation = self._validate()
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

    def _step(self, batch: TrainBatch) -> Tensor:
        negatives = self.negatives.draw(self.config.loss.n_negatives)
        users = batch.users
        if self._is_compact(batch):
            rows, batch, items = compact(batch, negatives.items)
            table, negatives = self.model.item_table(rows), negatives._replace(items=items)
        else:
            table = self.model.item_table()
        taught = self.objective(self.model, table, batch)
        loss = ranking_loss(self.config.loss, taught.states, taught.targets, taught.users, table, self.seen, negatives)
        if self.similar_users is not None:
            similar = self.similar_users[users]  # (B, n)
            weights = (self.histories.input_len[similar] > 0).to(table.dtype)
            distance = distillation_loss(taught.students, self._teachers(similar), weights)
            loss = loss + self.config.model.distillation_weight * distance
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    def _is_compact(self, batch: TrainBatch) -> bool:
        """Whether the adapter need not see the whole catalogue: this step can only read a part of it."""
        model, loss = self.config.model, self.config.loss
        n_named = 2 * batch.item_seq.numel() + loss.n_negatives
        return "semantic" in model.views and loss.kind == "sampled_softmax" and n_named < self.n_rows

    def _teachers(self, similar: Tensor) -> Tensor:
        """States (B, n, V x D) of each student's similar users (B, n)."""
        if self.teacher_states is not None:
            return F.embedding(similar, self.teacher_states)
        users, at = torch.unique(similar, return_inverse=True)
        return F.embedding(at, self._user_states(users))

    @torch.no_grad()
    def _user_states(self, users: Tensor) -> Tensor:
        """States (U, V x D) of the users' training histories without their last items.

        Without dropout, where the published code leaves it on: a steadier target, and drawing the masks of ten
        teachers a student took most of a step.
        """
        self.model.eval()
        table = self.model.item_table()
        states = torch.empty(len(users), table.shape[1], device=self.device)
        for group in self.histories.by_length(users, _AT_ONCE[self.device.type]):
            batch = self.histories.batch(users[group])
            states[group] = self.model.encode(table, batch.item_seq, batch.seq_len)[:, 0]
        self.model.train()
        return states

    def _similar_users(self) -> Tensor | None:
        model, knowledge = self.config.model, self.inputs.knowledge
        if model.distillation_weight == 0 or knowledge is None:
            return None
        similar: NDArray[np.int64] = knowledge.similar_users[:, : model.n_teachers].astype(np.int64)
        return torch.as_tensor(similar, device=self.device)

    def _validate(self) -> dict[str, float]:
        self.model.eval()
        return metrics_of(rank_cases(self.model, self.inputs.split.valid, top=0).ranks)

    def _record(self, line: dict[str, Any]) -> None:
        value = line["validation"][CRITERION]
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


def _metric_lines(folder: Path) -> list[dict[str, Any]]:
    path = folder / runs.METRICS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
