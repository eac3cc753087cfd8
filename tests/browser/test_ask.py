"""Asking: stages, answers, follow-ups, failures."""

import json
import os
import signal

import pytest
from chord_server import Chord, iou
from page import DEMO, Page
from scenes import enlarged, stored, upright
from selenium.webdriver.common.keys import Keys


def sent_prompts(page):
    return [request["fields"] for request in page.requests("api/ground")]


def test_an_answer_is_a_list_boxes_and_a_verdict(page):
    page.add(DEMO / "fruit.webp")
    page.ask("all red apples")
    assert page.text("#verdict") == "3 found"
    assert "confidence 7" in page.text("#verdict-detail") or "confidence 8" in page.text("#verdict-detail")
    found = page.findings()
    assert [f["label"] for f in found] == ["red apple"] * 3 and all(f["confidence"].endswith("%") for f in found)
    marks = page.marks()
    assert len(marks) == 3 and all(m["label"].startswith("red apple 9") for m in marks)
    assert page.text("#announcer").startswith("3 found")
    assert "3 found" in page.find("#canvas").get_attribute("aria-label")


def test_what_is_not_there_is_told_plainly(page):
    page.add(DEMO / "music.png")
    page.ask("the bicycle")
    assert page.text("#verdict") == "Not in this image"
    assert "71% sure that it is not there" in page.text("#verdict-detail")
    assert page.findings() == [] and page.marks() == []
    assert page.visible("#server-advice") and "more common name" in page.text("#server-advice")


def test_what_is_uncertain_is_orange_with_a_legend_and_advice(page):
    page.add(DEMO / "farm.png")
    page.ask("all red things")
    [found] = page.findings()
    assert found["review"] and "check" in page.text("#findings > li")
    [mark] = page.marks()
    assert "review" in mark["classes"]
    assert page.js("return getComputedStyle(document.querySelector('.mark')).borderTopColor") == "rgb(255, 159, 28)"
    assert page.visible("#legend") and "70%" in page.text("#legend")
    assert page.visible("#server-advice")


def test_the_second_request_on_an_image_uploads_nothing(page, chord):
    page.add(DEMO / "night.png")
    page.ask("all owls")
    page.ask("the leftmost owl")
    page.ask("the cactus")
    assert len(page.requests("api/images")) == 1
    prompts = sent_prompts(page)
    assert len({p["image_id"] for p in prompts}) == 1 and not any("image" in p for p in prompts)
    page.tab("json")
    assert json.loads(page.text("#json"))["usage"]["cache"] == "kv"


def test_an_image_that_the_server_has_forgotten_goes_up_again_by_itself(page, chord):
    page.add(DEMO / "night.png")
    page.ask("all owls")
    image_id = sent_prompts(page)[0]["image_id"]
    assert chord.request("DELETE", f"/api/images/{image_id}").status == 204
    page.ask("the cactus")
    assert len(page.findings()) == 1 and not page.visible("#failure")
    assert len(page.requests("api/images")) == 2
    ids = [p["image_id"] for p in sent_prompts(page)]
    assert ids[0] == ids[1] != ids[2], "asked by the old name, refused, asked by the new one"


def test_prompts_are_a_conversation_until_a_new_one_starts(page):
    page.add(DEMO / "night.png")
    page.ask("all owls")
    page.ask("the leftmost owl")
    page.tab("history")
    page.click("#new-conversation")
    page.ask("the cactus")
    page.tab("history")
    page.click("#conversation")
    page.ask("the moon")
    sessions = [p.get("session_id") for p in sent_prompts(page)]
    assert sessions[0] == sessions[1] != sessions[2] and sessions[0].startswith("web_") and sessions[3] is None


def test_history_shows_earlier_answers_again(page):
    page.add(DEMO / "night.png")
    page.ask("all owls")
    page.ask("the cactus")
    page.tab("history")
    rows = [row.text.split("\n") for row in page.all("#history > li .turn-main")]
    assert rows == [["the cactus", "1 found"], ["all owls", "3 found"]]
    page.all("#history .turn-main")[1].click()
    page.settle()
    assert len(page.marks()) == 3
    asked = len(sent_prompts(page))
    page.all("#history .turn-again")[0].click()
    page.wait_answer()
    page.wait(lambda: len(sent_prompts(page)) == asked + 1 and page.visible("#ask"), "it was asked again")
    assert len(page.findings()) == 1


def test_each_image_keeps_its_own_history(page):
    page.add(DEMO / "night.png")
    page.ask("all owls")
    page.add(DEMO / "farm.png")
    assert not page.visible("#answer")
    page.ask("the cow")
    page.all("#thumbnails .tile")[0].click()
    page.settle()
    assert page.text("#verdict") == "3 found" and page.text("#history-count") == "1"


