#!/usr/bin/env python3
"""Parses a page. In: the path of an HTML file. Out: JSON: its elements by name, its galleries, its rows, its texts, and what it could load."""

import json
import re
import sys
from collections import Counter
from html.parser import HTMLParser

VOID = {"meta", "img", "link", "br", "hr", "input", "rect", "line"}


class Outline(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.loads = Counter(), Counter(), []
        self.open, self.galleries, self.texts, self.captions = [], {}, [], []
        self.policy, self.rows, self.titles, self.bars = None, "", [], 0

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags[tag] += 1
        self.attributes.update(given.keys())
        self.loads += [value for name, value in given.items() if name in ("src", "href", "action", "poster", "data", "srcset", "xlink:href")]
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]
        if tag == "section" and "id" in given:
            self.galleries[given["id"]] = []
        if tag == "li":
            next(reversed(self.galleries.values())).append(given["data-key"])
        if given.get("class", "").split()[:1] == ["caption"]:
            self.captions.append("")
        self.bars += given.get("class") == "bar"
        if tag not in VOID:
            self.open.append((tag, given))

    def handle_endtag(self, tag):
        if tag in VOID or tag in ("circle", "path"):
            while self.open and self.open[-1][0] == tag:
                self.open.pop()
            return
        if not self.open or self.open[-1][0] != tag:
            sys.exit(f"</{tag}> at {self.getpos()} ends {self.open[-1:]}")
        self.open.pop()

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_data(self, data):
        tag, given = self.open[-1] if self.open else ("", {})
        if given.get("id") == "rows":
            self.rows += data
        elif tag not in ("script", "style"):
            self.texts.append(data)
            if any(inner.get("class", "").split()[:1] == ["caption"] for _, inner in self.open):
                self.captions[-1] += data


with open(sys.argv[1], encoding="utf-8") as page:
    text = page.read()
outline = Outline()
outline.feed(text)
outline.close()
if outline.open:
    sys.exit(f"never ended: {outline.open}")
print(json.dumps({
    "tags": outline.tags, "attributes": sorted(outline.attributes), "loads": outline.loads, "galleries": outline.galleries,
    "rows": json.loads(outline.rows), "text": re.sub(r"[ \n\t]+", " ", " ".join(outline.texts)), "captions": outline.captions, "policy": outline.policy,
    "bars": outline.bars,
}))
