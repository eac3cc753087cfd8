"""Reads the PNG images of a colour bitmap font (tables cmap 12, CBLC, CBDT of OpenType).

Enough for NotoColorEmoji.ttf: one strike of 136x128 pixels, index formats 1 and 3, image formats
17 to 19.
"""
from __future__ import annotations

import io
import struct
from pathlib import Path

from PIL import Image

DEFAULT_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
_METRICS_BYTES = {17: 5, 18: 8, 19: 0}


class FontError(RuntimeError):
    pass


class BitmapFont:
    def __init__(self, path: Path | str | None = None):
        path = Path(path or DEFAULT_FONT)
        if not path.is_file():
            raise FontError(f"{path} is missing: install the package fonts-noto-color-emoji, or pass --font")
        self._bytes = path.read_bytes()
        count = struct.unpack_from(">H", self._bytes, 4)[0]
        self._tables = {}
        for i in range(count):
            tag, _, offset, _ = struct.unpack_from(">4sIII", self._bytes, 12 + 16 * i)
            self._tables[tag.decode()] = offset
        if not {"cmap", "CBLC", "CBDT"} <= self._tables.keys():
            raise FontError(f"{path} has no colour bitmaps (CBDT)")
        self._glyphs = self._read_cmap()
        self._images = self._read_locations()

    def __contains__(self, code_point: int) -> bool:
        return self._glyphs.get(code_point) in self._images

    def image(self, code_point: int) -> Image.Image:
        """RGBA, as stored."""
        if code_point not in self:
            raise FontError(f"the font has no image of U+{code_point:04X}")
        image_format, at = self._images[self._glyphs[code_point]]
        at += _METRICS_BYTES[image_format]
        size = struct.unpack_from(">I", self._bytes, at)[0]
        return Image.open(io.BytesIO(self._bytes[at + 4 : at + 4 + size])).convert("RGBA")

    def _read_cmap(self) -> dict[int, int]:
        base = self._tables["cmap"]
        for i in range(struct.unpack_from(">H", self._bytes, base + 2)[0]):
            offset = base + struct.unpack_from(">HHI", self._bytes, base + 4 + 8 * i)[2]
            if struct.unpack_from(">H", self._bytes, offset)[0] != 12:
                continue
            glyphs = {}
            for g in range(struct.unpack_from(">I", self._bytes, offset + 12)[0]):
                first, last, glyph = struct.unpack_from(">III", self._bytes, offset + 16 + 12 * g)
                glyphs.update((c, glyph + c - first) for c in range(first, last + 1))
            return glyphs
        raise FontError("no cmap of format 12")

    def _read_locations(self) -> dict[int, tuple[int, int]]:
        """glyph -> (image format, offset in the file), of the first strike."""
        base, data = self._tables["CBLC"], self._tables["CBDT"]
        array_at, _, subtables = struct.unpack_from(">III", self._bytes, base + 8)
        array_at += base
        found = {}
        for i in range(subtables):
            first, last, extra = struct.unpack_from(">HHI", self._bytes, array_at + 8 * i)
            at = array_at + extra
            index_format, image_format, image_at = struct.unpack_from(">HHI", self._bytes, at)
            if index_format not in (1, 3) or image_format not in _METRICS_BYTES:
                continue
            step = 4 if index_format == 1 else 2
            count = last - first + 2
            offsets = struct.unpack_from(f">{count}{'I' if step == 4 else 'H'}", self._bytes, at + 8)
            for k in range(count - 1):
                if offsets[k + 1] > offsets[k]:
                    found[first + k] = (image_format, data + image_at + offsets[k])
        return found
