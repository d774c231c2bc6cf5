"""Makes the runs of a study, one process each, and keeps its table up to date.

STUDY/table.json, table.md        rewritten after each run
STUDY/runs/CELL/                  an ordinary run folder, evaluated
STUDY/configs/CELL.toml           what the process of the cell was given
STUDY/logs/CELL.log               what it said
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tomli_w
from rich.console import Console

from models import runs
from models.errors import RunError
from models.progress import bar
from models.study_plan import Cell, Study
from models.study_table import make_table, write_table

# How often running processes are looked at.
POLL_S = 0.5

# The command that makes one run: cell, its TOML, its run folder.
Command = Callable[[Cell, Path, Path], list[str]]


@dataclass
class _Job:
    cell: Cell
    process: subprocess.Popen[bytes]
    started: float


class StudyRunner:
    """One study in one folder."""

    def __init__(self, study: Study, folder: Path, console: Console, command: Command) -> None:
        self.study, self.folder, self.console, self.command = study, folder, console, command
        self.states: dict[Cell, str] = {}

    def run(self, *, jobs: int = 1, budget_minutes: float | None = None) -> list[Cell]:
        """Run what is not done, in order; the cells whose process failed.

        Args:
            jobs: processes at a time.
            budget_minutes: start no run after this many minutes; those that run are waited for.

        Raises:
            RunError: another process works on this folder, or a run folder in it is of another configuration.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder / ".lock") as lock:
            for cell in self.study.cells:
                runs.check_config(self.run_folder(cell), cell.config)
            return self._work(lock, jobs, budget_minutes)

    def run_folder(self, cell: Cell) -> Path:
        return self.folder / "runs" / cell.name

    def is_done(self, cell: Cell) -> bool:
        """Trained, evaluated, and ranked among as many negatives as the study asks for."""
        path = self.run_folder(cell) / "evaluation.json"
        if not path.is_file():
            return False
        sampled = json.loads(path.read_bytes()).get("sampled", {})
        return self.study.negatives in (0, sampled.get("n_negatives"))

    def _work(self, lock: int, jobs: int, budget_minutes: float | None) -> list[Cell]:
        waiting = [cell for cell in self.study.cells if not self.is_done(cell)]
        n_cells, started = len(self.study.cells), time.monotonic()
        self.console.print(f"{self.folder}: {n_cells - len(waiting)} of {n_cells} runs are done")
        if not waiting or budget_minutes == 0:
            self._write_table()  # else beside the first run: a table of many intervals takes minutes
        running: list[_Job] = []
        failed: list[Cell] = []
        try:
            with bar(self.console, "running") as progress:
                task = progress.add_task(f"study {self.study.name}", total=n_cells, running="")
                while running or waiting:
                    if budget_minutes is not None and time.monotonic() - started >= 60 * budget_minutes and waiting:
                        self.console.print(
                            f"{budget_minutes:g} minutes are over: {len(waiting)} runs are left for later"
                        )
                        waiting = []
                    while waiting and len(running) < jobs:
                        job = self._start(waiting.pop(0), lock)
                        running += [job] if job else []
                    for job in [job for job in running if job.process.poll() is not None]:
                        running.remove(job)
                        if not self._finish(job):
                            failed.append(job.cell)
                    progress.update(
                        task,
                        completed=n_cells - len(waiting) - len(running),
                        running="; ".join(self._how_far(job) for job in running),
                    )
                    if running:
                        time.sleep(POLL_S)
        finally:  # on Ctrl-C too: a run that is stopped goes on from its last epoch next time
            for job in running:
                job.process.terminate()
            for job in running:
                job.process.wait()
                self.states[job.cell] = "stopped"
            if running:
                self._write_table()
        return failed

    def _start(self, cell: Cell, lock: int) -> _Job | None:
        data = cell.config.data
        needed = [data.dataset, data.knowledge if cell.config.model.needs_knowledge else None]
        missing = [path for path in needed if path is not None and not path.exists()]
        if missing:
            self.states[cell] = f"not run, {missing[0].name} is missing"
            self.console.print(f"{cell.name}: not run, there is no {missing[0]}")
            self._write_table()
            return None
        config, log = self.folder / "configs" / f"{cell.name}.toml", self.folder / "logs" / f"{cell.name}.log"
        for path in (config, log):
            path.parent.mkdir(exist_ok=True)
        runs.write_atomic(config, tomli_w.dumps(cell.config.model_dump(mode="json", exclude_none=True)).encode())
        self.states[cell] = "running"
        with log.open("ab") as output:
            process = subprocess.Popen(
                self.command(cell, config, self.run_folder(cell)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(lock,),  # a run that outlives a killed study keeps the folder locked
            )
        self.console.print(f"{cell.name}: started")
        self._write_table()
        return _Job(cell, process, time.monotonic())

    def _finish(self, job: _Job) -> bool:
        minutes = (time.monotonic() - job.started) / 60
        is_done = job.process.returncode == 0 and self.is_done(job.cell)
        self.states[job.cell] = "done" if is_done else "failed"
        if is_done:
            self.console.print(f"{job.cell.name}: done in {minutes:.1f} min")
        else:
            log = self.folder / "logs" / f"{job.cell.name}.log"
            self.console.print(f"{job.cell.name}: failed with exit code {job.process.returncode}, see {log}")
        self._write_table()
        return is_done

    def _how_far(self, job: _Job) -> str:
        path = self.run_folder(job.cell) / runs.METRICS
        epochs = path.read_bytes().count(b"\n") if path.exists() else 0
        return f"{job.cell.name} epoch {epochs + 1}"

    def _write_table(self) -> None:
        done = {cell: self.run_folder(cell) for cell in self.study.cells if self.is_done(cell)}
        write_table(self.folder, make_table(self.study, done, self.states))


def train_command(negatives: int, threads: int | None) -> Command:
    """The command line of this project that trains and evaluates one cell."""

    def command(cell: Cell, config: Path, folder: Path) -> list[str]:
        words = ["train", str(config), "--out", str(folder), "--evaluate", "--negatives", str(negatives)]
        return [sys.executable, "-m", "models", *words, *(["--threads", str(threads)] if threads else [])]

    return command


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """An inheritable descriptor that holds the lock until its last copy is closed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RunError(f"{path.parent}: the study, or a run that it started, is at work in another process") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)
