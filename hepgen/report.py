"""One HTML page that needs nothing beside it: sections of text, tables and pictures, with the pictures inside.

A content-security policy in its head forbids the browser to fetch anything, so that a report opens the same anywhere and tells nobody.
"""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from hepgen.errors import OutputError, UsageError
from hepgen.whole_files import write_whole

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1e21; background: #fff; max-width: 72rem; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.8rem; margin-bottom: 0.2rem; } h2 { font-size: 1.25rem; margin-top: 2.4rem; border-bottom: 2px solid #5790fc; }
.subtitle, figcaption, caption, footer { color: #5c6168; } figcaption, caption { font-size: 0.92rem; text-align: left; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin: 0.8rem 0; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; padding-top: 0.4rem; }
th, td { padding: 0.25rem 0.9rem; text-align: right; border-bottom: 1px solid #dfe2e6; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid #1c1e21; } tr.strong td { font-weight: 600; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; } footer { margin-top: 3rem; font-size: 0.85rem; }
@media print { h2 { break-after: avoid; } figure, table { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str

    def html(self) -> str:
        """Return the paragraph, escaped."""
        return f"<p>{escape(self.text)}</p>"


@dataclass(frozen=True)
class Table:
    """A table: column heads, rows of cells (the first cell names the row), a caption; rows listed in `strong` are set bold."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    strong: Sequence[int] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.head):
                raise UsageError(f"a table row has {len(row)} cells, its head has {len(self.head)}: {row}")

    def html(self) -> str:
        """Return the table, escaped."""
        head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in self.head)
        body = []
        for number, row in enumerate(self.rows):
            cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
            mark = ' class="strong"' if number in self.strong else ""
            body.append(f"<tr{mark}>{cells}</tr>")
        caption = f"<caption>{escape(self.caption)}</caption>" if self.caption else ""
        return f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


@dataclass(frozen=True)
class Picture:
    """A PNG picture, kept inside the page, with a caption that also serves those who cannot see it."""

    png: bytes
    caption: str

    def __post_init__(self) -> None:
        if not self.png.startswith(b"\x89PNG\r\n\x1a\n"):
            raise UsageError(f"the picture {self.caption!r} is not a PNG file")

    def html(self) -> str:
        """Return the figure with the picture as base64."""
        encoded = base64.b64encode(self.png).decode("ascii")
        caption = escape(self.caption)
        return f'<figure><img alt="{caption}" src="data:image/png;base64,{encoded}"><figcaption>{caption}</figcaption></figure>'


@dataclass(frozen=True)
class Section:
    """A headed part of the page."""

    title: str
    blocks: Sequence[Text | Table | Picture] = field(default_factory=tuple)

    def html(self) -> str:
        """Return the heading and its blocks."""
        return f"<section><h2>{escape(self.title)}</h2>\n" + "\n".join(block.html() for block in self.blocks) + "\n</section>"


def render(title: str, sections: Sequence[Section], *, subtitle: str = "", footer: str = "") -> str:
    """Return the whole page as HTML 5.

    Parameters
    ----------
    title, subtitle, footer : plain text
    sections : in the order they are shown
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f'<p class="subtitle">{escape(subtitle)}</p>' if subtitle else "",
        *(section.html() for section in sections),
        f"<footer>{escape(footer)}</footer>" if footer else "",
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def write(path: str | os.PathLike[str], page: str, *, overwrite: bool = False) -> Path:
    """Write a page, under its final name only once it is whole.

    OutputError where that name exists (unless `overwrite`) or cannot be written.
    """
    target = Path(path)
    if target.exists() and not overwrite:
        raise OutputError(f"the report {target} exists already: choose another name or allow overwriting")
    try:
        write_whole(target, page.encode())
    except OSError as error:
        raise OutputError(f"cannot write the report {target} ({error.strerror}): choose another folder") from None
    return target


def refuse_folder(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Return `path` as a folder that may be written into; OutputError where it is a file, or holds files and `overwrite` is not set."""
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file: choose a folder to write into")
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise OutputError(f"the folder {folder} exists and holds files: choose another or allow overwriting")
    return folder


def write_folder(
    path: str | os.PathLike[str], contents: Mapping[str, bytes], *, overwrite: bool = False, stale: Iterable[str] = ()
) -> list[Path]:
    """Write files into a folder once all of them are whole, and return their paths.

    Parameters
    ----------
    path : folder, made with its parents where it is not there
    contents : file name -> bytes
    overwrite : allow the folder to hold files; only those of the same names are replaced
    stale : names of files of an earlier run, removed where they are not among `contents`

    Raises
    ------
    OutputError
        As `refuse_folder`, or where the folder cannot be written.
    """
    folder = refuse_folder(path, overwrite=overwrite)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # beside, so that moving in is a rename
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as beside:
            for name, content in contents.items():
                (Path(beside) / name).write_bytes(content)
            folder.mkdir(exist_ok=True)
            for name in set(stale) - set(contents):
                (folder / name).unlink(missing_ok=True)
            for name in contents:
                (Path(beside) / name).replace(folder / name)
    except OSError as error:
        raise OutputError(f"cannot write into the folder {folder} ({error.strerror}): choose another") from None
    return [folder / name for name in contents]
