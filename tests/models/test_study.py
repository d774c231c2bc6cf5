from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from models import runs
from models.errors import ConfigError, RunError
from models.metrics import relative_bootstrap
from models.study import StudyRunner, _locked, train_command
from models.study_plan import Cell, Study, read_study
from models.study_table import as_markdown

PLAN = """
name = "small"
control = "plain"
negatives = 4

[datasets.cycle]
dataset = "{dataset}"
knowledge = "{knowledge}"

[recipes.quick]
model = {{ hidden_size = 8, max_seq_len = 6, dropout = 0.0, n_teachers = 2 }}
loss = {{ n_negatives = 8 }}
train = {{ batch_size = 8, max_epochs = 1, device = "cpu" }}

[variants.plain]
model = {{ views = ["collaborative"], collaborative_init = "random", distillation_weight = 0.0 }}

[variants.full]
model = {{ distillation_weight = 0.2 }}

[[cells]]
datasets = ["cycle"]
recipes = ["quick"]
variants = ["plain", "full"]
seeds = [1, 2]

[[cells]]
datasets = ["cycle"]
recipes = ["quick"]
variants = ["full"]
seeds = [3, 1]
"""

# Stands in for a training: a report and ranks that depend on the seed alone.
FAKE = """
import json, sys
from pathlib import Path
import numpy as np
folder, name, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
folder.mkdir(parents=True, exist_ok=True)
value = {"n": 2, "hr@10": seed / 10, "ndcg@10": seed / 20}
report = {
    "run": name, "seed": seed, "dataset": {"name": "cycle"}, "policy": {}, "groups": {},
    "test": {"overall": value, "tail_item": value}, "sampled": {"n_negatives": 4, "test": {"overall": value}},
    "without_untrained_targets": {"n_dropped": 0, "hr@10": 0.5},
    "training": {"seconds_per_epoch": 1.0, "peak_memory_mb": 10.0, "epochs": 3, "n_parameters": 7},
}
ranks = np.array([0, 0 if "full" in name else 99])
np.savez(folder / "ranks.npz", ranks=ranks, **{"group:tail_item": np.array([False, True])})
np.savez(folder / "sampled_ranks.npz", ranks=ranks)
(folder / "evaluation.json").write_text(json.dumps(report))
"""


def fake(cell: Cell, config: Path, folder: Path) -> list[str]:
    return [
        sys.executable,
        "-S",
        "-c",
        f"import sys; sys.path[:0] = {sys.path!r}\n{FAKE}",
        str(folder),
        cell.name,
        str(cell.seed),
    ]


@pytest.fixture
def plan(cycle: Path, cycle_knowledge: Path, tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(PLAN.format(dataset=cycle, knowledge=cycle_knowledge))
    return path


def _table(folder: Path) -> dict[str, Any]:
    table: dict[str, Any] = json.loads((folder / "table.json").read_bytes())
    return table


def test_cells_run_in_the_order_of_the_file_each_once_a_model_beside_its_control(plan: Path) -> None:
    study = read_study(plan)
    assert [(cell.variant, cell.seed) for cell in study.cells] == [
        ("plain", 1),
        ("full", 1),
        ("plain", 2),
        ("full", 2),
        ("full", 3),
    ]
    assert study.cells[1].config.model.distillation_weight == 0.2  # the variant, laid over the recipe
    assert study.cells[1].config.model.hidden_size == 8


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('control = "plain"', 'control = "plane"', "control is 'plane'"),
        ('variants = ["full"]', 'variants = ["fool"]', r"cells name variants \['fool'\]"),
        ("distillation_weight = 0.2", "distilation_weight = 0.2", r"cell cycle-quick-full-s1.*\n.*distilation_weight"),
    ],
)
def test_a_study_that_does_not_fit_names_what_and_where(plan: Path, old: str, new: str, message: str) -> None:
    plan.write_text(plan.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=message):
        read_study(plan)


def test_without_time_nothing_starts_and_every_cell_reads_not_run(plan: Path, tmp_path: Path, quiet: Console) -> None:
    assert StudyRunner(read_study(plan), tmp_path / "out", quiet, fake).run(budget_minutes=0) == []
    page = (tmp_path / "out" / "table.md").read_text()
    assert "| plain | 0 of 2 | not run |" in page
    assert not (tmp_path / "out" / "runs").exists()


