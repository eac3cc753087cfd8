"""Small sets of real photographs with boxes: crops of them, with prompts and answers.

A set is a tar of annotations.json ({file, objects: [{label_en, label_zh, bbox}]}, boxes in pixels of
the stored image) and its images, none larger than BANK_SIDE.
"""
from __future__ import annotations

import io
import json
import random
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .scenes import ALL, ONE, SUPERLATIVES, Box, answer_text, plural, superlative_target

BANK_SIDE = 448
# Sets in which every instance of a label has its box, so that "not there" can be believed.
COMPLETE = {"chess", "cards", "aquarium", "bccd", "coco_ccby"}
MIRRORED = {"cards"}  # sets whose things read wrongly when mirrored


@dataclass(frozen=True)
class Seen:
    en: str
    zh: str
    box: Box


@dataclass(frozen=True)
class Photo:
    set_name: str
    width: int
    height: int
    objects: tuple[Seen, ...]


@dataclass(frozen=True)
class Crop:
    """What to cut out: photo (row of the bank), left, top in its px; output px per its px; mirror."""

    photo: int
    left: float
    top: float
    scale: float
    mirror: bool


def load_photos(tars: Sequence[Path]) -> tuple[np.ndarray, list[Photo]]:
    """-> uint8 [N, 3, BANK_SIDE, BANK_SIDE], photographs at the top left on gray; their notes."""
    bank, notes = [], []
    for path in tars:
        set_name = path.stem.removeprefix("real_").split("_", 1)[1]
        with tarfile.open(path) as tar:
            files = {m.name.removeprefix("./"): m for m in tar.getmembers()}
            for photo in json.load(tar.extractfile(files["annotations.json"])):
                member = files.get(photo["file"]) or files["images/" + photo["file"]]
                image = Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB")
                if max(image.size) > BANK_SIDE:
                    continue
                row = np.full((3, BANK_SIDE, BANK_SIDE), 114, np.uint8)
                row[:, : image.height, : image.width] = np.asarray(image).transpose(2, 0, 1)
                bank.append(row)
                notes.append(Photo(set_name, *image.size, tuple(
                    Seen(o["label_en"], o["label_zh"], tuple(o["bbox"])) for o in photo["objects"])))
    return np.stack(bank), notes


