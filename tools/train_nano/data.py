"""What training reads: sprites, photographs, and an endless, repeatable stream of batches.

Batch i of rank r depends on (seed, r, i) alone, so a run that is resumed at step i goes on as if it
had not stopped; its size and its kind depend on (seed, i) alone, so ranks stay in step.
"""
from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from .kinds import load_kinds
from .photos import Photo, PhotoSampler, load_photos
from .scenes import SceneSampler, Variant
from .sprites import SpriteBook
from .tokenizer import NO_LABEL, SYSTEM, ChatFormat, Dialog

MAX_OBJECTS = 8
MAX_TOKENS = 336
Size = tuple[int, int]  # width, height


@dataclass(frozen=True)
class Dataset:
    atlas: np.ndarray  # uint8 [sprites, 4, side, side], premultiplied RGBA
    variants: list[list[Variant]]  # per kind
    backgrounds: np.ndarray | None  # uint8 [P, 3, H, W]
    bank: np.ndarray | None  # photographs with boxes, see photos.py
    photos: list[Photo]


def own_material(font: Path | None = None) -> Dataset:
    """One drawing of each kind, from the font; no photographs."""
    book = SpriteBook(font)
    variants = [[Variant(i, book.hull(i))] for i in range(len(book.kinds))]
    return Dataset(book.atlas(), variants, None, None, [])


def lab_material(folder: Path) -> Dataset:
    """A second drawing style, background photographs and photographs with boxes:
    atlas.npz, meta.json, atlas_fluent.npz, meta_fluent.json, real_train_*.tar."""
    first, second = np.load(folder / "atlas.npz"), np.load(folder / "atlas_fluent.npz")
    notes, second_notes = (json.loads((folder / f).read_text(encoding="utf-8"))
                           for f in ("meta.json", "meta_fluent.json"))
    names = [k.en[0] for k in load_kinds()]
    if [n["en"][0] for n in notes] != names:
        raise ValueError(f"{folder}: the atlas does not hold the kinds of kinds.tsv in their order")
    hull = lambda note: tuple(map(tuple, note["hull"]))
    variants = [[Variant(i, hull(n))] for i, n in enumerate(notes)]
    for i, n in enumerate(second_notes):
        variants[n["index"]].append(Variant(len(notes) + i, hull(n)))
    tars = sorted(folder.glob("real_train_*.tar"))
    bank, photos = load_photos(tars) if tars else (None, [])
    return Dataset(np.concatenate([first["atlas"], second["atlas"]]), variants, first["photos"], bank, photos)


@dataclass(frozen=True)
class Curriculum:
    """Small images and few things first; photographs once the first words are there."""

    steps: int
    batch: int = 256  # halved for the large sizes
    small: tuple[Size, ...] = ((224, 224), (252, 252), (280, 224), (224, 280))
    large: tuple[Size, ...] = ((448, 336), (336, 448), (448, 448), (560, 420), (392, 392), (420, 560),
                               (476, 364), (504, 336))
    photo_share: float = 0.22
    scene_turns: int = 4
    photo_turns: int = 3

    def size(self, index: int, rng: random.Random) -> tuple[Size, bool]:
        small = rng.random() < max(0.15, 1.0 - 1.7 * index / self.steps)
        return rng.choice(self.small if small else self.large), small

    def max_objects(self, index: int, small: bool) -> int:
        progress = index / self.steps
        return 2 if progress < 0.04 else 3 if progress < 0.10 else 5 if small else MAX_OBJECTS

    def photographs(self, index: int, rng: random.Random) -> bool:
        return index > 0.08 * self.steps and rng.random() < self.photo_share


