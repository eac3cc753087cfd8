"""Images on their way to the server."""

from __future__ import annotations

import base64
import binascii
import io
import os
import pathlib
import sys
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, Union

from chord_client.errors import ImageError
from chord_client.types import ImageHandle

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image as PilModule

    PilImage: TypeAlias = PilModule.Image

# What is taken wherever an image is: a path, the bytes of a file, an open binary file, an image of
# Pillow or numpy, an Image, or the handle of an image that the server keeps.
ImageSource = Union[
    "Image",
    ImageHandle,
    str,
    "os.PathLike[str]",
    bytes,
    bytearray,
    memoryview,
    BinaryIO,
    "PilImage",
    "np.ndarray[Any, Any]",
]

# The server's ceiling; its configured limit may be lower.
MAX_BYTES = 64 << 20


class Image:
    """The bytes of a JPEG, PNG or WebP file. The server tells the format by the bytes and checks them."""

    __slots__ = ("data", "name")

    def __init__(self, data: bytes, *, name: str = "image") -> None:
        """name: shown in errors and exports. ImageError when empty or larger than any server takes."""
        if not data:
            raise ImageError(f"{name} has no bytes.", reason="IMAGE_EMPTY")
        if len(data) > MAX_BYTES:
            raise _too_large(name)
        self.data = data
        self.name = name

    def __repr__(self) -> str:
        return f"Image({self.name!r}, {self.mime_type}, {len(self.data)} bytes)"

    @classmethod
    def of(cls, source: ImageSource) -> Image:
        """From anything but a handle; see ImageSource. A str is a path, never an address."""
        if isinstance(source, Image):
            return source
        if isinstance(source, (str, os.PathLike)):
            return cls.from_path(source)
        if isinstance(source, (bytes, bytearray, memoryview)):
            return cls(bytes(source))
        if isinstance(source, ImageHandle):
            raise TypeError("The handle of an uploaded image has no bytes.")
        if _is_instance(source, "PIL.Image", "Image"):
            return cls.from_pil(source)  # type: ignore[arg-type]
        if _is_instance(source, "numpy", "ndarray"):
            return cls.from_numpy(source)  # type: ignore[arg-type]
        if hasattr(source, "read"):
            return cls.from_file(source)  # type: ignore[arg-type]
        raise TypeError(
            f"An image is a path, bytes, an open file, a PIL image, a numpy array or an Image, not {type(source).__name__}."
        )

    @classmethod
    def from_path(cls, path: str | os.PathLike[str]) -> Image:
        """Reads the file. OSError when it cannot be read."""
        path = pathlib.Path(path)
        if path.stat().st_size > MAX_BYTES:
            raise _too_large(path.name)
        return cls(path.read_bytes(), name=path.name)

    @classmethod
    def from_file(cls, file: BinaryIO, *, name: str | None = None) -> Image:
        """Reads an open binary file from where it stands to its end."""
        data = file.read(MAX_BYTES + 1)
        if not isinstance(data, bytes):
            raise TypeError("Open the image file in binary mode.")
        own = getattr(file, "name", None)
        return cls(data, name=name or (os.path.basename(own) if isinstance(own, str) else "image"))

    @classmethod
    def from_base64(cls, text: str, *, name: str = "image") -> Image:
        """From base64 text, or a data: URL with base64."""
        if text.startswith("data:"):
            head, comma, text = text.partition(",")
            if not comma or not head.endswith(";base64"):
                raise ImageError("A data: URL of an image must be base64.", reason="IMAGE_CORRUPT")
        try:
            return cls(base64.b64decode(text, validate=True), name=name)
        except binascii.Error as error:
            raise ImageError("The image is not valid base64.", reason="IMAGE_CORRUPT") from error

    @classmethod
    def from_pil(cls, image: PilImage, *, name: str = "image") -> Image:
        """As PNG, turned upright first, so that boxes are in the frame of ImageOps.exif_transpose(image)."""
        from PIL import ImageOps

        upright = ImageOps.exif_transpose(image)
        if upright.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
            upright = upright.convert("RGB")
        out = io.BytesIO()
        upright.save(out, format="PNG", compress_level=1)
        return cls(out.getvalue(), name=name)

    @classmethod
    def from_numpy(
        cls, pixels: np.ndarray[Any, Any], *, bgr: bool = False, name: str = "image"
    ) -> Image:
        """uint8 of shape [height, width], [height, width, 1], 3 (RGB) or 4 (RGBA).

        bgr: the channels are in the order of OpenCV.
        """
        from PIL import Image as PilModule

        shape = pixels.shape
        if len(shape) == 3 and shape[2] == 1:
            pixels, shape = pixels[:, :, 0], shape[:2]
        if pixels.dtype != "uint8" or not (
            len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))
        ):
            raise ImageError(
                f"An array of an image is uint8 of shape [height, width], or with 1, 3 or 4 channels; this is {pixels.dtype} of {list(shape)}.",
                reason="IMAGE_FORMAT_UNSUPPORTED",
            )
        if 0 in shape:
            raise ImageError("The image has a side of 0 px.", reason="IMAGE_ZERO_SIDE")
        if bgr and len(shape) == 3:
            pixels = pixels[:, :, [2, 1, 0, 3][: shape[2]]]
        return cls.from_pil(PilModule.fromarray(pixels), name=name)

    @property
    def mime_type(self) -> str:
        """By the bytes; application/octet-stream when they are none that Chord takes."""
        if self.data[:3] == b"\xff\xd8\xff":
            return "image/jpeg"
        if self.data[:8] == b"\x89PNG\r\n\x1a\n":
            return "image/png"
        if self.data[:4] == b"RIFF" and self.data[8:12] == b"WEBP":
            return "image/webp"
        return "application/octet-stream"

    def to_data_url(self) -> str:
        return f"data:{self.mime_type};base64,{base64.b64encode(self.data).decode('ascii')}"

    def to_pil(self) -> PilImage:
        """The upright pixels as RGB: the frame of every box. Needs Pillow."""
        from PIL import Image as PilModule
        from PIL import ImageOps

        with PilModule.open(io.BytesIO(self.data), formats=("JPEG", "PNG", "WEBP")) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:  # composed on white, as the server does
                rgba = upright.convert("RGBA")
                canvas = PilModule.new("RGBA", rgba.size, (255, 255, 255, 255))
                upright = PilModule.alpha_composite(canvas, rgba)
            return upright.convert("RGB")


def _too_large(name: str) -> ImageError:
    return ImageError(
        f"{name} has more than {MAX_BYTES >> 20} MiB, which no server takes. Scale it down.",
        reason="IMAGE_TOO_MANY_BYTES",
    )


def _is_instance(value: object, module: str, name: str) -> bool:
    """isinstance without importing the module: a value of it exists only when it is loaded."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, getattr(loaded, name))
