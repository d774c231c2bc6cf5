"""A study's results as one table: mean and spread over seeds, gains over the control, cost; JSON and Markdown."""

from __future__ import annotations

import functools
import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.compare import check_comparable, headline, read_ranks, read_report
from models.metrics import relative_bootstrap
from models.ranker_exam import SCORES
from models.ranker_gains import score_gains, z_gains
from models.ranker_table import is_ranker, ranker_parts
from models.runs import write_atomic
from models.study_plan import Cell, Study

GROUPS = ("overall", "tail_item", "head_item", "tail_user", "head_user", "distinct_times")
PROTOCOLS = ("test", "sampled")
COST = ("seconds_per_epoch", "peak_memory_mb", "epochs", "n_parameters")
NOT_RUN = "not run"


def make_table(study: Study, done: dict[Cell, Path], states: dict[Cell, str]) -> dict[str, Any]:
    """Every row of the study, run or not.

    Args:
        done: folders of the finished cells.
        states: what to say of the others; `NOT_RUN` where nothing is said.

    Raises:
        RunError: two runs of one data set were evaluated on different terms.
    """
    rows: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in study.cells:
        rows.setdefault((cell.dataset, cell.recipe, cell.variant), []).append(cell)
    for dataset in {cell.dataset for cell in study.cells}:
        check_comparable([folder for cell, folder in done.items() if cell.dataset == dataset])
    table: dict[str, Any] = {
        "study": study.name,
        "control": study.control,
        "against": list(study.against),
        "rows": [
            _row(
                cells,
                {name: rows.get((dataset, recipe, name), []) for name in (study.control, *study.against)},
                done,
                states,
            )
            for (dataset, recipe, _), cells in rows.items()
        ],
    }
    return _finite(table)


