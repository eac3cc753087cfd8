"""Looking closer: zoom, pan, highlighting, editing a box."""

import pytest
from chord_server import iou
from page import DEMO, PHONE
from PIL import Image
from scenes import stage_box, stage_pixels
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys


def zoom(page):
    page.settle()
    return int(page.text("#zoom-level").rstrip("%"))


def open_answer(page, image="fruit.webp", prompt="all red apples"):
    page.add(DEMO / image)
    page.ask(prompt)


def stage_centre(page):
    return page.js("const r = document.getElementById('stage').getBoundingClientRect(); return [r.left + r.width / 2, r.top + r.height / 2]")


def pointer(page, kind, x, y, **more):
    page.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **more})


def drag(page, start, end):
    pointer(page, "mousePressed", *start, button="left", buttons=1, clickCount=1)
    for i in range(1, 6):
        pointer(page, "mouseMoved", *[a + (b - a) * i / 5 for a, b in zip(start, end)], button="left", buttons=1)
    pointer(page, "mouseReleased", *end, button="left", clickCount=1)
    page.settle()


def test_buttons_zoom_and_fit(page):
    open_answer(page)
    fitted = zoom(page)
    page.click("#zoom-in")
    assert zoom(page) > fitted
    page.click("#zoom-level")
    assert zoom(page) == 100
    page.click("#zoom-out")
    assert zoom(page) < 100
    page.click("#zoom-fit")
    assert zoom(page) == fitted


def test_the_wheel_zooms_where_the_pointer_is(page):
    open_answer(page)
    fitted = zoom(page)
    mark = page.marks()[1]["box"]
    left, top = page.js("const r = document.getElementById('stage').getBoundingClientRect(); return [r.left, r.top]")
    at = [round(left + (mark[0] + mark[2]) / 2), round(top + (mark[1] + mark[3]) / 2)]  # a mouse has whole pixels
    for _ in range(4):
        pointer(page, "mouseWheel", *at, deltaX=0, deltaY=-300)
    page.wait(lambda: zoom(page) > 3 * fitted, "the image is larger")
    box = page.marks()[1]["box"]
    assert abs(left + (box[0] + box[2]) / 2 - at[0]) < 5 and abs(top + (box[1] + box[3]) / 2 - at[1]) < 5
    before = page.marks()[1]["box"]
    drag(page, at, [at[0] - 120, at[1] + 40])
    after = page.marks()[1]["box"]
    assert abs(after[0] - before[0] + 120) < 2 and abs(after[1] - before[1] - 40) < 2, "dragging pans"


def test_the_keyboard_zooms_and_pans(page):
    open_answer(page)
    fitted = zoom(page)
    page.js("document.getElementById('stage').focus()")
    page.press("+", "+", "+", "+")
    assert zoom(page) > 2 * fitted
    before = page.marks()[1]["box"]
    page.press(Keys.ARROW_RIGHT)
    page.settle()
    assert page.marks()[1]["box"][0] < before[0]
    page.press("1")
    assert zoom(page) == 100
    page.press("0")
    assert zoom(page) == fitted


def test_two_fingers_zoom_and_one_pans_only_what_is_zoomed(page):
    page.open(size=PHONE)
    open_answer(page)
    fitted = zoom(page)
    x, y = stage_centre(page)
    touch = lambda kind, *points: page.driver.execute_cdp_cmd(
        "Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": px, "y": py, "id": i} for i, (px, py) in enumerate(points)]})
    assert page.js("return getComputedStyle(document.getElementById('stage')).touchAction") == "pan-y"
    touch("touchStart", (x - 30, y), (x + 30, y))
    for step in range(1, 7):
        touch("touchMove", (x - 30 - 10 * step, y), (x + 30 + 10 * step, y))
    touch("touchEnd")
    assert zoom(page) > 2 * fitted
    assert page.js("return getComputedStyle(document.getElementById('stage')).touchAction") == "none"
    before = page.marks()[1]["box"]
    touch("touchStart", (x, y))
    for step in range(1, 5):
        touch("touchMove", (x, y - 10 * step))
    touch("touchEnd")
    page.settle()
    assert page.marks()[1]["box"][1] < before[1] - 20


@pytest.mark.parametrize("size", [(1280, 800), PHONE, (1000, 600)])
def test_a_tall_image_and_its_boxes_fit_the_window(page, tmp_path, size):
    scene = Image.open(DEMO / "shore.png").convert("RGB")
    tall = Image.new("RGB", (420, 1400), "white")
    tall.paste(scene, (0, 0))
    tall.paste(scene, (0, 820))
    tall.save(tmp_path / "tall.png")
    page.open(size=size)
    page.add(tmp_path / "tall.png")
    page.ask("the octopus")
    width, height = page.js("const s = document.getElementById('stage'); return [s.clientWidth, s.clientHeight]")
    assert 200 < height <= size[1]
    left, top, right, bottom = stage_pixels(page).getchannel("A").getbbox()
    assert left >= 0 and top >= 0 and right <= width and bottom <= height and (bottom - top) > 0.8 * height
    assert page.findings()
    for found, mark in zip(page.findings(), page.marks()):
        expected = stage_box(page, found["place"], tall.size)
        assert all(abs(a - b) <= 2 for a, b in zip(mark["box"], expected)), (mark, expected)
        assert mark["box"][1] >= 0 and mark["box"][3] <= height


