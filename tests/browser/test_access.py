"""For everyone: no serious finding of axe-core, everything by keyboard, spoken progress, small windows."""

import importlib.util
import pathlib

import pytest
from page import DEMO, DESKTOP, PHONE
from selenium.webdriver.common.keys import Keys

AXE = (pathlib.Path(importlib.util.find_spec("axe_playwright_python").submodule_search_locations[0]) / "axe.min.js").read_text(encoding="utf-8")


def serious(page):
    """[(rule, places)] of axe-core's findings that are serious or critical."""
    page.settle()
    if not page.js("return Boolean(window.axe)"):
        page.js(AXE)
    found = page.js_async("return (await axe.run(document, {resultTypes: ['violations']})).violations;")
    return [(v["id"], [n["target"] for n in v["nodes"]]) for v in found if v["impact"] in ("serious", "critical")]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("language, prompt, absent", [("en-US", "all mammals", "the guitar"), ("zh-CN", "所有哺乳动物", "吉他")])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing_serious_in_any_state(page, size, language, prompt, absent, dark):
    page.open(size=size, language=language, dark=dark)
    states = {}

    def check(state):
        states[state] = serious(page)

    check("welcome")
    page.js("document.getElementById('tips').open = true")
    check("tips")
    page.js("document.getElementById('tips').open = false")
    page.add(DEMO / "farm.png")
    check("image")
    page.ask(prompt)
    check("answer")
    page.js("document.querySelector('.finding-main').click()")
    check("selected")
    page.js("document.querySelector('[data-tool=editBox]').click()")
    check("editing")
    page.js("document.getElementById('edit-cancel').click()")
    page.ask("all red things")
    check("review and advice")
    page.ask(absent)
    check("absent")
    for tab in ("history", "code", "json"):
        page.js("document.getElementById(arguments[0]).click()", f"tab-{tab}")
        check(tab)
    page.js("document.getElementById('tab-result').click()")
    page.js("window.fetch = () => Promise.reject(new TypeError('no network'))")
    page.ask(prompt)
    check("failure")
    assert {state: found for state, found in states.items() if found} == {}


@pytest.mark.parametrize("language", ["en-US", "zh-CN"])
@pytest.mark.parametrize("width", [320, 390, 768, 960, 1280, 1920])
def test_nothing_sticks_out_at_any_width(page, width, language):
    page.open(size=(width, 800), language=language)
    overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.js(overflow) <= 0
    page.add(DEMO / "farm.png", DEMO / "night.png")
    page.ask("all mammals")
    page.ask("all owls")
    assert page.js(overflow) <= 0
    page.js("document.querySelector('.finding-main').click()")
    for tab in ("history", "code", "json", "result"):
        page.js("document.getElementById(arguments[0]).click()", f"tab-{tab}")
        page.settle()
        assert page.js(overflow) <= 0, tab


def test_targets_for_fingers_are_large_enough(page):
    page.open(size=PHONE)
    page.add(DEMO / "farm.png")
    page.ask("all mammals")
    page.js("document.querySelector('.finding-main').click()")
    page.settle()
    small = page.js("""
      return [...document.querySelectorAll('button, summary, .mode label')].filter((n) => n.getClientRects().length && !n.closest('.editor'))
          .map((n) => [n.id || n.className, n.getBoundingClientRect()])
          .filter(([, r]) => r.width < 24 || r.height < 24).map(([name, r]) => `${name} ${r.width} x ${r.height}`)""")
    assert small == []


def focus(page):
    return page.js("const n = document.activeElement; return n.id || n.dataset.sample || n.dataset.tool || n.className || n.tagName")


def test_the_whole_way_by_keyboard(page):
    page.press(Keys.TAB)
    assert focus(page) == "skip"
    page.press(Keys.ENTER)
    page.press("/")
    assert focus(page) == "prompt"
    for _ in range(30):
        if focus(page) == "fruit":
            break
        page.press(Keys.TAB)
    page.press(Keys.ENTER)  # an example
    page.wait(lambda: page.visible("#viewer"), "the example is shown")
    page.wait(lambda: focus(page) == "prompt", "the prompt is next")
    page.press("all red apples", Keys.ENTER)
    page.wait_answer()
    assert page.text("#verdict") == "3 found"
    order = []
    for _ in range(60):
        page.press(Keys.TAB)
        order.append(focus(page))
        if order[-1] == "save-coco":
            break
    for name in ("ask", "stage", "zoom-in", "tab-result", "threshold", "finding-main", "save-image"):
        assert name in order, (name, order)
    assert order.index("ask") < order.index("stage") < order.index("tab-result") < order.index("threshold") < order.index("finding-main")
    page.js("document.querySelector('.finding-main').focus()")
    page.press(Keys.ENTER)
    page.settle()
    page.press(Keys.TAB)
    assert focus(page) == "zoomToIt"


