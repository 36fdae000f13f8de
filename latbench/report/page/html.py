"""A page as one HTML file that loads nothing: charts, their JavaScript and the style are in it.

Texts of a page may come from files of strangers. The template escapes all of them, and charts are
JSON in which no tag can begin. As a second barrier the file's content security policy allows only
the two programs that the file was written with, and no request.
"""

from __future__ import annotations

import json
from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files

from latbench import __version__
from latbench.errors import InvalidFileError
from latbench.files import cache_folder, write_atomically
from latbench.lazy import needing
from latbench.report.page.document import Figure, Page, Spec
from latbench.report.page.palette import DARK, FONT, LIGHT

with needing("report"):
    import jinja2
    import vl_convert
    from markupsafe import Markup

_SNIPPET = "window.vegaEmbed = vegaEmbed;"  # what the bundle defines
_ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


@dataclass(frozen=True)
class _Chart:
    """The chart of a figure."""

    id: str
    json: Markup


def to_html(page: Page) -> bytes:
    """The file of a page."""
    vega, program = _vega(), _resource("page.js")
    charts = [
        _Chart(f"figure-{number}", Markup(json_for_html(_described(figure))))
        for number, figure in enumerate(page.figures, start=1)
    ]
    plain = jinja2.Environment(autoescape=False, keep_trailing_newline=True)
    style = plain.from_string(_resource("page.css")).render(light=LIGHT, dark=DARK, font=FONT)
    escaping = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    text = escaping.from_string(_resource("page.html")).render(
        page=page,
        charts=charts,
        style=Markup(style),
        vega=Markup(vega),
        program=Markup(program),
        policy=_policy(vega, program),
        version=__version__,
    )
    return text.encode("utf-8", "replace")  # a file name may hold what is no character


def json_for_html(value: object) -> str:
    """JSON as ASCII in which no tag or character reference can begin."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).translate(_ESCAPES)


def _policy(*programs: str) -> str:
    """Content security policy that allows these programs."""
    hashes = [b64encode(sha256(program.encode()).digest()).decode() for program in programs]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )


def _described(figure: Figure) -> Spec:
    """The chart of a figure with its title and caption for screen readers."""
    return figure.spec | {"description": f"{figure.title}. {figure.caption}"}


@cache
def _vega() -> str:
    """JavaScript of Vega. Bundling takes seconds, so the text is kept for later pages."""
    kept = cache_folder() / f"vega-{vl_convert.get_vega_version()}.js"
    try:
        digest, _, known = kept.read_text(encoding="utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        digest = known = ""
    if digest == _digest(known):
        return known
    bundled = vl_convert.javascript_bundle(_SNIPPET).replace("</script", "<\\/script")
    with suppress(InvalidFileError):  # the next page is slower then
        write_atomically(kept, f"{_digest(bundled)}\n{bundled}")
    return bundled


def _digest(text: str) -> str:
    return f"// {sha256(text.encode()).hexdigest()}"


def _resource(name: str) -> str:
    return (files("latbench.report.page") / name).read_text(encoding="utf-8")