def test_list_and_image_highlight_each_other(page):
    open_answer(page)
    row = page.all("#findings > li")[1]
    ActionChains(page.driver).move_to_element(row).perform()
    page.settle()
    assert ["active" in m["classes"] for m in page.marks()] == [False, True, False]
    assert ["dimmed" in m["classes"] for m in page.marks()] == [True, False, True]
    ActionChains(page.driver).move_to_element(page.all("#overlay .mark")[2]).perform()
    page.settle()
    rows = page.js("return [...document.querySelectorAll('#findings > li')].map((n) => n.classList.contains('active'))")
    assert rows == [False, False, True]
    page.js("document.querySelectorAll('.finding-main')[0].focus()")
    page.settle()
    assert "active" in page.marks()[0]["classes"], "focus highlights like the pointer"


def test_a_click_on_a_box_selects_its_row_and_zooms_on_demand(page):
    open_answer(page)
    page.all("#overlay .mark")[2].click()
    page.settle()
    assert page.all(".finding-main")[2].get_attribute("aria-expanded") == "true"
    fitted = zoom(page)
    page.js("document.querySelector('.finding.selected [data-tool=zoomToIt]').click()")
    assert zoom(page) > fitted
    page.press(Keys.ESCAPE)
    page.settle()
    assert page.all(".finding-main")[2].get_attribute("aria-expanded") == "false"


def test_labels_in_the_image_can_be_hidden(page):
    open_answer(page)
    page.click("#toggle-labels")
    page.settle()
    assert not any(label.is_displayed() for label in page.all(".mark-label"))
    assert page.find("#toggle-labels").get_attribute("aria-pressed") == "false"


def start_editing(page, index):
    page.all(".finding-main")[index].click()
    page.settle()
    page.js("document.querySelector('.finding.selected [data-tool=editBox]').click()")
    page.settle()


def numbers(page):
    return [int(page.find(f"#edit-{i}").get_attribute("value")) for i in range(4)]


def test_a_box_is_edited_by_keyboard(page):
    open_answer(page)
    start_editing(page, 0)
    x1, y1, x2, y2 = numbers(page)
    page.js("document.querySelector('.editor').focus()")
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    page.settle()
    assert numbers(page) == [x1 + 2, y1 + 1, x2 + 2, y2 + 1]
    page.js("document.querySelector('.handle.se').focus()")
    ActionChains(page.driver).key_down(Keys.SHIFT).send_keys(Keys.ARROW_RIGHT).key_up(Keys.SHIFT).perform()
    page.settle()
    assert numbers(page) == [x1 + 2, y1 + 1, x2 + 12, y2 + 1]
    page.click("#edit-save")
    page.settle()
    assert page.findings()[0]["place"] == [x1 + 2, y1 + 1, x2 + 12, y2 + 1]
    assert "edited" in page.text("#findings > li")


def test_a_box_is_edited_by_mouse_and_stays_inside_the_image(page):
    open_answer(page)
    start_editing(page, 0)
    before = numbers(page)
    handle = page.js("const r = document.querySelector('.handle.nw').getBoundingClientRect(); return [r.left + r.width / 2, r.top + r.height / 2]")
    drag(page, handle, [handle[0] + 30, handle[1] + 20])
    after = numbers(page)
    assert after[0] > before[0] + 15 and after[1] > before[1] + 10 and after[2:] == before[2:]
    box = page.js("const r = document.querySelector('.editor').getBoundingClientRect(); return [r.left + r.width / 2, r.top + r.height / 2]")
    drag(page, box, [box[0] - 900, box[1] - 20])
    moved = numbers(page)
    assert moved[0] == 0 and moved[2] == after[2] - after[0], "it stops at the border and keeps its size"
    page.click("#edit-cancel")
    page.settle()
    assert page.findings()[0]["place"] == before and not page.visible(".editor")


def test_a_region_is_drawn_with_the_mouse_and_asked_about(page):
    page.add(DEMO / "fruit.webp")
    page.click("#draw-region")
    stage = page.js("const r = document.getElementById('stage').getBoundingClientRect(); return [r.left, r.top, r.width, r.height]")
    scale = zoom(page) / 100
    left = stage[0] + (stage[2] - 560 * scale) / 2
    top = stage[1] + (stage[3] - 420 * scale) / 2
    drag(page, [left + 4 * scale, top + 220 * scale], [left + 380 * scale, top + 416 * scale])
    assert iou(numbers(page), [4, 220, 380, 416]) > 0.95
    page.type_prompt("all red apples")
    page.press(Keys.ENTER)
    page.wait_answer()
    assert page.text("#verdict") == "1 found"
    assert iou(page.findings()[0]["place"], [203, 233, 323, 358]) > 0.7


def test_a_region_can_be_made_without_a_mouse(page):
    page.add(DEMO / "fruit.webp")
    page.js("document.getElementById('draw-region').focus()")
    page.press(Keys.ENTER)
    page.settle()
    assert numbers(page) == [140, 105, 420, 315]
    assert page.js("return document.activeElement.classList.contains('editor')")
    page.press(Keys.ESCAPE)
    page.settle()
    assert not page.visible(".editor") and not page.visible("#region-chip")
