"""A report as Markdown and as an HTML page that needs no other file."""

import base64
import dataclasses
import html
import os
import re
import textwrap
import urllib.parse
from collections.abc import Sequence

from rigl_keras.common import tables

_NUMERIC = re.compile(r"[-+−–\d.,e%/± ]*|[-+]?(nan|inf)( ± nan)?")
_MARKDOWN_SIGNS = re.compile(r"([\\`*<|\[])")
_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2128; --faint: #5b6470;
  --rule: #d5dae0; --shade: #f4f6f8; --link: #0b57a4; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e3e6ea;
  --faint: #9aa4b0; --rule: #363c44; --shade: #1f2429; --link: #7db4f0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem clamp(0.8rem, 3vw, 2.5rem) 4rem; max-width: 84rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0; }
h2 { font-size: 1.25rem; margin: 0; display: inline; }
section { margin-top: 2.5rem; scroll-margin-top: 1rem; }
p { max-width: 46rem; margin: 0.6rem 0; color: var(--faint); }
a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; font-size: 0.95rem; }
summary { cursor: pointer; }
figure { margin: 0.8rem 0; overflow-x: auto; scroll-margin-top: 1rem; }
figure a { display: inline-block; max-width: 100%; }
img { display: block; max-width: 100%; height: auto; background: #fff;
  border: 1px solid var(--rule); border-radius: 6px; padding: 0.4rem; }
figure:target a, figure:target img { max-width: none; }
figure .smaller { display: none; }
figure:target .smaller { display: block; width: fit-content; position: sticky;
  left: 0; }
/* White turns dark and black light; hues stay. */
@media screen and (prefers-color-scheme: dark) { img { border-color: #c4c4c4;
  filter: invert(0.9) hue-rotate(180deg); } }
.wide { overflow-x: auto; margin: 0.8rem 0; }
table { border-collapse: collapse; font-size: 0.9rem; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th, td { padding: 0.32rem 0.7rem; text-align: left; vertical-align: baseline;
  border-bottom: 1px solid var(--rule); }
thead th { vertical-align: bottom; border-bottom: 2px solid var(--rule);
  background: var(--shade); }
tbody th { font-weight: 600; position: sticky; left: 0; background: var(--paper); }
tbody tr:hover > * { background: var(--shade); }
.number { text-align: right; }
.spread { display: inline-block; text-align: left; color: var(--faint);
  white-space: pre; }
pre { overflow-x: auto; margin: 0.8rem 0; padding: 0.8rem; font-size: 0.85rem;
  background: var(--shade); border: 1px solid var(--rule); border-radius: 6px; }
@media (max-width: 40rem) { tbody th { max-width: 45vw; white-space: normal;
  overflow-wrap: anywhere; } }
@media print { .wide { overflow: visible; } }
"""


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
      title: one line.
      text: a paragraph, or "".
      figure: name of a PNG file in the report's folder, or None.
      columns: names of the table's columns; none for no table.
      rows: the table's rows, strings, as many in each as there are columns.
      code: lines to show as they are, or "".
      folded: whether the page shows the title only, until a reader opens it.
    """

    title: str
    text: str = ""
    figure: str | None = None
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    code: str = ""
    folded: bool = False


def markdown_table(columns, rows):
    """A Markdown table in which no cell is taken for markup."""
    return tables.markdown([[_plain(cell) for cell in row] for row in [columns, *rows]])


def _plain(text):
    """Text on one line, of which Markdown makes no markup."""
    return _MARKDOWN_SIGNS.sub(r"\\\1", " ".join(text.split()))


def markdown(title, sections):
    """The report as Markdown, with links to the figures beside it.

    Args:
      title: one line.
      sections: list of `Section`.
    """
    blocks = [f"# {_plain(title)}"]
    for section in sections:
        blocks.append(f"## {_plain(section.title)}")
        if section.text:
            blocks.append(_plain(section.text))
        if section.figure:
            link = urllib.parse.quote(section.figure)
            blocks.append(f"![{_plain(section.title)}]({link})")
        if section.columns:
            blocks.append(markdown_table(section.columns, section.rows))
        if section.code:
            blocks.append(textwrap.indent(section.code, "    "))
    return "\n\n".join(blocks) + "\n"


def page(title, sections, folder):
    """The report as an HTML page: figures, style and all in one text.

    Args:
      title: one line.
      sections: list of `Section`.
      folder: where their figures are.

    Raises:
      OSError: for a figure that is not there.
    """
    links = "\n".join(
        f'<a href="#part{number}">{html.escape(section.title)}</a>'
        for number, section in enumerate(sections)
    )
    parts = "\n".join(
        f'<section id="part{number}">\n{_section(section, folder, number)}</section>'
        for number, section in enumerate(sections)
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
<nav>
{links}
</nav>
{parts}
</body>
</html>
"""


def _section(section, folder, number):
    head = f"<h2>{html.escape(section.title)}</h2>\n"
    body = ""
    if section.text:
        body += f"<p>{html.escape(section.text)}</p>\n"
    if section.figure:
        body += _figure(os.path.join(folder, section.figure), section.title, number)
    if section.columns:
        body += _table(section.columns, section.rows)
    if section.code:
        # A name to focus by: a keyboard scrolls it then.
        body += f'<pre tabindex="0">{html.escape(section.code)}</pre>\n'
    if section.folded:
        return f"<details>\n<summary>{head}</summary>\n{body}</details>\n"
    return head + body


def _figure(path, title, number):
    """A figure that is a link to itself: as the page's target it has its full size.

    No link to its data, which browsers do not open, nor to the file: the page needs
    no other.
    """
    with open(path, "rb") as file:
        data = base64.b64encode(file.read()).decode()
    return (
        f'<figure id="figure{number}" tabindex="0">'
        f'<a class="smaller" href="#part{number}">Smaller</a>'
        f'<a href="#figure{number}" title="Full size"><img alt="{html.escape(title)}" '
        f'src="data:image/png;base64,{data}"></a></figure>\n'
    )


def _table(columns, rows):
    cells = [_column(values) for values in zip(*rows, strict=True)] if rows else []
    numeric = [is_numeric for is_numeric, _ in cells] or [False] * len(columns)
    head = "".join(
        f'<th scope="col"{_class(is_numeric)}>{html.escape(name)}</th>'
        for name, is_numeric in zip(columns, numeric, strict=True)
    )
    lines = []
    for row in zip(*(column for _, column in cells), strict=True):
        line = f'<th scope="row"{_class(numeric[0])}>{row[0]}</th>'
        line += "".join(
            f"<td{_class(is_numeric)}>{cell}</td>"
            for cell, is_numeric in zip(row[1:], numeric[1:], strict=True)
        )
        lines.append(f"<tr>{line}</tr>\n")
    return (
        f'<div class="wide" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{''.join(lines)}</tbody>\n</table></div>\n"
    )


def _class(is_numeric):
    return ' class="number"' if is_numeric else ""


def _column(values):
    """Whether a column holds numbers, and its cells as HTML.

    Means line up whether or not a deviation follows: it has a field of its own.
    """
    if not all(_NUMERIC.fullmatch(value) for value in values):
        return False, [html.escape(value) for value in values]
    pairs = [value.partition(" ± ")[::2] for value in values]
    width = max(len(deviation) for _, deviation in pairs)
    if not width:
        return True, [html.escape(value) for value in values]
    style = f'class="spread" style="width: {width + 3}ch"'
    return True, [
        f"{mean}<span {style}>{f' ± {deviation}' if deviation else ''}</span>"
        for mean, deviation in pairs
    ]
