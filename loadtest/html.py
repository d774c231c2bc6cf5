"""Building blocks of the pages: one style, everything inline, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from matplotlib.figure import Figure

from loadtest import plots

_STYLE = """
:root { color-scheme: light; --ink: #24292f; --soft: #5c6670; --line: #dde2e7; --good: #1a7f4b; --bad: #c0392b; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: #f5f7f9; margin: 0 auto; max-width: 1080px;
       padding: 2rem 1.5rem 4rem; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.25rem; margin: 0; }
.lead { color: var(--soft); margin: .2rem 0 1.5rem; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 1.3rem 1.5rem;
          margin: 1.4rem 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)); gap: .7rem; margin: 1rem 0; }
.tile { border: 1px solid var(--line); border-radius: 8px; padding: .5rem .8rem; }
.tile b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .82rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: .8rem; }
figure { margin: 0; } figure svg { width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; margin: .8rem 0;
        font-size: .92rem; }
th, td { text-align: right; padding: .28rem .6rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; } th { color: var(--soft); font-weight: 600; }
code { font: .86em ui-monospace, monospace; background: #f0f3f6; padding: .1rem .3rem; border-radius: 4px;
       overflow-wrap: anywhere; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
details { margin-top: .8rem; } summary { color: var(--soft); cursor: pointer; }
"""


def page(title: str, lead: str, sections: Sequence[str]) -> str:
    """A whole HTML document from sections of HTML."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>{"".join(sections)}</body></html>\n'
    )


def drawn(figures: Sequence[Figure], prefix: str) -> str:
    """The figures side by side; `prefix` is unique to them on the page."""
    svgs = (f"<figure>{plots.to_svg(figure, prefix=f'{prefix}f{n}')}</figure>" for n, figure in enumerate(figures))
    return f'<div class="figures">{"".join(svgs)}</div>'


def tiles(named: Mapping[str, str]) -> str:
    """Headline figures: what it is -> what it says."""
    cells = (
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in named.items()
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain cells."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