def test_the_table_has_mean_spread_seeds_and_gains_over_the_control(plan: Path, tmp_path: Path, quiet: Console) -> None:
    folder = tmp_path / "out"
    assert StudyRunner(read_study(plan), folder, quiet, fake).run(jobs=2) == []
    plain, full = _table(folder)["rows"]
    # Seeds 1, 2, 3 give hr .1, .2, .3: mean .2, deviation .1.
    assert full["seeds"] == [1, 2, 3]
    assert full["test"]["overall"]["hr@10"]["mean"] == pytest.approx(0.2)
    assert full["test"]["overall"]["hr@10"]["std"] == pytest.approx(0.1)
    # The control hits one of two targets, the full model both, for the two seeds they share.
    assert full["gain"]["n_seeds"] == 2
    assert full["gain"]["test"]["overall"]["hr@10"]["relative"] == pytest.approx(1.0)
    assert "gain" not in plain
    # On the tail the control hits nothing: a gain over nothing is no number.
    assert full["gain"]["test"]["tail_item"]["hr@10"] == {"relative": None, "low": None, "high": None}
    assert "| full | 3 | 0.2000 ± 0.1000 |" in as_markdown(_table(folder))


def test_what_is_done_is_not_run_again_and_a_failure_does_not_stop_the_rest(
    plan: Path, tmp_path: Path, quiet: Console
) -> None:
    started: list[str] = []

    def failing_once(cell: Cell, config: Path, folder: Path) -> list[str]:
        started.append(cell.name)
        return ["false"] if len(started) == 2 else fake(cell, config, folder)

    study = read_study(plan)
    failed = StudyRunner(study, tmp_path / "out", quiet, failing_once).run()
    assert [cell.name for cell in failed] == ["cycle-quick-full-s1"]
    assert len(started) == 5
    assert "2 of 3 (failed)" in (tmp_path / "out" / "table.md").read_text()
    assert StudyRunner(study, tmp_path / "out", quiet, failing_once).run() == []
    assert started[5:] == ["cycle-quick-full-s1"]


def test_a_study_of_missing_knowledge_runs_the_rest(plan: Path, tmp_path: Path, quiet: Console) -> None:
    plan.write_text(plan.read_text().replace("knowledge = ", 'knowledge = "nowhere" # '))
    StudyRunner(read_study(plan), tmp_path / "out", quiet, fake).run()
    plain, full = _table(tmp_path / "out")["rows"]
    assert plain["seeds"] == [1, 2]
    assert full["not_run"] == dict.fromkeys("123", "not run, nowhere is missing")


