"""Images come in by every way, lie upright, and boxes lie where the thing is."""

import base64

import pytest
from chord_server import iou
from page import DEMO
from PIL import Image, ImageChops, ImageStat
from scenes import enlarged, stage_box, stage_pixels, stored, upright

OCTOPUS = [204, 243, 351, 376]


def mean_difference(a, b):
    """0 – 255, of two images brought to one size."""
    a, b = a.convert("RGB").resize((64, 64)), b.convert("RGB").resize((64, 64))
    return sum(ImageStat.Stat(ImageChops.difference(a, b)).mean) / 3


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_drawn_upright_with_its_boxes(page, tmp_path, format, orientation):
    image = upright("shore.png")  # 420 × 560, nothing in it is symmetrical
    path = tmp_path / f"{orientation}.{format.lower()}"
    path.write_bytes(stored(image, format, orientation))
    page.add(path)
    drawn = stage_pixels(page)
    drawn = drawn.crop(drawn.getchannel("A").getbbox())
    assert abs(drawn.width / drawn.height - 420 / 560) < 0.01
    assert mean_difference(drawn, image) < 6
    wrong = min(mean_difference(drawn, image.transpose(t).resize(image.size)) for t in list(Image.Transpose))
    assert mean_difference(drawn, image) < wrong, "every other way of turning it fits worse"

    page.ask("the octopus")
    [found] = page.findings()
    assert iou(found["place"], OCTOPUS) > 0.8
    [mark] = page.marks()
    assert iou(mark["box"], stage_box(page, OCTOPUS, image.size)) > 0.8
    # What is inside the drawn box is the octopus, not only a box of the right numbers.
    inside = stage_pixels(page).crop([round(v) for v in mark["box"]])
    assert mean_difference(inside, image.crop(OCTOPUS)) < 25


def test_the_browser_itself_would_turn_some_formats_only(page, tmp_path):
    """Why the page turns images itself: remove this when browsers agree."""
    rule = {}
    for format in ("JPEG", "PNG", "WEBP"):
        data = base64.b64encode(stored(upright("shore.png"), format, 6)).decode()
        rule[format] = page.js_async("""
          const bytes = Uint8Array.from(atob(args[0]), (c) => c.charCodeAt(0));
          const bitmap = await createImageBitmap(new Blob([bytes], {type: args[1]}));
          return bitmap.width < bitmap.height;""", data, f"image/{format.lower()}")
    assert rule["JPEG"] is True and rule["WEBP"] is False, rule


def test_the_file_goes_up_as_it_is_and_fifty_megapixels_are_scaled_for_display_only(page, tmp_path):
    image = enlarged(upright("shore.png"), 49_500_000)
    path = tmp_path / "large.jpg"
    path.write_bytes(stored(image, "JPEG", 6))
    page.add(path)
    assert "49" not in page.text("#problem-text")
    display = page.js("return [document.getElementById('canvas').width, document.getElementById('canvas').height]")
    assert max(display) <= 1280
    page.ask("the octopus")
    [upload] = page.requests("api/images")
    assert upload["fields"]["image"] == f"file:{path.stat().st_size}"
    factor = image.width / 420
    [found] = page.findings()
    assert iou(found["place"], [v * factor for v in OCTOPUS]) > 0.8
    [mark] = page.marks()
    assert iou(mark["box"], stage_box(page, OCTOPUS, (420, 560))) > 0.8


def test_transparency_lies_on_white(page):
    page.add(DEMO / "badges.png")
    drawn = stage_pixels(page)
    area = drawn.getchannel("A").getbbox()
    assert drawn.getpixel((area[0] + 3, area[1] + 3))[:3] == (255, 255, 255)


