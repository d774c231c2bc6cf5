"""The part of a study's Markdown that is about rankers: AUC per scenario, slices, differences, choices of z."""

from __future__ import annotations

from typing import Any, Final

SLICES: Final = ("overall", "told", "untold")


def is_ranker(rows: list[dict[str, Any]]) -> bool:
    """Whether these rows of a study's table are of rankers."""
    return any("auc" in row.get("headline", ()) for row in rows)


def ranker_parts(rows: list[dict[str, Any]], names: list[list[str]]) -> list[tuple[str, list[str], list[list[str]]]]:
    """(caption, head, lines) of each table; `names` are the first two cells of each row."""
    done = [row for row in rows if "test" in row]
    groups = list(done[0]["test"])
    scenarios = [group for group in groups if ":" not in group and group not in SLICES]
    slices = [group for group in SLICES if group in groups]
    columns = [("auc", group) for group in (*slices, *scenarios)] + [("gauc", "overall"), ("logloss", "overall")]
    head = ["model", "seeds", *(f"{metric} {group}" for metric, group in columns), "s/epoch"]
    figures = [
        [*name, *(_mean(row, metric, group) for metric, group in columns), _seconds(row)]
        for name, row in zip(names, rows, strict=True)
    ]
    parts = [("Candidates of held-out moments.", head, figures)]
    every = [(metric, group) for group in scenarios for metric in ("auc", "gauc", "logloss")]
    each = [[row["variant"], *(_mean(row, *column) for column in every)] for row in done]
    parts.append(("By scenario.", ["model", *(f"{group} {metric}" for metric, group in every)], each))
    by_scenario = [f"{part}:{scenario}" for part in slices[1:] for scenario in scenarios]
    shown = [("auc", group) for group in (*slices, *scenarios, *by_scenario)] + [("logloss", "overall")]
    gains = [
        [row["variant"], over, str(gain["n_seeds"]), *(_gain(gain["test"], metric, group) for metric, group in shown)]
        for row in rows
        for over, gain in {**({"control": row["gain"]} if "gain" in row else {}), **row.get("gain_over", {})}.items()
    ]
    if gains:
        gain_head = ["model", "over", "seeds", *(f"{metric} {group}" for metric, group in shown)]
        parts.append(("Differences, 95 % by paired bootstrap over users, and seeds if several.", gain_head, gains))
    by_z = [
        [row["variant"], choice, *(_spread(found[group]["auc"]) for group in slices)]
        for row in done
        for choice, found in row.get("z", {}).items()
        if len(row["z"]) > 1
    ]
    if by_z:
        parts.append(("The same models, by the z they read.", ["model", "z", *(f"auc {g}" for g in slices)], by_z))
    z_gains = [
        [row["variant"], which, *(_gain(found, "auc", group) for group in slices)]
        for row in done
        for which, found in row.get("z_gain", {}).items()
    ]
    if z_gains:
        parts.append(("What another z gains.", ["model", "z", *(f"auc {group}" for group in slices)], z_gains))
    return parts


def _mean(row: dict[str, Any], metric: str, group: str) -> str:
    return _spread(row["test"][group][metric]) if "test" in row else "not run"


def _seconds(row: dict[str, Any]) -> str:
    return f"{row['cost']['seconds_per_epoch']:.1f}" if "cost" in row else "not run"


def _spread(value: dict[str, Any]) -> str:
    if value["mean"] is None:
        return "–"
    return f"{value['mean']:.4f}" + (f" ± {value['std']:.4f}" if value["std"] is not None else "")


def _gain(gain: dict[str, Any], metric: str, group: str) -> str:
    found = gain.get(group, {}).get(metric, {"absolute": None})
    if None in found.values():
        return "–"
    return f"{found['absolute']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"