def _finite(value: Any) -> Any:
    """`value` with null for numbers that JSON does not have: an empty group's metric, a gain over nothing."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _row(
    cells: list[Cell], controls: dict[str, list[Cell]], done: dict[Cell, Path], states: dict[Cell, str]
) -> dict[str, Any]:
    finished = [cell for cell in cells if cell in done]
    reports = [read_report(done[cell]) for cell in finished]
    row: dict[str, Any] = {
        "dataset": cells[0].dataset,
        "recipe": cells[0].recipe,
        "variant": cells[0].variant,
        "seeds": [cell.seed for cell in finished],
        "planned_seeds": [cell.seed for cell in cells],
        "not_run": {str(cell.seed): states.get(cell, NOT_RUN) for cell in cells if cell not in done},
    }
    if reports:
        row["headline"] = list(headline(reports[0]))
        row["test"] = _metrics([report["test"] for report in reports])
        if all("sampled" in report for report in reports):
            row["sampled"] = _metrics([report["sampled"]["test"] for report in reports])
        if all("without_untrained_targets" in report for report in reports):
            row["without_untrained_targets"] = _spread([report["without_untrained_targets"] for report in reports])
        if all("z" in report for report in reports):
            row["z"] = {choice: _metrics([report["z"][choice] for report in reports]) for choice in reports[0]["z"]}
            if len(row["z"]) > 1:
                row["z_gain"] = gains_of_z(tuple(done[cell] for cell in finished))
        row["cost"] = {key: _mean([report["training"][key] for report in reports]) for key in COST}
    gained = {name: _gained(row, finished, control, done) for name, control in controls.items() if control != cells}
    gained = {name: gain for name, gain in gained.items() if gain is not None}
    control, *others = controls
    if control in gained:
        row["gain"] = gained[control]
    if over := {name: gained[name] for name in others if name in gained}:
        row["gain_over"] = over
    return row


def _gained(
    row: dict[str, Any], finished: list[Cell], control: list[Cell], done: dict[Cell, Path]
) -> dict[str, Any] | None:
    """Gains over the runs of `control` with the same seeds, by protocol; None if there are none."""
    of_seed = {cell.seed: done[cell] for cell in control if cell in done}
    pairs = [(done[cell], of_seed[cell.seed]) for cell in finished if cell.seed in of_seed]
    if not pairs:
        return None
    found: dict[str, Any] = {
        protocol: gains(
            tuple(ours for ours, _ in pairs),
            tuple(theirs for _, theirs in pairs),
            protocol,
            tuple(row["headline"]),
        )
        for protocol in PROTOCOLS
        if protocol in row
    }
    return {**found, "n_seeds": len(pairs)}


@functools.lru_cache(maxsize=4096)  # a table is rewritten after each run, its finished pairs do not change
def gains(
    ours: tuple[Path, ...], theirs: tuple[Path, ...], protocol: str, metrics: tuple[str, ...]
) -> dict[str, dict[str, dict[str, float]]]:
    """Relative gain of each metric by group, with a 95 % interval: {group: {metric: {relative, low, high}}}.

    Users and paired seeds are resampled. Of rankers, differences instead: {absolute, low, high}.
    """
    if all((folder / SCORES).is_file() for folder in (*ours, *theirs)):
        return score_gains(ours, theirs)
    one, other = ([read_ranks(folder, protocol) for folder in folders] for folders in (ours, theirs))
    return {
        group: {
            metric: _interval(
                np.stack([ranks.values(metric, group) for ranks in one]),
                np.stack([ranks.values(metric, group) for ranks in other]),
                one[0].owners_in(group),
            )
            for metric in metrics
        }
        for group in ("overall", *one[0].groups)
    }


gains_of_z = functools.lru_cache(maxsize=4096)(z_gains)


def _interval(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], owners: NDArray[np.int64] | None
) -> dict[str, float]:
    relative, low, high = relative_bootstrap(ours, theirs, seed=0, owners=owners)
    return {"relative": relative, "low": low, "high": high}


def _metrics(by_seed: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    return {
        group: {
            "n": by_seed[0][group]["n"],
            **_spread([{k: v for k, v in seed[group].items() if k != "n"} for seed in by_seed]),
        }
        for group in by_seed[0]
    }


def _spread(by_seed: list[dict[str, float]]) -> dict[str, Any]:
    """{metric: {mean, std}} over seeds; std (of the sample) is null for one seed."""
    return {
        metric: {
            "mean": _mean([seed[metric] for seed in by_seed]),
            "std": statistics.stdev(seed[metric] for seed in by_seed) if len(by_seed) > 1 else None,
        }
        for metric in by_seed[0]
    }


def _mean(values: list[float]) -> float:
    return float(np.mean(values))


def as_markdown(table: dict[str, Any]) -> str:
    """One Markdown table for each data set, recipe and protocol."""
    of_rankers = is_ranker(table["rows"])
    parts = [
        f"# Study {table['study']}",
        "",
        f"Gains are {'differences' if of_rankers else 'relative'}, over `{table['control']}`, 95 % by paired bootstrap "
        "over users, and seeds if several.",
    ]
    blocks: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in table["rows"]:
        blocks.setdefault((row["dataset"], row["recipe"]), []).append(row)
    for (dataset, recipe), rows in blocks.items():
        parts += ["", f"## {dataset}, recipe {recipe}"]
        if of_rankers and not is_ranker(rows):
            parts += ["", f"Not run: {', '.join(row['variant'] for row in rows)}."]
            continue
        if of_rankers:
            for caption, head, lines in ranker_parts(rows, [_name(row) for row in rows]):
                parts += ["", caption, "", *_lines(head, lines)]
            continue
        parts += ["", "The whole catalogue ranked.", "", *_full(rows)]
        parts += [*_every_metric(rows), *_over_others(rows)]
        if any("sampled" in row for row in rows):
            parts += ["", "Each target among fixed random negatives.", "", *_sampled(rows)]
    return "\n".join(parts) + "\n"


def _full(rows: list[dict[str, Any]]) -> list[str]:
    found, by_place = next((row["headline"] for row in rows if "headline" in row), ("hr@10", "ndcg@10"))
    head = ["model", "seeds", found, *(f"{by_place} {group}" for group in GROUPS)]
    head += [f"gain {found}", f"gain {by_place}", "s/epoch", "MB"]
    lines = []
    for row in rows:
        cost = row.get("cost")
        lines.append(
            [
                *_name(row),
                _cell(row, "test", "overall", found),
                *(_cell(row, "test", group, by_place) for group in GROUPS),
                _gain(row, "test", "overall", found),
                _gain(row, "test", "overall", by_place),
                f"{cost['seconds_per_epoch']:.1f}" if cost else NOT_RUN,
                f"{cost['peak_memory_mb']:.0f}" if cost else NOT_RUN,
            ]
        )
    return _lines(head, lines)


def _every_metric(rows: list[dict[str, Any]]) -> list[str]:
    """Where the headline is not all that the literature compares: several targets a case, or sessions."""
    told = {found for row in rows for found in row.get("headline", ())}
    cutoffs: tuple[int, ...]
    if "recall@50" in told:
        cutoffs, names = (20, 50), ("recall", "hr", "ndcg")
    elif "mrr@20" in told:
        cutoffs, names = (5, 10, 20), ("hr", "mrr", "ndcg")
    else:
        return []
    metrics = [f"{name}@{k}" for k in cutoffs for name in names]
    lines = [[*_name(row), *(_cell(row, "test", "overall", metric) for metric in metrics)] for row in rows]
    return ["", "All cases.", "", *_lines(["model", "seeds", *metrics], lines)]


def _over_others(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each gain over a variant that is not the control."""
    lines = []
    for row in rows:
        found, by_place = row.get("headline", ("", ""))
        for name in row.get("gain_over", {}):
            shown = [_gain(row, "test", "overall", metric, over=name) for metric in (found, by_place)]
            lines.append([row["variant"], name, str(row["gain_over"][name]["n_seeds"]), *shown])
    if not lines:
        return []
    found, by_place = next(row["headline"] for row in rows if "headline" in row)
    head = ["model", "over", "seeds", f"gain {found}", f"gain {by_place}"]
    return ["", "Gains over other variants.", "", *_lines(head, lines)]


