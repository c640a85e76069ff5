#!/usr/bin/env python3
"""Opens a page in Chromium and uses it as a person would, by the DevTools protocol over a pipe (no packages, no network).

In:  the path of a page. With --screenshot FILE, also --dark, --width, --height, --top SELECTOR: a picture of it, PNG or JPEG.
Out: JSON: what was requested, what the console said, what filter, order and a click did, contrasts in light and dark.
"""

import argparse
import base64
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe", "--force-color-profile=srgb",
]
# The least contrast of every text with what is behind it (WCAG 2, relative luminance).
CONTRAST = """(() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const rgb = parse(getComputedStyle(at).backgroundColor);
      if (rgb.length === 3 || rgb[3] > 0.99) return rgb;
    }
    return [255, 255, 255];
  };
  let least = { ratio: 99, text: "" };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || element.closest("script, style, option, .skip") || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(parse(element.closest("svg") ? style.fill : style.color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < least.ratio) least = { ratio, text: walk.currentNode.data.trim().slice(0, 60) };
  }
  return least;
})()"""


class Browser:
    """A Chromium with one page."""

    def __init__(self, folder: str):
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        # It reads commands from file descriptor 3 and writes answers to 4.
        command = f'exec chromium "$@" 3<&{to_browser} 4>&{from_browser}'
        self.process = subprocess.Popen(
            ["bash", "-c", command, "bash", *FLAGS, f"--user-data-dir={folder}", "about:blank"],
            pass_fds=(to_browser, from_browser), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._rest, self._next, self.events, self.session = b"", 0, [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _receive(self) -> dict:
        while b"\0" not in self._rest:
            chunk = os.read(self._in, 1 << 16)
            if not chunk:
                raise SystemExit("chromium ended early")
            self._rest += chunk
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def call(self, method: str, **params):
        self._next += 1
        message = {"id": self._next, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._next:
                if "error" in answer:
                    raise SystemExit(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def wait(self, method: str) -> None:
        while not any(event["method"] == method for event in self.events):
            self.events.append(self._receive())

    def run(self, script: str):
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise SystemExit(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def click(self, selector: str) -> None:
        """With the mouse, in the middle of the element."""
        place = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center', behavior: 'instant'}});"
            "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def key(self, name: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code)

    def close(self) -> None:
        self.session = None
        try:
            self.call("Browser.close")
        except (SystemExit, BrokenPipeError):
            pass
        self.process.wait(timeout=20)


def use(browser: Browser, page: Path, words: str) -> dict:
    """What a person finds who filters for `words`, orders by key and opens a card."""
    browser.call("Emulation.setDeviceMetricsOverride", width=1200, height=900, deviceScaleFactor=1, mobile=False)
    browser.call("Page.navigate", url=page.as_uri())
    browser.wait("Page.loadEventFired")
    found = {}
    keys = "[...document.querySelectorAll('.entry')].filter((e) => !e.hidden && e.offsetParent).map((e) => e.dataset.key)"
    first = "[...document.querySelector('.gallery').children].map((e) => e.dataset.key)"
    found["title"] = browser.run("document.title")
    found["text"] = browser.run("document.body.innerText")
    found["scripts"] = browser.run("[...document.scripts].map((s) => s.type)")
    found["handlers"] = browser.run(
        "[...document.querySelectorAll('*')].flatMap((e) => [...e.attributes]).filter((a) => a.name.startsWith('on') || a.name === 'style').length"
    )
    found["all"] = browser.run(keys)
    browser.click("#words")
    browser.call("Input.insertText", text=words)
    found["filtered"] = browser.run(keys)
    found["shown"] = browser.run("document.getElementById('shown').textContent")
    browser.call("Input.insertText", text=" no-card-has-this-word")
    found["none"] = browser.run(keys)
    found["nothing"] = browser.run("!document.getElementById('nothing').hidden")
    browser.run("document.getElementById('words').select()")
    browser.key("Backspace", 8)
    found["cleared"] = browser.run(keys)
    found["as found"] = browser.run(first)
    browser.run("document.getElementById('order').focus()")
    browser.key("ArrowDown", 40)
    found["by key"] = browser.run(first)
    browser.key("ArrowUp", 38)
    found["as found again"] = browser.run(first)
    browser.click(".entry .open")
    found["dialog"] = browser.run(
        "(() => { const d = document.getElementById('row'); return {open: d.open, key: document.getElementById('row-key').textContent,"
        "names: [...d.querySelectorAll('dt')].map((e) => e.textContent), values: [...d.querySelectorAll('dd')].map((e) => e.textContent)}; })()"
    )
    browser.key("ArrowRight", 39)
    found["next"] = browser.run("document.getElementById('row-key').textContent")
    browser.key("Escape", 27)
    found["closed"] = browser.run("!document.getElementById('row').open")
    found["focus"] = browser.run("document.activeElement.className")
    browser.key("Tab", 9)
    found["tab"] = browser.run("document.activeElement.className")
    found["contrast"], found["paper"] = {}, {}
    for scheme in ("light", "dark"):
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        found["contrast"][scheme] = browser.run(CONTRAST)
        found["paper"][scheme] = browser.run("getComputedStyle(document.body).backgroundColor")
    browser.call("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
    found["wider than a phone"] = browser.run("document.documentElement.scrollWidth > 390")
    found["pictures"] = browser.run("[...document.images].map((i) => i.complete && i.naturalWidth)")
    found["pwned"] = browser.run("typeof window.pwned")
    time.sleep(0.3)
    browser.run("1")
    requests = [event["params"]["request"]["url"] for event in browser.events if event["method"] == "Network.requestWillBeSent"]
    found["requests"] = sorted({url for url in requests if not url.startswith("data:image/jpeg;base64,")})
    said = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    found["console"] = [json.dumps(event["params"])[:600] for event in browser.events if event["method"] in said]
    return found


def screenshot(browser: Browser, arguments: argparse.Namespace) -> None:
    browser.call("Emulation.setDeviceMetricsOverride", width=arguments.width, height=arguments.height, deviceScaleFactor=1, mobile=False)
    scheme = "dark" if arguments.dark else "light"
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.call("Page.navigate", url=arguments.page.resolve().as_uri())
    browser.wait("Page.loadEventFired")
    if arguments.click:
        browser.click(arguments.click)
    if arguments.top:
        browser.run(f"document.querySelector({json.dumps(arguments.top)}).scrollIntoView({{behavior: 'instant'}})")
    time.sleep(0.5)
    options = {"format": "png"} if arguments.screenshot.suffix == ".png" else {"format": "jpeg", "quality": 82}
    arguments.screenshot.write_bytes(base64.b64decode(browser.call("Page.captureScreenshot", **options)["data"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("words", nargs="?", default="")
    parser.add_argument("--screenshot", type=Path)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--width", type=int, default=1200)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--top")
    parser.add_argument("--click")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Browser(folder)
        try:
            if arguments.screenshot:
                screenshot(browser, arguments)
            else:
                print(json.dumps(use(browser, arguments.page.resolve(), arguments.words)))
        finally:
            browser.close()


if __name__ == "__main__":
    main()