REFUSED = {
    "empty.jpg": (b"", "empty"),
    "notes.png": (b"Dear diary, today I looked at the sea.", "not an image"),
    "movie.gif": (b"GIF89a" + bytes(60), "GIF cannot be used"),
    "photo.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "HEIC cannot be used"),
    "drawing.svg": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG cannot be used"),
    "paper.pdf": (b"%PDF-1.7 " + bytes(60), "PDF cannot be used"),
    "cut.jpg": ((DEMO / "sky.jpg").read_bytes()[:300], "damaged"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_cannot_be_used_are_told_before_anything_is_sent(page, tmp_path, name):
    data, text = REFUSED[name]
    (tmp_path / name).write_bytes(data)
    page.find("#file").send_keys(str(tmp_path / name))
    page.wait(lambda: page.visible("#problem"), "the problem is told")
    told = page.text("#problem-text")
    assert told.startswith(f"{name}: ") and text in told
    assert page.requests("api/images") == []
    page.click("#problem-close")
    assert not page.visible("#problem")


def test_limits_are_told_with_what_the_file_has(page, tmp_path):
    assert "20 MiB" in page.text("#limits") and "50 megapixels" in page.text("#limits")
    many = Image.new("L", (8000, 6500))
    many.save(tmp_path / "many.png")
    page.find("#file").send_keys(str(tmp_path / "many.png"))
    page.wait(lambda: page.visible("#problem"), "the problem is told")
    assert "8000 × 6500" in page.text("#problem-text") and "50 megapixels" in page.text("#problem-text")
    with open(tmp_path / "big.jpg", "wb") as file:
        file.write((DEMO / "sky.jpg").read_bytes())
        file.truncate(21 << 20)
    page.find("#file").send_keys(str(tmp_path / "big.jpg"))
    page.wait(lambda: "big.jpg" in page.text("#problem-text"), "the problem is told")
    assert "21 MiB" in page.text("#problem-text") and "20 MiB" in page.text("#problem-text")
    long = Image.new("L", (4020, 20))
    long.save(tmp_path / "long.png")
    page.find("#file").send_keys(str(tmp_path / "long.png"))
    page.wait(lambda: "long.png" in page.text("#problem-text"), "the problem is told")
    assert "200 : 1" in page.text("#problem-text")


HAND_OVER = """
  const [name, data, kind] = args;
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, {type: 'image/png'}));
  if (kind === 'paste') {
    document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: transfer, bubbles: true, cancelable: true}));
  } else {
    for (const type of ['dragenter', 'dragover', 'drop']) {
      document.body.dispatchEvent(new DragEvent(type, {dataTransfer: transfer, bubbles: true, cancelable: true}));
    }
  }
"""


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_an_image_that_is_pasted_or_dropped_is_taken(page, kind):
    data = base64.b64encode((DEMO / "farm.png").read_bytes()).decode()
    page.js_async(HAND_OVER, "farm.png", data, kind)
    page.wait(lambda: page.visible("#viewer"), "the image is shown")
    assert not page.visible("#drop-hint")
    page.ask("the tractor")
    assert iou(page.findings()[0]["place"], [266, 226, 425, 356]) > 0.8


def test_text_that_is_pasted_stays_text(page):
    page.js_async("""
      const transfer = new DataTransfer();
      transfer.setData('text/plain', 'the red apple');
      const event = new ClipboardEvent('paste', {clipboardData: transfer, bubbles: true, cancelable: true});
      document.getElementById('prompt').dispatchEvent(event);
      if (event.defaultPrevented) throw new Error('text must reach the prompt');""")


def test_a_photo_is_taken_with_the_camera(page):
    page.click(".welcome .shoot")  # Chromium's fake camera
    page.wait(lambda: page.js("return document.getElementById('camera-video').videoWidth > 0"), "the camera runs")
    page.wait(lambda: page.js("return document.getElementById('camera').open"), "the camera is shown")
    page.click("#camera-take")
    page.wait(lambda: page.visible("#viewer"), "the photo is shown")
    assert page.text("#image-info").startswith("camera_")
    assert page.js("return document.getElementById('camera-video').srcObject === null"), "the camera is off again"


def test_examples_answer_what_their_prompts_promise(page):
    for sample in ("fruit", "night", "shore", "farm"):
        page.open()
        page.click(f"[data-sample={sample}]")
        page.wait(lambda: page.visible("#viewer"), "the example is shown")
        page.all("#suggestions .chip")[0].click()
        page.wait_answer()
        assert page.findings(), f"the first prompt of {sample} finds something"
        page.all("#suggestions .chip")[3].click()
        page.wait(lambda: page.visible("#ask") and page.text("#verdict") == "Not in this image", "the last one does not")


def test_several_images_make_a_strip(page):
    page.add(DEMO / "farm.png", DEMO / "night.png", DEMO / "fruit.webp")
    assert len(page.all("#thumbnails > li")) == 3
    page.all("#thumbnails .tile")[1].click()
    page.settle()
    assert "night.png" in page.text("#image-info")
    page.add(DEMO / "music.png")
    page.type_prompt("the cow")
    page.click("#ask-all")
    page.wait(lambda: [b.text for b in page.all("#thumbnails .badge")] == ["1", "0", "0", "0"], "all were asked")
    assert len(page.requests("api/images")) == 4
    page.all("#thumbnails .tile-remove")[0].click()
    page.settle()
    assert len(page.all("#thumbnails > li")) == 3 and "farm.png" not in page.text("#thumbnails")


def test_the_same_file_twice_is_one_image(page):
    page.add(DEMO / "farm.png")
    page.find("#file").send_keys(str(DEMO / "farm.png"))
    page.settle()
    assert len(page.all("#thumbnails > li")) == 1