def _sampled(rows: list[dict[str, Any]]) -> list[str]:
    groups = ("overall", "tail_item", "tail_user")
    head = ["model", "seeds", *(f"hr@10 {group}" for group in groups), "ndcg@10"]
    head += [f"gain hr@10 {group}" for group in groups[:2]]
    lines = [
        [
            *_name(row),
            *(_cell(row, "sampled", group, "hr@10") for group in groups),
            _cell(row, "sampled", "overall", "ndcg@10"),
            *(_gain(row, "sampled", group, "hr@10") for group in groups[:2]),
        ]
        for row in rows
    ]
    return _lines(head, lines)


def _name(row: dict[str, Any]) -> list[str]:
    n_done, n_planned = len(row["seeds"]), len(row["planned_seeds"])
    states = sorted({state for state in row["not_run"].values() if state != NOT_RUN})
    seeds = str(n_done) if n_done == n_planned else f"{n_done} of {n_planned}"
    return [row["variant"], " ".join([seeds, *(f"({state})" for state in states)])]


def _cell(row: dict[str, Any], protocol: str, group: str, metric: str) -> str:
    if protocol not in row:
        return NOT_RUN
    if group not in row[protocol]:
        return "–"
    value = row[protocol][group][metric]
    if value["mean"] is None:
        return "–"
    return f"{value['mean']:.4f}" + (f" ± {value['std']:.4f}" if value["std"] is not None else "")


def _gain(row: dict[str, Any], protocol: str, group: str, metric: str, over: str | None = None) -> str:
    if protocol not in row:
        return NOT_RUN
    gained = row.get("gain", {}) if over is None else row["gain_over"][over]
    if protocol not in gained:
        return "–"
    gain = gained[protocol][group][metric]
    if None in gain.values():
        return "–"
    return f"{gain['relative']:+.1%} [{gain['low']:+.1%}, {gain['high']:+.1%}]"


def _lines(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def write_table(folder: Path, table: dict[str, Any]) -> None:
    """`table.json` and `table.md` in `folder`, each whole or as it was."""
    write_atomic(folder / "table.json", json.dumps(table, indent=2).encode() + b"\n")
    write_atomic(folder / "table.md", as_markdown(table).encode())
