"""What tests of HTML pages share: a page as a browser sees it, the data of its figures, whether it could fetch anything."""

import json
import re
from html.parser import HTMLParser

import text_commands  # noqa: F401: the scripts' packages on the path


class Elements(HTMLParser):
    """What a browser sees: [(tag, attributes)], the texts of scripts, the text between tags; `wrong`: elements that are not closed in order."""

    VOID = {"meta", "br", "hr", "input"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.words, self.inside, self.open, self.wrong = [], [], [], None, [], []
        self.feed(text)
        self.wrong += self.open

    @property
    def text(self):
        return "".join(self.words)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = None
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside != "style":
            self.words.append(data)


def data_of(text):
    """What the page gives its figures."""
    return json.loads(re.search(r'<script type="application/json" id="page-data">(.*?)</script>', text, re.S)[1])


def assert_fetches_nothing(case, text):
    """No element names anything outside, and the page's own policy forbids its scripts to fetch."""
    from reports.page import plotly_script

    seen = Elements(text)
    case.assertEqual(seen.wrong, [])
    policy = next(attributes["content"] for tag, attributes in seen.tags if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy")
    case.assertTrue(policy.startswith("default-src 'none'; "))
    case.assertNotRegex(policy, r"http|\*|'self'|unsafe-eval|connect-src")
    for tag, attributes in seen.tags:
        case.assertNotIn(tag, ("link", "img", "iframe", "object", "embed", "base", "image", "video", "audio", "source", "form"))
        case.assertTrue(attributes.get("href", "#").startswith("#"), attributes)  # places on the page itself
        case.assertFalse({"src", "srcset", "background", "style-src", "onload", "onclick", "onerror"} & set(attributes), (tag, attributes))
    rest = text.replace(plotly_script(), "")
    case.assertNotRegex(rest, r"url\(|@import|https?://|fetch\(|XMLHttpRequest|WebSocket|sendBeacon|import\(")
    case.assertLessEqual(text.count(plotly_script()), 1)


def validated(figure):
    """The figure as plotly's own schema takes it; raises where a key or a value is unknown to it. Our names for colours stand for real ones."""
    import plotly.graph_objects as go
    from reports import page

    names = page.scheme(page.LIGHT)

    def real(value, colour=False):
        if isinstance(value, dict):
            return {key: real(item, "color" in key and key != "colorbar") for key, item in value.items()}
        if isinstance(value, list):
            return [real(item, colour) for item in value]
        return names.get(value.split("/")[0], "no such colour " + value) if colour and isinstance(value, str) else value

    return go.Figure({"data": real(figure["data"]), "layout": real(figure["layout"])})
