"""A page as a reader's program sees it: its tags, attributes, texts and programs."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser


class Parsed(HTMLParser):
    """Tags by name, attributes, visible text, and the contents of scripts and styles.

    Attributes:
        tags: Number of each tag.
        attributes: All pairs of name and value.
        texts: Visible text, without white space at its ends.
        programs: Contents of scripts that run.
        charts: Contents of the blocks of JSON.
        policy: The content security policy.
    """

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.programs: list[str] = []
        self.charts: list[str] = []
        self.policy = ""
        self._inside = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        named = {name: value or "" for name, value in attrs}
        self.attributes += named.items()
        if tag in ("script", "style"):
            self._inside = "json" if "data-chart" in named else tag
            {"json": self.charts, "script": self.programs}.get(self._inside, []).append("")
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"]

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "json":
            self.charts[-1] += data
        elif self._inside == "script":
            self.programs[-1] += data
        elif not self._inside and data.strip():
            self.texts.append(data.strip())