def test_tabs_follow_the_arrow_keys(page):
    page.add(DEMO / "farm.png")
    page.js("document.getElementById('tab-result').focus()")
    page.press(Keys.ARROW_RIGHT)
    assert focus(page) == "tab-history" and page.visible("#pane-history") and not page.visible("#pane-result")
    page.press(Keys.END)
    assert focus(page) == "tab-json"
    page.press(Keys.ARROW_RIGHT)
    assert focus(page) == "tab-result"


def test_progress_and_answers_are_spoken(page):
    page.add(DEMO / "fruit.webp")
    page.js("""
      window.__spoken = [];
      new MutationObserver(() => window.__spoken.push(document.getElementById('announcer').textContent))
          .observe(document.getElementById('announcer'), {childList: true, characterData: true, subtree: true});""")
    page.ask("all red apples")
    spoken = page.js("return window.__spoken")
    assert spoken[0] == "Uploading" and "Looking" in spoken and spoken[-1].startswith("3 found. confidence")
    assert "red apple 97%" in spoken[-1]
    page.ask("the bicycle")
    assert page.text("#announcer").startswith("Not in this image")


def test_everything_has_a_name_in_both_languages(page):
    for language in ("en-US", "zh-CN"):
        page.open(language=language)
        page.add(DEMO / "farm.png")
        page.ask("the cow")
        names = page.js("""
          return [...document.querySelectorAll('button, input:not(.visually-hidden), textarea, [role]')].filter((n) => n.getClientRects().length)
              .map((n) => [n.outerHTML.slice(0, 80), (n.getAttribute('aria-label') || n.textContent || n.labels?.[0]?.textContent || n.getAttribute('aria-labelledby') || '').trim()])""")
        assert [html for html, name in names if not name and "announcer" not in html and "note" not in html and "failure" not in html] == []
        if language == "zh-CN":
            english = page.js("""
              return [...document.querySelectorAll('[data-t], [data-t-label], [data-t-title]')]
                  .flatMap((n) => [n.dataset.t && n.textContent, n.getAttribute('aria-label'), n.title]).filter((text) => text && !/[\\u4e00-\\u9fff]/.test(text))""")
            assert english == [], "no text is left in English"


def test_both_languages_have_the_same_texts(page):
    missing = page.js_async("""
      const {english} = await import('/js/messages_en.js');
      const {chinese} = await import('/js/messages_zh.js');
      const kind = (v) => Array.isArray(v) ? `list of ${v.length}` : typeof v;
      const common = Object.keys(english).filter((key) => kind(english[key]) !== kind(chinese[key]) && typeof english[key] === 'object');
      return [...Object.keys(english).filter((key) => !(key in chinese)), ...common];""")
    assert missing == []


def test_dark_mode_follows_the_system_and_can_be_chosen(page):
    background = "return getComputedStyle(document.body).backgroundColor"
    light = page.js(background)
    page.open(dark=True)
    dark = page.js(background)
    assert light != dark
    page.click("#theme")
    assert page.js(background) == light and "light" in page.text("#theme-name")
    page.click("#theme")
    assert page.js(background) == dark and "dark" in page.text("#theme-name")
    page.open(dark=False)
    assert page.js(background) == light


def test_the_page_reads_nothing_from_elsewhere(page):
    page.add(DEMO / "farm.png")
    page.ask("the cow")
    hosts = page.js("return [...new Set(performance.getEntriesByType('resource').map((e) => e.name).filter((n) => !n.startsWith('blob:')).map((n) => new URL(n).host))]")
    assert hosts == [page.url.split("/")[2]]


def test_markup_in_a_label_or_prompt_stays_text(page):
    page.add(DEMO / "farm.png")
    page.ask("<img src=x onerror=alert(1)> <b>cow</b>")
    page.tab("history")
    assert page.text(".turn-prompt") == "<img src=x onerror=alert(1)> <b>cow</b>"
    assert page.js("return document.querySelectorAll('#history img, #history b').length") == 0