def test_two_processes_do_not_work_on_one_study(plan: Path, tmp_path: Path, quiet: Console) -> None:
    study = read_study(plan)
    out = tmp_path / "out"
    wait = [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"]

    def second_while_the_first_runs(cell: Cell, config: Path, folder: Path) -> list[str]:
        with pytest.raises(RunError, match="at work in another process"):
            StudyRunner(study, out, quiet, fake).run()
        return wait

    StudyRunner(Study("one", study.control, 0, study.cells[:1]), out, quiet, second_while_the_first_runs).run()


def test_a_run_that_outlives_its_study_keeps_the_folder_to_itself(tmp_path: Path) -> None:
    read_all = [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"]
    with _locked(tmp_path / ".lock") as lock:
        orphan = subprocess.Popen(read_all, stdin=subprocess.PIPE, pass_fds=(lock,))
    with pytest.raises(RunError, match="or a run that it started"), _locked(tmp_path / ".lock"):
        pass
    orphan.communicate(b"")
    with _locked(tmp_path / ".lock"):
        pass


def test_a_run_of_another_configuration_is_refused_before_anything_starts(
    plan: Path, tmp_path: Path, quiet: Console
) -> None:
    study = read_study(plan)
    last = study.cells[-1]
    other = last.config.model_copy(update={"seed": 99})
    runs.write_config(tmp_path / "out" / "runs" / last.name, other)
    with pytest.raises(RunError, match="another configuration"):
        StudyRunner(study, tmp_path / "out", quiet, fake).run()
    assert not (tmp_path / "out" / "logs").exists()


def test_the_command_line_trains_evaluates_and_tabulates_a_real_run(plan: Path, tmp_path: Path, quiet: Console) -> None:
    study = read_study(plan)
    one = Study(study.name, study.control, 4, study.cells[1:2])
    folder = tmp_path / "out"
    assert StudyRunner(one, folder, quiet, train_command(4, threads=1)).run() == []
    (row,) = _table(folder)["rows"]
    assert row["test"]["overall"]["n"] == 24
    assert row["sampled"]["overall"]["hr@5"]["mean"] == 1.0  # one target among four negatives
    assert row["cost"]["epochs"] == 1
    assert runs.load_run(folder / "runs" / "cycle-quick-full-s1").config["seed"] == 1
    members = np.load(folder / "runs" / "cycle-quick-full-s1" / "ranks.npz")["group:tail_item"]
    assert members.shape == (24,)


def test_a_relative_gain_has_an_interval_around_it() -> None:
    rng = np.random.default_rng(0)
    theirs = rng.random(500)
    relative, low, high = relative_bootstrap(1.5 * theirs, theirs, seed=1, n_draws=100)
    assert relative == pytest.approx(low) == pytest.approx(high) == pytest.approx(0.5)
    relative, low, high = relative_bootstrap(theirs + rng.normal(0.05, 0.3, 500), theirs, seed=1, n_draws=100)
    assert low < relative < high
    assert np.isnan(relative_bootstrap(theirs, np.zeros(500), seed=1)[0])


def test_seeds_are_resampled_with_the_users() -> None:
    # Every user gains the same in a seed: half in one, twice as much in the other. Over users alone the interval is a
    # point; over seeds it reaches from the one to the other.
    theirs = np.full((2, 50), 1.0)
    ours = np.stack([np.full(50, 1.5), np.full(50, 2.0)])
    relative, low, high = relative_bootstrap(ours, theirs, seed=1, n_draws=200)
    assert (relative, low, high) == pytest.approx((0.75, 0.5, 1.0))
    assert relative_bootstrap(ours.mean(0), theirs.mean(0), seed=1) == pytest.approx((0.75, 0.75, 0.75))


def test_the_published_study_files_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AFTERGLOW_DATA", "AFTERGLOW_RUNS"):
        monkeypatch.setenv(name, "/nowhere")
    folder = Path(runs.__file__).parent / "configs" / "studies"
    names = [read_study(path).name for path in sorted(folder.glob("*.toml"))]
    assert {"llm-esr", "eimf"} <= set(names)


def test_the_study_command_explains_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "models", "study", "--help"], capture_output=True, text=True, check=True
    )
    assert "budget-minutes" in done.stdout


def test_gains_over_a_second_control_stand_beside_those_over_the_first(
    plan: Path, tmp_path: Path, quiet: Console
) -> None:
    text = plan.read_text().replace('control = "plain"', 'control = "plain"\nagainst = ["other"]')
    text = text.replace(
        'variants = ["plain", "full"]\nseeds = [1, 2]', 'variants = ["plain", "full", "other"]\nseeds = [1]'
    )
    text = text.replace("seeds = [3, 1]", "seeds = [1]")
    plan.write_text(text + "\n[variants.other]\nmodel = { distillation_weight = 0.3 }\n")
    study = read_study(plan)
    assert StudyRunner(study, tmp_path / "out", quiet, fake).run() == []
    table = _table(tmp_path / "out")
    plain, full, other = table["rows"]
    # `other` misses the second target like the control does: one of two, and `full` hits both.
    assert full["gain_over"]["other"]["test"]["overall"]["hr@10"]["relative"] == pytest.approx(1.0)
    assert full["gain_over"]["other"]["n_seeds"] == 1
    assert plain["gain_over"]["other"]["test"]["overall"]["hr@10"]["relative"] == pytest.approx(0.0)
    assert "gain_over" not in other
    assert "| full | other | 1 |" in as_markdown(table)
