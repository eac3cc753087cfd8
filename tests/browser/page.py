"""The web page in a real browser: headless Chromium driven through Debian's chromedriver.

`Page` speaks in terms of a user: open, add files, ask, read the list. It waits for states, never for
times. What goes over the network is recorded in the page itself (`requests()`)."""

import base64
import contextlib
import json
import os
import pathlib
import shutil
import time

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEMO = ROOT / "demo"
DESKTOP, PHONE = (1280, 800), (390, 844)
WAIT_SECONDS = 60

# Runs before any script of the page: remembers what is sent, so that tests can count uploads.
RECORD = """
window.__sent = [];
const describe = (body) => body instanceof FormData
    ? Object.fromEntries([...body].map(([k, v]) => [k, v instanceof Blob ? `file:${v.size}` : v])) : {};
const realFetch = window.fetch;
window.fetch = (url, options = {}) => {
  window.__sent.push({method: options.method ?? 'GET', url: String(url), fields: describe(options.body)});
  return realFetch(url, options);
};
const realOpen = XMLHttpRequest.prototype.open, realSend = XMLHttpRequest.prototype.send;
XMLHttpRequest.prototype.open = function (method, url) { this.__to = {method, url}; return realOpen.apply(this, arguments); };
XMLHttpRequest.prototype.send = function (body) {
  window.__sent.push({...this.__to, fields: describe(body)});
  return realSend.apply(this, arguments);
};
window.__errors = [];
addEventListener('error', (event) => window.__errors.push(String(event.message)));
addEventListener('unhandledrejection', (event) => window.__errors.push(String(event.reason)));
addEventListener('securitypolicyviolation', (event) => window.__errors.push(`CSP: ${event.violatedDirective} ${event.blockedURI}`));
"""


def missing():
    """Why no browser can be driven here, or None."""
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            return f"{program} is not installed: run tools/setup.sh --oracle"
    return None


def start_driver(downloads):
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                 "--force-device-scale-factor=1", "--force-color-profile=srgb",
                 "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=shutil.which("chromedriver")))
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": RECORD})
    return driver


class Page:
    def __init__(self, driver, address, downloads):
        self.driver, self.url, self.downloads = driver, f"http://{address}/", pathlib.Path(downloads)

    # --- opening --------------------------------------------------------------------------------
    def open(self, size=DESKTOP, language="en-US", dark=False):
        """A fresh page: nothing stored, at that width, with that language of the browser."""
        run = self.driver.execute_cdp_cmd
        width, height = size
        phone = width < 700
        run("Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 0, "mobile": phone})
        run("Emulation.setTouchEmulationEnabled", {"enabled": phone, "maxTouchPoints": 5})
        run("Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
                          {"name": "prefers-reduced-motion", "value": "reduce"}]})  # no colours in between
        agent = run("Browser.getVersion", {})["userAgent"].replace("Headless", "")
        run("Emulation.setUserAgentOverride", {"userAgent": agent, "acceptLanguage": language})
        run("Storage.clearDataForOrigin", {"origin": self.url.rstrip("/"), "storageTypes": "all"})
        self.driver.get(self.url)
        self.wait(lambda: self.js("return document.documentElement.dataset.ready") == "true", "the page is ready")
        return self

    # --- looking --------------------------------------------------------------------------------
    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def js_async(self, script, *arguments):
        """`script` is the body of an async function; its value comes back, its exception is raised."""
        result = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            f"(async (...args) => {{ {script} }})(...arguments).then(v => done({{v}}), e => done({{e: String(e)}}));", *arguments)
        if "e" in result:
            raise AssertionError(result["e"])
        return result.get("v")

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return self.js("return document.querySelector(arguments[0]).textContent.trim()", selector)

    def visible(self, selector):
        return self.js("const n = document.querySelector(arguments[0]); return Boolean(n) && n.getClientRects().length > 0", selector)

    def wait(self, condition, what, seconds=WAIT_SECONDS):
        try:
            return WebDriverWait(self.driver, seconds, poll_frequency=0.05).until(lambda _: condition())
        except Exception as error:
            raise AssertionError(f"waited in vain until {what}; the page shows: {self.text('main')[:600]!r}; "
                                 f"errors: {self.js('return window.__errors')}") from error

    def requests(self, path=None):
        sent = self.js("return window.__sent")
        return [s for s in sent if path is None or s["url"].endswith(path)]

    def errors(self):
        return self.js("return window.__errors")

    def findings(self):
        """[{label, box, confidence, review}] of the list, as text that a screen reader would find."""
        return self.js("""
          return [...document.querySelectorAll('#findings > li')].map((row) => ({
            label: row.querySelector('.finding-label').textContent,
            place: row.querySelector('.finding-place').textContent.match(/\\d+/g).map(Number),
            confidence: row.querySelector('.finding-confidence').textContent,
            review: row.classList.contains('review')}))""")

    def marks(self):
        """[{label, box in CSS px of the stage, classes}] as drawn over the image."""
        return self.js("""
          const origin = document.getElementById('stage').getBoundingClientRect();
          return [...document.querySelectorAll('#overlay > .mark')].map((node) => {
            const r = node.getBoundingClientRect();
            return {label: node.textContent, classes: node.className.split(' '),
                    box: [r.left - origin.left, r.top - origin.top, r.right - origin.left, r.bottom - origin.top]};
          })""")

    # --- doing ----------------------------------------------------------------------------------
    def click(self, selector):
        self.find(selector).click()

    def add(self, *paths):
        before = len(self.all("#thumbnails > li"))
        self.find("#file").send_keys("\n".join(str(path) for path in paths))
        self.wait(lambda: len(self.all("#thumbnails > li")) >= before + len(paths), f"{len(paths)} image(s) were added")
        self.settle()

    def settle(self):
        """Until what was changed has been drawn."""
        self.js_async("await new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)));")

    def type_prompt(self, text):
        self.js("document.getElementById('prompt').value = ''")
        self.find("#prompt").send_keys(text)

    def ask(self, prompt):
        self.type_prompt(prompt)
        self.find("#prompt").send_keys(Keys.ENTER)
        self.wait_answer()

    def wait_answer(self):
        self.wait(lambda: self.visible("#ask") and (self.visible("#verdict") or self.visible("#failure")), "there is an answer")
        self.settle()

    def tab(self, name):
        self.click(f"#tab-{name}")

    def press(self, *keys):
        ActionChains(self.driver).send_keys(*keys).perform()

    def downloaded(self, name, act):
        path = self.downloads / name
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        act()
        self.wait(lambda: path.exists() and path.stat().st_size > 0, f"{name} has been downloaded")
        return path

    def screenshot(self, path):
        self.settle()
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        pathlib.Path(path).write_bytes(base64.b64decode(shot["data"]))