def test_stages_follow_each_other_and_boxes_come_before_the_end(page, chord):
    page.add(DEMO / "fruit.webp")
    page.js("""
      window.__stages = [];
      new MutationObserver(() => {
        const now = document.querySelector('#stages [aria-current]');
        if (!now || document.getElementById('progress').hidden) return;
        const entry = now.dataset.stage + ' ' + document.querySelectorAll('#overlay .mark').length;
        if (window.__stages.at(-1) !== entry) window.__stages.push(entry);
      }).observe(document.body, {subtree: true, childList: true, attributes: true});""")
    page.ask("all red apples")
    stages = page.js("return window.__stages")
    names = list(dict.fromkeys(stage.split()[0] for stage in stages))
    assert names == ["uploading", "looking", "answering"], stages
    assert any(stage in ("answering 1", "answering 2") for stage in stages), f"boxes while the answer is written: {stages}"
    assert not page.visible("#progress")


def test_the_upload_tells_how_far_it_is(page, tmp_path):
    path = tmp_path / "slow.png"
    path.write_bytes(stored(enlarged(upright("shore.png"), 1_500_000), "PNG", 1))
    page.add(path)
    page.js("""
      window.__shares = [];
      new MutationObserver(() => window.__shares.push(document.getElementById('upload-share').textContent))
          .observe(document.getElementById('upload-share'), {childList: true, characterData: true, subtree: true});""")
    throttle = lambda rate: page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {
        "offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": rate})
    page.driver.execute_cdp_cmd("Network.enable", {})
    throttle(path.stat().st_size / 2)  # two seconds
    try:
        page.ask("the octopus")
    finally:
        throttle(-1)
    shares = [int(text.rstrip("%")) for text in page.js("return window.__shares") if text]
    assert len(shares) > 2 and shares == sorted(shares) and shares[0] < 90, shares
    assert page.text("#verdict") == "1 found"


def test_a_request_can_be_cancelled(page, chord):
    page.add(DEMO / "fruit.webp")
    os.kill(chord.pid("vision"), signal.SIGSTOP)
    try:
        page.type_prompt("all red apples")
        page.find("#prompt").send_keys(Keys.ENTER)
        page.wait(lambda: page.text("#stages [aria-current]").startswith("Looking"), "the server is looking")
        assert not page.visible("#ask")
        page.click("#cancel")
        page.wait(lambda: page.visible("#ask"), "it has been cancelled")
        assert page.text("#verdict") == "Cancelled" and not page.visible("#failure")
    finally:
        os.kill(chord.pid("vision"), signal.SIGCONT)
    page.ask("all red apples")  # the same conversation is free again
    assert page.text("#verdict") == "3 found"
    page.type_prompt("the banana")
    page.find("#prompt").send_keys(Keys.ENTER, Keys.ESCAPE)
    page.wait_answer()


def test_an_error_is_told_with_what_to_do_and_its_request_id(page, chord, driver):
    with Chord("--gateway-flag", "max_prompt_bytes=64", "--gateway-flag", "default_deadline_seconds=2") as strict:
        strict.wait_ready()
        other = Page(driver, strict.http_address, driver.downloads).open()
        other.add(DEMO / "farm.png")
        other.type_prompt("x" * 70)
        other.click("#ask")
        assert "at most 64 bytes" in other.text("#prompt-note"), "what the page knows it does not send"
        os.kill(strict.pid("vision"), signal.SIGSTOP)
        try:
            other.ask("the cow")
        finally:
            os.kill(strict.pid("vision"), signal.SIGCONT)
        assert other.visible("#failure") and len(other.text("#failure-text")) > 20
        request_id, code = other.text("#failure-request").split(" · ")
        assert request_id.startswith("req_") and len(request_id) == 28
        assert code == "DEADLINE_EXCEEDED"
        assert request_id in strict.read_log(), "the id leads to the server's log"
        other.click("#retry")
        other.wait(lambda: other.visible("#answer") and other.text("#verdict") == "1 found", "the second attempt succeeds")
        assert not other.visible("#failure")


def test_a_server_that_cannot_be_reached(page, driver):
    with Chord() as server:
        server.wait_ready()
        other = Page(driver, server.http_address, driver.downloads).open()
        other.add(DEMO / "farm.png")
    other.ask("the cow")
    assert "cannot be reached" in other.text("#failure-text")


def test_a_server_without_room_for_images_is_asked_with_the_file(page, driver):
    with Chord("--gateway-flag", "image_store_bytes=1") as full:
        full.wait_ready()
        other = Page(driver, full.http_address, driver.downloads).open()
        other.add(DEMO / "farm.png")
        other.ask("the cow")
        assert len(other.findings()) == 1
        assert sent_prompts(other)[-1]["image"].startswith("file:")


