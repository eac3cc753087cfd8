"""The page reads image headers by the server's rules: the same orientation, the same size, and nothing that a
hostile file could do to it."""

import base64
import io
import struct

import pytest
from chord_server import ROOT
from page import DEMO
from PIL import Image
from scenes import stored, upright

READ = """
  const {readHeader} = await import('/js/image_header.js');
  const bytes = Uint8Array.from(atob(args[0]), (c) => c.charCodeAt(0));
  try {
    const {width, height, orientation} = readHeader(bytes);
    return {width, height, orientation};
  } catch (error) {
    return {error: error.code ?? String(error)};
  }"""


def read(page, data):
    return page.js_async(READ, base64.b64encode(data).decode())


def tiff(order, entries, offset=8, magic=42):
    """A TIFF block with one directory. entries: [(tag, type, count, value bytes of at most 4)]."""
    mark, endian = (b"II", "<") if order == "II" else (b"MM", ">")
    out = mark + struct.pack(endian + "HI", magic, offset) + bytes(offset - 8) + struct.pack(endian + "H", len(entries))
    for tag, kind, count, value in entries:
        out += struct.pack(endian + "HHI", tag, kind, count) + value.ljust(4, b"\0")
    return out + bytes(4)


def short(order, value):
    return struct.pack("<H" if order == "II" else ">H", value)


def long(order, value):
    return struct.pack("<I" if order == "II" else ">I", value)


EXIF = {
    "little endian": [tiff("II", [(0x112, 3, 1, short("II", 6))])],
    "big endian": [tiff("MM", [(0x112, 3, 1, short("MM", 8))])],
    "as a long": [tiff("MM", [(0x112, 4, 1, long("MM", 6))])],
    "as a signed byte": [tiff("II", [(0x112, 6, 1, b"\x05")])],
    "as a byte, which is text": [tiff("II", [(0x112, 1, 1, b"\x05")])],
    "as a rational": [tiff("II", [(0x112, 5, 1, long("II", 8))])],
    "behind other tags": [tiff("II", [(0x10F, 2, 4, b"abc\0"), (0x112, 3, 1, short("II", 3))])],
    "twice in one directory": [tiff("II", [(0x112, 3, 1, short("II", 3)), (0x112, 3, 1, short("II", 6))])],
    "zero": [tiff("II", [(0x112, 3, 1, short("II", 0))])],
    "nine": [tiff("II", [(0x112, 3, 1, short("II", 9))])],
    "without a value": [tiff("II", [(0x112, 3, 0, short("II", 6))])],
    "in a far directory": [tiff("II", [(0x112, 3, 1, short("II", 6))], offset=40)],
    "with a wrong magic": [tiff("II", [(0x112, 3, 1, short("II", 6))], magic=43)],
    "cut": [tiff("II", [(0x112, 3, 1, short("II", 6))])[:16]],
    "outside the block": [b"II*\0" + struct.pack("<I", 5000) + bytes(10)],
    "in two blocks": [tiff("II", [(0x112, 3, 1, short("II", 6))]), tiff("II", [(0x112, 3, 1, short("II", 8))])],
    "in the second block only": [tiff("II", [(0x10F, 2, 4, b"abc\0")]), tiff("II", [(0x112, 3, 1, short("II", 8))])],
    "in XMP, which does not count": [None],
}


def jpeg_with(blocks):
    plain = io.BytesIO()
    upright("shore.png").resize((84, 112)).save(plain, "JPEG", quality=90)
    plain = plain.getvalue()
    segments = b""
    for block in blocks:
        body = (b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='6'/>" if block is None else b"Exif\0\0" + block)
        segments += b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    return plain[:2] + segments + plain[2:]


@pytest.mark.parametrize("name", EXIF)
def test_page_and_server_agree_on_the_orientation(page, chord, name):
    data = jpeg_with(EXIF[name])
    answer = chord.post(data, "the crab").json
    seen = read(page, data)
    assert seen["orientation"] == answer["frame"]["orientation"]
    turned = seen["orientation"] >= 5
    assert answer["image_size"] == ([seen["height"], seen["width"]] if turned else [seen["width"], seen["height"]])


@pytest.mark.parametrize("name", EXIF)
def test_the_browser_decodes_the_stored_pixels_whatever_the_exif_says(page, name):
    size = page.js_async("""
      const {readHeader, withoutExif} = await import('/js/image_header.js');
      const bytes = Uint8Array.from(atob(args[0]), (c) => c.charCodeAt(0));
      const bitmap = await createImageBitmap(withoutExif(new Blob([bytes]), readHeader(bytes)));
      return [bitmap.width, bitmap.height];""", base64.b64encode(jpeg_with(EXIF[name])).decode())
    assert size == [84, 112]


@pytest.mark.parametrize("mode, options", [
    ("lossy", {"quality": 80}), ("lossless", {"lossless": True}), ("alpha", {"lossless": True})])
def test_the_size_of_every_kind_of_webp(page, mode, options):
    image = Image.open(DEMO / "badges.png").convert("RGBA" if mode == "alpha" else "RGB").resize((301, 77))
    for exif in (None, Image.Exif()):
        out = io.BytesIO()
        if exif is not None:
            exif[0x112] = 6
        image.save(out, "WEBP", **options, **({"exif": exif} if exif is not None else {}))
        assert read(page, out.getvalue()) == {"width": 301, "height": 77, "orientation": 6 if exif is not None else 1}


def test_damaged_files_are_refused_in_words_and_never_hang_the_page(page):
    small = upright("shore.png").resize((42, 56))
    seeds = [base64.b64encode(stored(small, format, 6)).decode() for format in ("JPEG", "PNG", "WEBP")]
    seeds += [base64.b64encode(path.read_bytes()[:4096]).decode()
              for path in sorted((ROOT / "tests" / "fuzz" / "corpus" / "image").glob("*"))[:40] if path.is_file()]
    odd = page.js_async("""
      const {ImageError, readHeader} = await import('/js/image_header.js');
      let state = 12345;
      const random = (n) => (state = (Math.imul(state, 1103515245) + 12345) >>> 0) % n;
      const odd = new Set();
      for (const seed of args[0]) {
        const whole = Uint8Array.from(atob(seed), (c) => c.charCodeAt(0));
        for (let i = 0; i < 400; i++) {
          const bytes = whole.slice(0, i % 4 ? whole.length : random(whole.length + 1));
          for (let k = random(4); k > 0; k--) bytes[random(Math.min(bytes.length, 200))] = random(256);
          try {
            readHeader(bytes);
          } catch (error) {
            if (!(error instanceof ImageError)) odd.add(String(error));
          }
        }
      }
      return [...odd];""", seeds)
    assert odd == []


def test_events_are_read_whatever_the_pieces_they_come_in(page):
    text = ('event: delta\ndata: {"text":"苹果"}\n\n' + 'event: object\ndata: {"box":[1,2,3,4]}\n\n' +
            ': a comment\n\n' + 'data: {"last":true}\n\n')
    for size in (1, 2, 7, 1000):
        events = page.js_async("""
          const {EventParser} = await import('/js/sse.js');
          const parser = new EventParser();
          const events = [];
          for (let at = 0; at < args[0].length; at += args[1]) events.push(...parser.push(args[0].slice(at, at + args[1])));
          return events;""", text, size)
        assert events == [{"event": "delta", "data": {"text": "苹果"}}, {"event": "object", "data": {"box": [1, 2, 3, 4]}},
                          {"event": "message", "data": {"last": True}}]