class PhotoSampler:
    def __init__(self, photos: Sequence[Photo], rng: random.Random):
        self.photos, self.rng = photos, rng
        self._by_set: dict[str, list[int]] = {}
        for i, photo in enumerate(photos):
            self._by_set.setdefault(photo.set_name, []).append(i)
        self._labels = {name: sorted({(o.en, o.zh) for i in rows for o in photos[i].objects})
                        for name, rows in self._by_set.items()}

    def sample(self, width: int, height: int, turns: int = 3) -> tuple[Crop, list[tuple[str, str]]]:
        """-> the crop, and prompts with answers in its pixels."""
        for _ in range(200):
            crop, photo = self._crop(width, height)
            objects, unclear = self._visible(crop, photo, width, height)
            names = sorted({(o.en, o.zh) for o in objects if o.en not in unclear
                            and sum(p.en == o.en for p in objects) <= 6})
            if names:
                present = {o.en for o in objects} | unclear
                return crop, [self._turn(photo.set_name, objects, names, present) for _ in range(turns)]
        raise RuntimeError("no crop of any photograph shows a whole thing")

    def _crop(self, width: int, height: int) -> tuple[Crop, Photo]:
        rng = self.rng
        set_name = rng.choice(sorted(self._by_set))
        index = rng.choice(self._by_set[set_name])
        photo = self.photos[index]
        if rng.random() < 0.75:  # inside the photograph
            scale = max(width / photo.width, height / photo.height) * rng.uniform(1.0, 1.5)
            left = rng.uniform(0, photo.width - width / scale)
            top = rng.uniform(0, photo.height - height / scale)
        else:  # the whole photograph with a rim
            scale = min(width / photo.width, height / photo.height) * rng.uniform(0.85, 1.0)
            left = -rng.uniform(0, width / scale - photo.width)
            top = -rng.uniform(0, height / scale - photo.height)
        mirror = set_name not in MIRRORED and rng.random() < 0.5
        return Crop(index, left, top, scale, mirror), photo

    @staticmethod
    def _visible(crop: Crop, photo: Photo, width: int, height: int) -> tuple[list[Seen], set[str]]:
        """Things that are mostly inside, and names of which some instance is cut off."""
        objects, unclear = [], set()
        for o in photo.objects:
            x1, x2 = ((v - crop.left) * crop.scale for v in (o.box[0], o.box[2]))
            y1, y2 = ((v - crop.top) * crop.scale for v in (o.box[1], o.box[3]))
            if crop.mirror:
                x1, x2 = width - x2, width - x1
            box = max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2)
            w, h = max(0.0, box[2] - box[0]), max(0.0, box[3] - box[1])
            part = w * h / max((x2 - x1) * (y2 - y1), 1e-6)
            if part < 0.02:
                continue
            if part < 0.45 or min(w, h) < 9:
                unclear.add(o.en)
            else:
                objects.append(Seen(o.en, o.zh, box))
        return objects, unclear

    def _turn(self, set_name: str, objects: list[Seen], names: list[tuple[str, str]],
              present: set[str]) -> tuple[str, str]:
        rng = self.rng
        lang = "zh" if rng.random() < 0.45 else "en"
        if rng.random() < 0.15:
            absent = self._absent_name(set_name, present)
            if absent:
                return rng.choice(ONE[lang]).format(n=absent[lang == "zh"]), "[]"
        chosen = rng.choice(names)
        name = chosen[lang == "zh"]
        boxes = sorted((o.box for o in objects if o.en == chosen[0]), key=lambda b: b[0])
        if len(boxes) > 1 and rng.random() < 0.5:
            key = rng.choice(list(SUPERLATIVES))
            best = superlative_target(boxes, key)
            if best is not None:
                phrase = rng.choice(SUPERLATIVES[key][lang]).format(n=name)
                return rng.choice(ONE[lang]).format(n=phrase), answer_text([boxes[best]], [name])
        every = len(boxes) > 1 or rng.random() < 0.25
        prompt = rng.choice((ALL if every else ONE)[lang]).format(n=name, p=plural(name))
        return prompt, answer_text(boxes, [name] * len(boxes))

    def _absent_name(self, set_name: str, present: set[str]) -> tuple[str, str] | None:
        sets = [s for s in sorted(self._labels) if s in COMPLETE]
        if not sets:
            return None
        for _ in range(20):
            label = self.rng.choice(self._labels[self.rng.choice(sets)])
            if label[0] not in present and (set_name in COMPLETE or label not in self._labels[set_name]):
                return label
        return None


def cut(bank: Tensor, crops: Tensor, height: int, width: int) -> Tensor:
    """bank uint8 [N, 3, S, S], crops float [B, 5] as the fields of Crop -> [B, 3, H, W] in 0-1."""
    left, top, scale, mirror = crops[:, 1:].unbind(-1)
    side, zero = bank.shape[-1], torch.zeros_like(scale)
    sign = torch.where(mirror > 0.5, -1.0, 1.0)
    x, y = 2 * (left + width / 2 / scale) / side - 1, 2 * (top + height / 2 / scale) / side - 1
    matrix = torch.stack([torch.stack([sign * width / scale / side, zero, x], -1),
                          torch.stack([zero, height / scale / side, y], -1)], 1)
    grid = F.affine_grid(matrix, [len(crops), 3, height, width], align_corners=False)
    return F.grid_sample(bank[crops[:, 0].long()].float() / 255, grid, padding_mode="border",
                         align_corners=False)