def test_prompts_that_cannot_be_asked_say_why(page):
    page.click("#ask")
    assert page.text("#prompt-note") == "Describe what to find first."
    page.type_prompt("the cow")
    page.click("#ask")
    assert page.text("#prompt-note") == "Add an image first."
    page.add(DEMO / "farm.png")
    page.ask("the cow")
    assert page.text("#prompt-note") == ""


def test_the_threshold_hides_what_is_less_sure_at_once(page):
    page.add(DEMO / "farm.png")
    page.ask("all mammals")
    before = page.findings()
    assert len(before) == 2
    shares = sorted(int(f["confidence"].rstrip("%")) for f in before)
    page.js("""const s = document.getElementById('threshold'); s.value = arguments[0];
               s.dispatchEvent(new Event('input'));""", shares[0] + 2)
    page.settle()
    assert len(page.findings()) == 1 and len(page.marks()) == 1
    assert page.text("#hidden-note") == "1 hidden by the filters"
    page.find("#threshold").send_keys(Keys.HOME)
    page.settle()
    assert len(page.findings()) == 2 and not page.visible("#hidden-note")


def test_classes_can_be_switched_off(page):
    page.add(DEMO / "farm.png")
    page.ask("all mammals")
    chips = {chip.text.split("\n")[0]: chip for chip in page.all("#classes .chip")}
    assert set(chips) == {"ewe", "cow"}
    chips["ewe"].click()
    page.settle()
    assert [f["label"] for f in page.findings()] == ["cow"] and len(page.marks()) == 1
    assert chips["ewe"].get_attribute("aria-pressed") == "false"
    chips["ewe"].click()
    page.settle()
    assert len(page.findings()) == 2


def rewrite_answers(page, script):
    """For answers that chord-nano does not give: `script` changes `answer`, what the real server answered, on
    its way to the page. The stream then has no other event."""
    page.js("""
      const real = window.fetch;
      window.fetch = async (url, options) => {
        const response = await real(url, options);
        if (!String(url).endsWith('api/ground')) return response;
        const answer = JSON.parse((await response.text()).match(/event: response\\ndata: (.*)/)[1]);
        CHANGE;
        return new Response(`event: response\\ndata: ${JSON.stringify(answer)}\\n\\n`);
      };""".replace("CHANGE", script))


def test_point_mode_asks_for_points_and_draws_them(page):
    page.add(DEMO / "shore.png")
    rewrite_answers(page, """
      answer.objects = [], answer.boxes = [];
      answer.points = [{label: 'crab', point: [110, 470], confidence: 0.91},
                       {label: 'crab', point: [60, 300], confidence: 0.4}];""")
    page.js("document.querySelector('input[value=points]').click()")
    page.ask("the crab")
    assert sent_prompts(page)[-1]["prompt"] == "point to the crab"
    assert page.text("#verdict") == "2 points"
    assert [f["place"] for f in page.findings()] == [[110, 470], [60, 300]]
    assert [f["review"] for f in page.findings()] == [False, True]
    sure, unsure = page.marks()
    assert "point" in sure["classes"] and "review" in unsure["classes"]
    scale = page.js("return document.getElementById('stage').clientHeight") / 560
    centre = (sure["box"][1] + sure["box"][3]) / 2
    assert abs(centre - 470.5 * scale) < 0.06 * 560 * scale


def test_point_mode_says_when_a_model_gives_boxes(page):
    page.add(DEMO / "shore.png")
    page.js("document.querySelector('input[value=points]').click()")
    page.ask("the crab")
    assert page.findings() and page.visible("#mode-note")


@pytest.mark.parametrize("typed, sent", [
    ("the crab", "point to the crab"), ("Point to the crab", "Point to the crab"), ("螃蟹", "以点的形式找出螃蟹"),
    ("以点的形式找出螃蟹", "以点的形式找出螃蟹"), ("pointy hats", "point to pointy hats")])
def test_point_prompts_begin_as_the_server_expects(page, typed, sent):
    assert page.js_async("return (await import('/js/composer.js')).pointPrompt(args[0]);", typed) == sent


def test_an_answer_in_prose_is_quoted(page):
    page.add(DEMO / "shore.png")
    rewrite_answers(page, "answer.objects = [], answer.boxes = [], answer.confidence = 0, answer.text = 'I see no <b>crab</b>.'")
    page.ask("the crab")
    assert page.text("#verdict") == "No boxes in the answer"
    assert page.visible("#prose") and page.text("#prose") == "I see no <b>crab</b>."


