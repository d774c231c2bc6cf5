"""The benchmark page: ratios first, then curves, tables, machine and versions; one HTML file, nothing loaded."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from loadtest.bench import plots
from loadtest.bench.tables import ratios, tables
from loadtest.html import drawn, page, table
from loadtest.results import write_bytes


def write_page(document: Mapping[str, Any], result: Path) -> Path:
    """Path of the page of a result document, beside its file."""
    path = result.with_suffix(".html")
    write_bytes(path, render(document).encode())
    return path


def render(document: Mapping[str, Any]) -> str:
    parts = document["parts"]
    figures = []
    if named := ratios(parts):
        figures.append(plots.ratios(named))
    for kind, draw in (("curve", plots.latency_curves), ("overload", plots.overload), ("budgets", plots.budget_shares)):
        if some := {name.partition("/")[2]: part for name, part in parts.items() if name.startswith(f"{kind}/")}:
            figures.append(draw(some))
    figures += [plots.memory(part) for name, part in parts.items() if name.startswith("soak/")]
    sections = [f"<section><h2>At a glance</h2>{drawn(figures, 'bench')}</section>"] if figures else []
    sections += [
        f"<section><h2>{escape(title)}</h2>{table(head, rows)}</section>"
        for title, (head, rows) in tables(parts).items()
    ]
    machine = document.get("machine") or {}
    sections += [_machine(machine), _commands(parts)]
    lead = f"{len(parts)} parts, {machine.get('cores', '?')} cores {machine.get('cpu', '')}"
    return page("afterglow benchmark", lead, sections)


def _machine(machine: Mapping[str, Any]) -> str:
    rows = [(name, str(value)) for name, value in machine.items() if name != "packages"]
    rows += list(machine.get("packages", {}).items())
    return f"<section><h2>Machine and versions</h2>{table(('', ''), rows)}</section>"


def _commands(parts: Mapping[str, Any]) -> str:
    rows = [(name, part["measured_at"], str(part["commit"]), part["command"]) for name, part in parts.items()]
    return f"<section><h2>Commands</h2>{table(('part', 'measured', 'commit', 'command'), rows)}</section>"
