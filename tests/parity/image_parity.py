"""Compares chord::image with Pillow (decoding, resizing) and transformers (pixel values), bit for bit.

usage: image_parity.py PATH_TO_IMAGE_TOOL

Every image is generated here, so the expected values are known without a decoder wherever Pillow's
own conversion is not the rule (16 bits, alpha, colour keys).
"""

import io
import random
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import PIL
import torch
import transformers
from PIL import Image, ImageOps
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor, smart_resize

try:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
except ImportError:
    Qwen2VLImageProcessorPil = None

RNG = np.random.default_rng(7)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Tool:
    def __init__(self, path, folder):
        self.folder = Path(folder)
        self.process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, command, data, *arguments, dtype=np.uint8):
        source, result = self.folder / "in", self.folder / "out"
        source.write_bytes(data)
        self.process.stdin.write(" ".join([command, str(source), str(result), *map(str, arguments)]) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().split()
        if answer[0] != "ok":
            raise AssertionError(f"refused: {answer}")
        return int(answer[1]), int(answer[2]), np.fromfile(result, dtype=dtype)

    def batch(self, commands):
        text = "".join(" ".join(map(str, command)) + "\n" for command in commands)
        done = subprocess.run([self.process.args[0]], input=text, stdout=subprocess.PIPE, text=True, check=True)
        return [line.split() for line in done.stdout.splitlines()]

    def decode(self, data, exif="exif", alpha="white"):
        width, height, rgb = self.run("decode", data, exif, alpha)
        return rgb.reshape(height, width, 3)


FAILED = []
COUNT = 0


def same(name, got, want):
    global COUNT
    COUNT += 1
    if got.shape == want.shape and np.array_equal(got, want):
        return
    detail = f"shape {got.shape} against {want.shape}"
    if got.shape == want.shape:
        wrong = got != want
        difference = np.abs(got.astype(np.float64) - want.astype(np.float64))
        detail = f"{wrong.mean():.4%} differ, max {difference.max()}"
    FAILED.append(name)
    print(f"FAIL {name}: {detail}")


def noise(height, width, channels=3, dtype=np.uint8):
    """Blobs plus noise: something for chroma, something for the resampler."""
    top = np.iinfo(dtype).max
    y, x = np.mgrid[0:height, 0:width]
    planes = [
        (np.sin(x / (7.0 + c) + c) + np.cos(y / (11.0 - c))) * 0.2 + 0.5 + RNG.normal(0, 0.15, (height, width))
        for c in range(channels)
    ]
    return (np.clip(np.stack(planes, -1), 0, 1) * top).round().astype(dtype)


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def adam7(rows):
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    return [rows[y0::dy, x0::dx] for x0, y0, dx, dy in passes]


def png(samples, depth, colour_type, extra=(), interlaced=False):
    """samples: [height, width, channels] integers below 2**depth."""
    height, width = samples.shape[:2]
    raw = b""
    for part in adam7(samples) if interlaced else [samples]:
        if part.shape[0] == 0 or part.shape[1] == 0:
            continue
        for row in part:
            flat = row.reshape(-1)
            if depth == 16:
                packed = flat.astype(">u2").tobytes()
            elif depth == 8:
                packed = flat.astype(np.uint8).tobytes()
            else:
                bits = (flat[:, None] >> np.arange(depth - 1, -1, -1)) & 1
                packed = np.packbits(bits.reshape(-1).astype(np.uint8)).tobytes()
            raw += b"\0" + packed
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, int(interlaced))
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(raw, 1)), (b"IEND", b"")]
    return PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def on_white(rgb, alpha):
    rgb, alpha = rgb.astype(np.int64), alpha.astype(np.int64)[..., None]
    t = 255 * (255 - alpha) + rgb * alpha + 128
    return (((t >> 8) + t) >> 8).astype(np.uint8)