def test_class_mode_finds_each_class_and_lists_those_that_are_absent(page):
    page.add(DEMO / "farm.png")
    page.js("document.querySelector('input[value=classes]').click()")
    assert "commas" in page.js("return document.getElementById('prompt').placeholder")
    page.ask("cow, the tractor， guitar, Cow")
    assert sent_prompts(page)[-1]["labels"] == "guitar"  # the last of the fields with that name
    assert page.text("#verdict") == "2 found"
    assert [f["label"] for f in page.findings()] == ["cow", "the tractor"] and len(page.marks()) == 2
    (absent,) = page.all("#absent-labels li")
    assert absent.text.replace("\n", " ").startswith("guitar not in this image, ")
    page.click("#tab-code")
    assert all(f"labels={label}" in page.text("#code") for label in ("cow", "the tractor", "guitar"))


def test_class_mode_says_what_is_wrong_with_the_list(page):
    page.add(DEMO / "farm.png")
    page.js("document.querySelector('input[value=classes]').click()")
    for typed, note in ((" , ，", "Describe what to find first."), ("x" * 129, "is too long for the name of a class."),
                        (",".join(map(str, range(65))), "At most 64 classes at once.")):
        page.type_prompt(typed)
        page.click("#ask")
        assert page.text("#prompt-note").endswith(note), typed


def test_an_answer_that_was_cut_is_not_called_absence(page):
    page.add(DEMO / "farm.png")
    rewrite_answers(page, "answer.objects = [], answer.boxes = [], answer.text = '', answer.finish_reason = 'length'; delete answer.confidence")
    page.ask("the cow")
    assert page.text("#verdict") == "Cut before the first box"
    assert "NaN" not in page.text("#verdict-detail") and "token limit" in page.text("#verdict-detail")


def test_stage_timings_are_listed(page):
    page.add(DEMO / "farm.png")
    page.ask("the cow")
    rows = dict(row.text.split("\n") for row in page.all("#timing-list > div"))
    assert {"Looking at the image", "Reading the prompt", "Writing the answer", "Server total"} <= set(rows)
    assert all(value.endswith(("ms", "s")) for value in rows.values())
    page.ask("the tractor")
    assert "Looking at the image" not in dict(row.text.split("\n") for row in page.all("#timing-list > div"))


def test_a_region_is_asked_about_and_its_answer_lifted_to_the_image(page):
    page.add(DEMO / "fruit.webp")
    page.ask("all red apples")
    assert len(page.findings()) == 3
    page.all(".finding-main")[1].click()
    page.settle()
    page.js("document.querySelector('.finding.selected [data-tool=editBox]').click()")
    page.settle()
    for i, value in enumerate([180, 200, 540, 400]):  # the lower right part, with two apples
        page.js("const n = document.getElementById(arguments[0]); n.value = arguments[1]; n.dispatchEvent(new Event('change'))", f"edit-{i}", value)
    assert page.text("#region-chip").startswith("Inside 360 × 200 px")
    page.type_prompt("all red apples")
    page.click("#edit-ask")
    page.wait_answer()
    page.wait(lambda: len(page.requests("api/images")) == 2 and page.text("#verdict") == "2 found", "the region was asked about")
    boxes = sorted(f["place"] for f in page.findings())
    assert iou(boxes[0], [203, 233, 323, 358]) > 0.75 and iou(boxes[1], [426, 206, 516, 311]) > 0.75
    assert "region" in page.marks()[0]["classes"]
    page.ask("all red apples")
    assert len(page.requests("api/images")) == 2, "a region is uploaded once, too"
    page.click("#region-chip")
    page.settle()
    page.ask("all red apples")
    assert page.text("#verdict") == "3 found"


@pytest.mark.parametrize("language, verdict", [("en-US,en", "3 found"), ("zh-CN,zh", "找到 3 个"), ("fr-FR,fr", "3 found"), ("fr-FR,zh-TW", "找到 3 个")])
def test_the_page_speaks_the_language_of_the_browser(page, language, verdict):
    page.open(language=language)
    page.add(DEMO / "fruit.webp")
    page.ask("找出所有红苹果")
    assert page.text("#verdict") == verdict
    assert page.js("return document.documentElement.lang") == ("zh-CN" if "找" in verdict else "en")


def test_the_language_can_be_switched_and_stays(page):
    page.add(DEMO / "music.png")
    page.ask("the bicycle")
    page.click("#language")
    page.settle()
    assert page.text("#verdict") == "图中没有" and page.text("#ask") == "查找"
    page.driver.refresh()
    page.wait(lambda: page.js("return document.documentElement.dataset.ready") == "true", "the page is ready")
    assert page.text("#ask") == "查找"
