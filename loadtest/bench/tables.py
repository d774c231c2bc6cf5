"""Tables of a benchmark: what the page draws and the documentation quotes, as heads and rows of text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from loadtest.bench.processes import GROWING

Part = Mapping[str, Any]
Row = tuple[str, ...]
Table = tuple[tuple[str, ...], list[Row]]


def ratios(parts: Mapping[str, Part]) -> dict[str, float]:
    """Every ratio of the document, named by what is divided by what."""
    named: dict[str, float] = {}
    for name, part in parts.items():
        kind, _, rest = name.partition("/")
        if kind == "compare" and part["ratio"]:
            named[rest.replace("/", ", ")] = part["ratio"]
        elif kind == "capacity":
            for state, ratio in part["ratio_to_echo"].items():
                if ratio:
                    named[f"echo, {rest}, {state}"] = ratio
    return named


def tables(parts: Mapping[str, Part]) -> dict[str, Table]:
    """Title -> table, for the kinds of parts that are there."""
    made: dict[str, Table] = {}
    for kind, (title, head, rows_of) in _KINDS.items():
        rows = [row for name, part in parts.items() if name.split("/")[0] == kind for row in rows_of(name, part)]
        if rows:
            made[title] = (head, rows)
    return made


def markdown(parts: Mapping[str, Part]) -> str:
    """The same tables as Markdown."""
    lines: list[str] = []
    for title, (head, rows) in tables(parts).items():
        lines += [f"### {title}", "", f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def _calibrate(name: str, part: Part) -> list[Row]:
    rows: list[Row] = []
    for key, value in part.items():
        if isinstance(value, int | float):
            rows.append((key.replace("_", " "), f"{value:g}"))
    rows.append(("stock echo, requests/s", _per_s(part["echo"])))
    rows += [(f"generator, {key.replace('_', ' ')}", f"{value:g}") for key, value in part["generator"].items()]
    return rows


def _capacity(name: str, part: Part) -> list[Row]:
    rows: list[Row] = []
    for who in ("request", "redis", "echo"):
        told = part[who]
        ratio = part["ratio_to_echo"].get(who)
        rows.append(
            (
                part["shape"],
                {"request": "history in the request", "redis": "state in Redis", "echo": "stock echo"}[who],
                _per_s(told),
                "" if ratio is None else f"{ratio:.2f}x",
                *_latency(told),
                f"{told['server_cpu_ms_per_request']:.3f}",
                _foreign(told),
            )
        )
    return rows


def _compare(name: str, part: Part) -> list[Row]:
    ours, theirs = part["afterglow"], part[part["peer"]]
    version = part["versions"].get(part["peer"], "")
    ratio = part["ratio"]
    return [
        (
            part["shape"],
            f"{part['peer']} {version}".strip(),
            part["settings"][part["peer"]],
            _per_s(ours),
            _per_s(theirs),
            "-" if ratio is None else f"{ratio:.2f}x",
            f"{_level(ours, 'p99')} / {_level(theirs, 'p99')}",
            f"{_foreign(ours)} / {_foreign(theirs)}",
        )
    ]


def _rates(name: str, part: Part) -> list[Row]:
    return [
        (
            part["shape"],
            f"{part['rate_per_s']:g}/s",
            state,
            f"{part['p90_ms'][state]:.2f}",
            f"{part['limit_ms']:g}",
            "yes" if part["held"][state] else "no",
            f"{part[state]['first_tier_share']:.2%}",
            _foreign(part[state]),
        )
        for state in ("request", "redis")
    ]


def _curve(name: str, part: Part) -> list[Row]:
    rows: list[Row] = [
        (
            part["shape"],
            f"{step['load']:.0%}",
            f"{step['per_s']:.0f}",
            *_latency(step),
            f"{step['first_tier_share']:.2%}",
        )
        for step in part["steps"]
    ]
    rows.append(
        (part["shape"], "70%, p99/p50", "", *_latency(part["at_70_percent"]), f"{part['p99_to_p50_at_70_percent']:.2f}")
    )
    return rows


def _budgets(name: str, part: Part) -> list[Row]:
    unloaded = part["unloaded_ms"]["p99"] if part["unloaded_ms"] else float("nan")
    return [
        (
            part["shape"],
            budget,
            f"{told['within_budget_share']:.3%}",
            f"{told['first_tier_share']:.3%}",
            f"{unloaded:.1f}",
            _level(told, "p99"),
            _foreign(told),
        )
        for budget, told in part["budgets"].items()
    ]


def _overload(name: str, part: Part) -> list[Row]:
    return [
        (
            part["shape"],
            f"{step['factor']:g}x",
            step["degrade"],
            f"{step['goodput_share']:.0%}",
            f"{step['goodput_since_sent_share']:.0%}",
            _p99(step["lower_tier_ms"]),
            _p99(step["refusal_ms"]),
            f"{step['pss_mb'][0]:.0f} -> {step['pss_mb'][1]:.0f}",
            "never" if step["recovery_s"] is None else f"{step['recovery_s']:g}",
            _p99(step["send_lag_ms"]),
        )
        for step in part["steps"]
    ]


def _soak(name: str, part: Part) -> list[Row]:
    rows = [("requests", f"{part['requests']:,}", "", "")]
    rows += [
        (key, f"{part[key]['early']:g}", f"{part[key]['late']:g}", f"{part[key]['growth']:+.2%}") for key in GROWING
    ]
    return [(part["shape"], *row) for row in rows]


def _aborts(name: str, part: Part) -> list[Row]:
    return [(key, str(value)) for key, value in part.items() if isinstance(value, int | list)]


_LATENCY = ("p50 ms", "p99 ms")
_KINDS: dict[str, tuple[str, tuple[str, ...], Callable[[str, Part], list[Row]]]] = {
    "compare": (
        "Against other servers, p99 <= 50 ms",
        ("model", "peer", "its best setting", "ours/s", "theirs/s", "ratio", "p99 ms", "others' cores"),
        _compare,
    ),
    "capacity": (
        "Against the stock echo, p99 <= 50 ms",
        ("model", "", "requests/s", "to echo", *_LATENCY, "CPU-ms/request", "others' cores"),
        _capacity,
    ),
    "rates": (
        "Open loop at a given rate",
        ("model", "rate", "history", "p90 ms", "limit ms", "held", "by the model", "others' cores"),
        _rates,
    ),
    "curve": ("Latency against load", ("model", "load", "requests/s", *_LATENCY, "by the model"), _curve),
    "budgets": (
        "Budgets at 70 % load",
        ("model", "budget ms", "within budget + 5 ms", "by the model", "unloaded p99 ms", "p99 ms", "others' cores"),
        _budgets,
    ),
    "overload": (
        "Overload",
        (
            "model", "offered", "degrade", "goodput/peak", "from sending", "lower tier p99 ms", "503 p99 ms", "PSS MB",
            "recovery s", "send lag p99 ms",
        ),
        _overload,
    ),
    "soak": ("Soak", ("model", "", "early", "late", "growth"), _soak),
    "aborts": ("Clients that hang up", ("", ""), _aborts),
    "calibrate": ("Machine", ("", ""), _calibrate),
}  # fmt: skip


def _per_s(told: Part) -> str:
    return f"{told['goodput_per_s']:,.0f}"


def _latency(told: Part) -> tuple[str, str]:
    return _level(told, "p50"), _level(told, "p99")


def _level(told: Part, level: str) -> str:
    return f"{told['latency_ms'][level]:.1f}" if told["latency_ms"] else "-"


def _p99(latency: Part | None) -> str:
    return f"{latency['p99']:.1f}" if latency else "-"


def _foreign(told: Part) -> str:
    return f"{told['foreign_cores']:.2f}"