class Batches(torch.utils.data.IterableDataset):
    def __init__(self, dataset: Dataset, chat: ChatFormat, curriculum: Curriculum, seed: int,
                 rank: int = 0, start: int = 0):
        self.dataset, self.chat, self.curriculum = dataset, chat, curriculum
        self.seed, self.rank, self.start = seed, rank, start

    def __iter__(self) -> Iterator[dict]:
        """Worker w of n makes every n-th batch; the loader puts them back in order."""
        worker = torch.utils.data.get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        if worker:
            torch.set_num_threads(1)
        for index in range(self.start + first, self.curriculum.steps, step):
            yield self.batch(index)

    def batch(self, index: int) -> dict:
        plan = random.Random(f"train/{self.seed}/plan/{index}")
        rng = random.Random(f"train/{self.seed}/{self.rank}/{index}")
        (width, height), small = self.curriculum.size(index, plan)
        count = self.curriculum.batch if small else max(1, self.curriculum.batch // 2)
        if self.dataset.photos and self.curriculum.photographs(index, plan):
            return self._photo_batch(count, width, height, rng)
        return self._scene_batch(count, width, height, self.curriculum.max_objects(index, small), rng)

    def _scene_batch(self, count: int, width: int, height: int, max_objects: int, rng) -> dict:
        sampler = SceneSampler(load_kinds(), self.dataset.variants, rng)
        shape = count, MAX_OBJECTS
        out = {"sprites": np.full(shape, -1, np.int64),
               "kinds": np.full(shape, len(load_kinds()), np.int64),
               "affine": np.zeros((*shape, 5), np.float32), "tints": np.zeros((*shape, 3), np.float32),
               "tinted": np.zeros(shape, bool), "boxes": np.zeros((*shape, 4), np.float32)}
        dialogs = []
        for b in range(count):
            scene = sampler.sample(width, height, max_objects, self.curriculum.scene_turns)
            for k, o in enumerate(scene.objects):
                out["sprites"][b, k], out["kinds"][b, k], out["boxes"][b, k] = o.sprite, o.kind, o.box
                out["affine"][b, k] = o.x, o.y, o.size, o.angle, o.flip
                if o.tint:
                    out["tinted"][b, k], out["tints"][b, k] = True, np.array(o.tint) / 255
            dialogs.append(self.chat.dialog([(t.prompt, scene.answer(t)) for t in scene.turns]))
        return {"width": width, "height": height, **{k: torch.from_numpy(v) for k, v in out.items()},
                **self._padded(dialogs)}

    def _photo_batch(self, count: int, width: int, height: int, rng) -> dict:
        sampler = PhotoSampler(self.dataset.photos, rng)
        crops, dialogs = [], []
        for _ in range(count):
            crop, turns = sampler.sample(width, height, self.curriculum.photo_turns)
            crops.append([crop.photo, crop.left, crop.top, crop.scale, float(crop.mirror)])
            dialogs.append(self.chat.dialog(turns))
        return {"width": width, "height": height, "crops": torch.tensor(crops), **self._padded(dialogs)}

    def _padded(self, dialogs: Sequence[Dialog]) -> dict[str, Tensor]:
        length = min(MAX_TOKENS, -(-max(len(d.ids) for d in dialogs) // 16) * 16)
        ids = torch.full((len(dialogs), length), self.chat.id["<|endoftext|>"])
        labels = torch.full((len(dialogs), length), NO_LABEL)
        for row, d in enumerate(dialogs):
            n = min(length, len(d.ids))
            ids[row, :n], labels[row, :n] = torch.tensor(d.ids[:n]), torch.tensor(d.labels[:n])
        return {"ids": ids, "labels": labels}


def tokenizer_texts(dataset: Dataset, scenes: int) -> Iterator[str]:
    """Requests and answers as training will show them."""
    sampler = SceneSampler(load_kinds(), dataset.variants, random.Random("tokenizer/scenes"))
    for _ in range(scenes):
        scene = sampler.sample(448, 448)
        for turn in scene.turns:
            yield turn.prompt
            yield scene.answer(turn)
    if dataset.photos:
        photos = PhotoSampler(dataset.photos, random.Random("tokenizer/photos"))
        for _ in range(scenes // 3):
            for turn in photos.sample(448, 336)[1]:
                yield from turn
    for _ in range(scenes // 4):
        yield from (f"system\n{SYSTEM}", "user\n", "assistant\n")
