"""What all pages share: the frame of the document, its style in light and dark, tables, escaping."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --paper: #fcfcfa; --card: #ffffff; --ink: #1d2126; --soft: #5d6670; --line: #d9dcdf;
  --accent: #1f6feb; --heat0: #9aa7b5; --heat1: #4f93c9; --heat2: #2f9e77; --heat3: #d9902f; --heat4: #d2452d;
  --area: #1f6feb33; --good: #1a7f4b; --bad: #c2331c; --wire: #8a949e; --mark: #fff3c4; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --card: #1c2024; --ink: #e8eaec; --soft: #9aa4ae;
  --line: #343a41; --accent: #6ba6ff; --heat0: #6d7985; --heat1: #5aa5dd; --heat2: #4cc79b; --heat3: #efb04c;
  --heat4: #ff7a5c; --area: #6ba6ff33; --good: #4cc78a; --bad: #ff7a5c; --wire: #77818b; --mark: #3d3415; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  -webkit-text-size-adjust: 100%; }
main { max-width: 1120px; margin: 0 auto; padding: 20px 16px 60px; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 32px 0 8px; }
p { margin: 6px 0; max-width: 75ch; }
.soft, figcaption { color: var(--soft); font-size: .88rem; }
code, .mono { font-family: ui-monospace, monospace; font-size: .88em; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 8px; margin: 16px 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 8px 12px; }
.tile b { display: block; font-size: 1.15rem; font-weight: 600; overflow-wrap: anywhere; }
.tile span { color: var(--soft); font-size: .82rem; }
figure { margin: 12px 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px; }
figure .scroll { overflow-x: auto; }
svg { display: block; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg .ink { fill: var(--ink); }
svg .wire { fill: none; stroke: var(--wire); }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .axis { stroke: var(--wire); stroke-width: 1; }
.heat0 { fill: var(--heat0); } .heat1 { fill: var(--heat1); } .heat2 { fill: var(--heat2); }
.heat3 { fill: var(--heat3); } .heat4 { fill: var(--heat4); }
table { border-collapse: collapse; width: 100%; background: var(--card); }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
th, td { text-align: left; padding: 5px 10px; border-top: 1px solid var(--line); vertical-align: top; }
thead th { border-top: 0; font-weight: 600; font-size: .82rem; color: var(--soft); white-space: nowrap; }
.once { white-space: nowrap; }
p.long { max-width: none; }
@media (min-width: 641px) { .cards td.full { min-width: 150px; } }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr:target, .row:target { background: var(--mark); }
.share { display: inline-block; height: .6em; min-width: 1px; border-radius: 2px; background: var(--accent); }
a { color: var(--accent); text-decoration: none; }
details > summary { cursor: pointer; margin: 12px 0 8px; color: var(--accent); }
.key { display: flex; flex-wrap: wrap; gap: 4px 14px; font-size: .82rem; color: var(--soft); }
.key svg { display: inline-block; vertical-align: -1px; margin-right: 4px; }
.good { color: var(--good); } .bad { color: var(--bad); }
@media (max-width: 640px) {
  main { padding: 14px 10px 40px; }
  .cards thead { display: none; }
  .cards, .cards tbody { display: block; }
  .cards tr { display: flex; flex-wrap: wrap; gap: 0 14px; padding: 7px 10px;
    border-top: 1px solid var(--line); }
  .cards td { display: block; border: 0; padding: 1px 0; text-align: left; white-space: normal; }
  .cards td.full { flex-basis: 100%; }
  .cards td.named { flex-basis: 100%; }
  .cards td.n::before, .cards td.named::before { content: attr(data-name) " "; color: var(--soft); font-size: .8rem; }
}
"""


def document(title: str, body: Iterable[str]) -> str:
    """Return a complete HTML page; `title` is escaped, `body` is HTML."""
    return "\n".join(
        [
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"/>',
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>",
            *body,
            "</main></body></html>\n",
        ]
    )


def tiles(pairs: Iterable[tuple[str, str]]) -> str:
    """Return numbers with what they are, side by side: pairs of (value, name)."""
    cells = (f'<div class="tile"><b>{escape(v)}</b><span>{escape(name)}</span></div>' for v, name in pairs)
    return f'<div class="tiles">{"".join(cells)}</div>'


def table(
    heads: Sequence[str],
    rows: Iterable[tuple[str, Sequence[str]]],
    kinds: Sequence[str],
    *,
    cards: bool = False,
) -> str:
    """Return a table; cells are HTML, heads are escaped.

    Args:
        rows: pairs of (id of the row or "", its cells).
        kinds: class of each column: `n` for numbers; what gets a line of its own on a phone is `full`, or `named` if
            the head of the column stands before it there.
        cards: whether a row becomes a card on a phone, instead of a table that scrolls sideways.
    """
    head = "".join(f'<th class="{kind}">{escape(h)}</th>' for h, kind in zip(heads, kinds, strict=True))
    lines = []
    for name, cells in rows:
        tds = "".join(
            f'<td class="{kind}" data-name="{escape(h)}">{cell}</td>'
            for h, kind, cell in zip(heads, kinds, cells, strict=True)
        )
        lines.append(f'<tr id="{escape(name)}">{tds}</tr>' if name else f"<tr>{tds}</tr>")
    kind = ' class="cards"' if cards else ""
    body = "\n".join(lines)
    return (
        f'<div class="wide"><table{kind}><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'
    )


def key(entries: Iterable[tuple[str, str]]) -> str:
    """Return what colours mean: pairs of (class of the mark, what it stands for)."""
    cells = (
        f'<span><svg width="10" height="10"><circle cx="5" cy="5" r="4.5" class="{mark}"/></svg>{escape(name)}</span>'
        for mark, name in entries
    )
    return f'<div class="key">{"".join(cells)}</div>'