def check_png(tool):
    for width, height in ((1, 1), (7, 5), (33, 18), (64, 48)):
        for interlaced in (False, True):
            tag = f"png {width}x{height}{' adam7' if interlaced else ''}"
            # A key that does occur, and pixels that differ from it in the low bits alone.
            for depth in (1, 2, 4, 8, 16):
                top = 2**depth - 1
                gray = RNG.integers(0, top + 1, (height, width, 1))
                eight = (gray // 257 if depth == 16 else gray * (255 // top)).astype(np.uint8)
                rgb = np.repeat(eight, 3, -1)
                data = png(gray, depth, 0, interlaced=interlaced)
                same(f"{tag} gray{depth}", tool.decode(data), rgb)
                if depth <= 8:
                    same(f"{tag} gray{depth} pillow", tool.decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
                key = int(gray[0, 0, 0])
                if depth == 16 and width > 1:
                    gray[0, 1, 0] = key ^ 1
                    rgb[0, 1] = gray[0, 1, 0] // 257
                want = rgb.copy()
                want[gray[..., 0] == key] = 255
                data = png(gray, depth, 0, [(b"tRNS", struct.pack(">H", key))], interlaced)
                same(f"{tag} gray{depth} key", tool.decode(data), want)
                same(f"{tag} gray{depth} key dropped", tool.decode(data, alpha="drop"), rgb)
            for depth in (1, 2, 4, 8):
                count = 2**depth
                palette = RNG.integers(0, 256, (count, 3)).astype(np.uint8)
                alpha = RNG.integers(0, 256, max(1, count // 2)).astype(np.uint8)
                index = RNG.integers(0, count, (height, width, 1))
                rgb = palette[index[..., 0]]
                plte = (b"PLTE", palette.tobytes())
                data = png(index, depth, 3, [plte], interlaced)
                same(f"{tag} palette{depth}", tool.decode(data), rgb)
                same(f"{tag} palette{depth} pillow", tool.decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
                full = np.full(256, 255, np.uint8)
                full[: len(alpha)] = alpha
                data = png(index, depth, 3, [plte, (b"tRNS", alpha.tobytes())], interlaced)
                same(f"{tag} palette{depth} alpha", tool.decode(data), on_white(rgb, full[index[..., 0]]))
                rgba = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
                same(f"{tag} palette{depth} alpha pillow", tool.decode(data), on_white(rgba[..., :3], rgba[..., 3]))
            for depth, dtype in ((8, np.uint8), (16, np.uint16)):
                def down(v):
                    return (v // 257).astype(np.uint8) if depth == 16 else v.astype(np.uint8)

                rgb = noise(height, width, 3, dtype)
                same(f"{tag} rgb{depth}", tool.decode(png(rgb, depth, 2, interlaced=interlaced)), down(rgb))
                if width > 1:
                    rgb[0, 1] = rgb[0, 0]
                    rgb[0, 1, 2] ^= 1
                want = down(rgb)
                want[(rgb == rgb[0, 0]).all(-1)] = 255
                key = struct.pack(">HHH", *map(int, rgb[0, 0]))
                same(f"{tag} rgb{depth} key", tool.decode(png(rgb, depth, 2, [(b"tRNS", key)], interlaced)), want)
                for kind, channels in ((4, 2), (6, 4)):
                    v = RNG.integers(0, 2**depth, (height, width, channels)).astype(dtype)
                    v[0, 0, -1], v[-1, -1, -1] = 0, 2**depth - 1
                    colour = down(v[..., :-1])
                    colour = np.repeat(colour, 3, -1) if channels == 2 else colour
                    data = png(v, depth, kind, interlaced=interlaced)
                    same(f"{tag} type{kind} {depth}", tool.decode(data), on_white(colour, down(v[..., -1])))
                    same(f"{tag} type{kind} {depth} dropped", tool.decode(data, alpha="drop"), colour)
                    if depth == 8:
                        same(f"{tag} type{kind} pillow", tool.decode(data, alpha="drop"), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    # Pillow's own composite, as qwen_vl_utils does it.
    rgba = Image.fromarray(RNG.integers(0, 256, (40, 50, 4)).astype(np.uint8), "RGBA")
    white = Image.new("RGB", rgba.size, (255, 255, 255))
    white.paste(rgba, mask=rgba.split()[3])
    same("png rgba over white pillow", tool.decode(saved(rgba, "PNG")), np.asarray(white))


def check_jpeg(tool):
    for width, height in ((1, 1), (8, 8), (17, 31), (160, 119), (333, 250)):
        rgb = Image.fromarray(noise(height, width))
        for name, image, options in (
            ("444", rgb, {"subsampling": 0}),
            ("422", rgb, {"subsampling": 1}),
            ("420", rgb, {"subsampling": 2}),
            ("420 q30", rgb, {"subsampling": 2, "quality": 30}),
            ("progressive 420", rgb, {"subsampling": 2, "progressive": True}),
            ("progressive 444", rgb, {"subsampling": 0, "progressive": True, "quality": 95}),
            ("restarts", rgb, {"restart_marker_blocks": 3}),
            ("rgb", rgb, {"keep_rgb": True}),
            ("icc", rgb, {"icc_profile": b"\0" * 700}),
            ("gray", rgb.convert("L"), {}),
            ("gray progressive", rgb.convert("L"), {"progressive": True}),
            ("cmyk", Image.fromarray(noise(height, width, 4), "CMYK"), {}),
            ("cmyk progressive", Image.fromarray(noise(height, width, 4), "CMYK"), {"progressive": True}),
        ):
            data = saved(image, "JPEG", **options)
            want = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            same(f"jpeg {width}x{height} {name}", tool.decode(data), want)
            if name == "cmyk":
                # The same inks without the Adobe marker, and declared as YCCK (transform 2).
                marker = data.index(b"\xff\xeeAdobe"[:2] + struct.pack(">H", 14) + b"Adobe")
                bare = data[:marker] + data[marker + 16 :]
                want = np.asarray(Image.open(io.BytesIO(bare)).convert("RGB"))
                same(f"jpeg {width}x{height} cmyk bare", tool.decode(bare), want)
                ycck = data[: marker + 15] + b"\x02" + data[marker + 16 :]
                want = np.asarray(Image.open(io.BytesIO(ycck)).convert("RGB"))
                same(f"jpeg {width}x{height} ycck", tool.decode(ycck), want)


def check_webp(tool):
    for width, height in ((1, 1), (16, 16), (37, 53), (300, 200)):
        rgb = Image.fromarray(noise(height, width))
        rgba = Image.fromarray(noise(height, width, 4), "RGBA")
        for name, image, options in (
            ("lossy", rgb, {"quality": 80}),
            ("lossy q5", rgb, {"quality": 5}),
            ("lossless", rgb, {"lossless": True}),
            ("lossy alpha", rgba, {"quality": 70}),
            ("lossless alpha", rgba, {"lossless": True, "exact": True}),
        ):
            data = saved(image, "WEBP", **options)
            opened = Image.open(io.BytesIO(data))
            want = np.asarray(opened.convert("RGB"))
            same(f"webp {width}x{height} {name} dropped", tool.decode(data, alpha="drop"), want)
            if image is rgba:
                full = np.asarray(opened.convert("RGBA"))
                want = on_white(full[..., :3], full[..., 3])
            same(f"webp {width}x{height} {name}", tool.decode(data), want)


def check_orientation(tool):
    image = Image.fromarray(noise(45, 70))
    for value in (*range(1, 9), 0, 9, 300):
        exif = Image.Exif()
        exif[0x0112] = value
        for kind, options in (("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True})):
            data = saved(image, kind, exif=exif, **options)
            opened = Image.open(io.BytesIO(data))
            stored = np.asarray(opened.convert("RGB"))
            upright = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
            same(f"exif {value} {kind}", tool.decode(data), upright)
            same(f"exif {value} {kind} stored", tool.decode(data, exif="stored"), stored)


    # The tag in every type and twice, as few programs write it.
    for order, mark in (("<", b"II*\0"), (">", b"MM\0*")):
        for kind, form in ((1, "B"), (2, "B"), (3, "H"), (4, "I"), (6, "b"), (8, "h"), (9, "i"), (13, "I")):
            for count in (1, 2):
                body = struct.pack(f"{order}{count}{form}", *[6] * count)
                entry = struct.pack(order + "HHHI", 1, 0x0112, kind, count)
                place = body.ljust(4, b"\0") if len(body) <= 4 else struct.pack(order + "I", 26) + bytes(4)
                tiff = mark + struct.pack(order + "I", 8) + entry + place
                tiff = tiff.ljust(26, b"\0") + (body if len(body) > 4 else b"")
                data = saved(image, "JPEG", exif=b"Exif\0\0" + tiff)
                upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
                same(f"exif type {kind} count {count} {mark}", tool.decode(data), np.asarray(upright.convert("RGB")))


# Height, width. Tiny, odd, halves of the factor, extreme ratios, screens, cameras.
SIZES = (
    (1, 1), (1, 2), (2, 1), (1, 200), (200, 1), (3, 5), (5, 900), (10, 10), (13, 27), (14, 2800),
    (20, 30), (28, 28), (29, 28), (28, 29), (42, 42), (55, 57), (56, 84), (70, 98), (99, 101), (112, 56),
    (126, 154), (140, 333), (224, 224), (240, 320), (300, 2), (333, 517), (336, 448), (384, 1000),
    (480, 640), (517, 333), (600, 800), (719, 1279), (720, 1280), (768, 1024), (1000, 5), (1024, 768),
    (1050, 10), (1080, 1920), (1200, 300), (1500, 2000), (2048, 2048), (2000, 37), (3000, 4000), (4000, 37),
)


def check_smart_resize(tool):
    random.seed(5)
    cases = []
    while len(cases) < 100_000:
        height, width = (random.randint(1, 2 ** random.randint(1, 14)) for _ in range(2))
        patch, merge = random.choice(((14, 2), (14, 2), (16, 2), (14, 1), (7, 3)))
        low = random.choice((3136, 4 * (patch * merge) ** 2, 200_704))
        high = random.choice((1003520, 12845056, 602_112, 313_600))
        cases.append((width, height, low, high, patch, merge))
    answers = tool.batch([("plan", "-", "-", "-", *case) for case in cases])
    got, want = [], []
    for (width, height, low, high, patch, merge), answer in zip(cases, answers):
        try:
            down, across = smart_resize(height, width, patch * merge, low, high)
            want.append((across, down))
        except ValueError:
            want.append((0, 0))
        got.append((int(answer[1]), int(answer[2])) if answer[0] == "ok" else (0, 0))
    same("smart_resize of 100000 sizes", np.array(got), np.array(want))


def processor(kind, max_pixels):
    made = kind(size={"shortest_edge": 3136, "longest_edge": max_pixels})
    # A checkpoint loaded earlier in the same process may have moved the class's default.
    assert (made.size["shortest_edge"], made.size["longest_edge"]) == (3136, max_pixels), made.size
    return made


def check_pixels(tool):
    modes = [("torch", Qwen2VLImageProcessor)]
    if Qwen2VLImageProcessorPil is not None:
        modes.append(("pillow", Qwen2VLImageProcessorPil))
    else:
        print("skip mode pillow: this transformers has no PIL backend")
    for mode, kind in modes:
        for max_pixels in (1003520, 12845056):
            oracle = processor(kind, max_pixels)
            for height, width in SIZES:
                if max_pixels > 1003520 and height * width not in range(500_000, 4_000_000) and (mode, height) != ("torch", 3000):
                    continue  # the bound does not matter
                image = Image.fromarray(RNG.integers(0, 256, (height, width, 3)).astype(np.uint8))
                data = saved(image, "PNG", compress_level=1)
                if mode == "pillow":  # resized already, so the processor leaves the size alone
                    to_height, to_width = smart_resize(height, width, 28, 3136, max_pixels)
                    image = pillow_resize(image, to_width, to_height)
                want = oracle(images=[image], return_tensors="pt")
                across, down, got = tool.run("pixels", data, mode, 3136, max_pixels, 14, 2, 2, dtype=np.float32)
                name = f"pixels {mode} {height}x{width} max {max_pixels}"
                grid = np.array([[1, down, across]])
                same(f"{name} grid", grid, want["image_grid_thw"].numpy())
                same(name, got.reshape(-1, 1176).view(np.int32), want["pixel_values"].numpy().view(np.int32))
    # Other geometries of the same family.
    image = Image.fromarray(noise(211, 307))
    data = saved(image, "PNG")
    for patch, merge, temporal in ((16, 2, 2), (14, 1, 2), (8, 3, 1)):
        oracle = Qwen2VLImageProcessor(
            size={"shortest_edge": 3136, "longest_edge": 1003520},
            patch_size=patch, merge_size=merge, temporal_patch_size=temporal,
        )
        want = oracle(images=[image], return_tensors="pt")
        across, down, got = tool.run("pixels", data, "torch", 3136, 1003520, patch, merge, temporal, dtype=np.float32)
        want_pixels = want["pixel_values"].numpy()
        same(f"pixels patch {patch} merge {merge} temporal {temporal}",
             got.reshape(want_pixels.shape).view(np.int32), want_pixels.view(np.int32))


def pillow_resize(image, width, height):
    """One axis at a time, in the order of Pillow 12.2 and 12.3: before them tall images had no rule of
    their own, and 13.0 chooses its order by another one."""
    if image.height > 100 * image.width and height < image.height:
        image = image.resize((image.width, height), Image.BICUBIC)
    return image.resize((width, image.height), Image.BICUBIC).resize((width, height), Image.BICUBIC)


def check_resize(tool):
    random.seed(3)
    cases = [[random.randint(1, random.choice((4, 40, 400))) for _ in range(4)] for _ in range(60)]
    cases = [c for c in cases if max(c[:2]) <= 200 * min(c[:2])]
    for case, (height, width, to_height, to_width) in enumerate([*cases, (810, 8, 500, 13), (810, 8, 900, 13)]):
        array = RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)
        if case % 3 == 0:
            array = (array > 127).astype(np.uint8) * 255
        data = saved(Image.fromarray(array), "PNG")
        name = f"resize {height}x{width} to {to_height}x{to_width}"
        want = np.asarray(pillow_resize(Image.fromarray(array), to_width, to_height))
        _, _, got = tool.run("resize", data, "pillow", to_width, to_height)
        same(f"{name} pillow", got.reshape(want.shape), want)
        want = torch.nn.functional.interpolate(
            torch.from_numpy(array).permute(2, 0, 1)[None], (to_height, to_width), mode="bicubic", antialias=True
        )[0].permute(1, 2, 0).numpy()
        _, _, got = tool.run("resize", data, "torch", to_width, to_height)
        same(f"{name} torch", got.reshape(want.shape), want)


def main():
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, Pillow {PIL.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        tool = Tool(sys.argv[1], folder)
        for check in (check_png, check_jpeg, check_webp, check_orientation, check_resize, check_smart_resize, check_pixels):
            before = COUNT
            check(tool)
            print(f"{check.__name__}: {COUNT - before} comparisons")
    print(f"{COUNT} comparisons, {len(FAILED)} failed")
    return 1 if FAILED else 0


if __name__ == "__main__":
    sys.exit(main())
