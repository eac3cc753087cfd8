"""The training loop: one process per GPU (torchrun), or one process on the CPU for tiny models.

State lives in WORK: tokenizer.json, recipe.json, checkpoint.pt (replaced as a whole), log.jsonl. A run
that finds a checkpoint goes on from it.
"""
from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from .data import Batches, Curriculum, Dataset, tokenizer_texts
from .kinds import load_kinds
from .model import Config, Nano
from .optim import Muon
from .photos import cut
from .render import Renderer
from .tokenizer import NO_LABEL, ChatFormat, train_tokenizer

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Recipe:
    model: Config
    curriculum: Curriculum
    lr: float = 1.2e-3
    warmup: int = 400
    seed: int = 1
    tokenizer_scenes: int = 12_000

    def rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to 3 %."""
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.curriculum.steps)))
        return self.lr * min(1.0, (step + 1) / self.warmup) * (0.97 * cosine + 0.03)


@dataclass(frozen=True)
class Run:
    """How a recipe is run; none of it changes what is learnt."""

    work: Path
    device: str = "cuda"
    workers: int = 14  # per GPU; 0: batches are made in the loop
    compile: bool = True
    minutes: float | None = None  # stop, with a checkpoint, after so long
    save_minutes: float = 5.0
    log_every: int = 200


@dataclass(frozen=True)
class Place:
    rank: int
    world: int
    device: torch.device

    @classmethod
    def of(cls, device: str) -> "Place":
        """From torchrun's environment."""
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        local = int(os.environ.get("LOCAL_RANK", 0))
        if device == "cuda":
            torch.cuda.set_device(local)
        if world > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if device == "cuda" else "gloo")
        return cls(rank, world, torch.device(f"cuda:{local}" if device == "cuda" else device))


class Trainer:
    def __init__(self, recipe: Recipe, run: Run, dataset: Dataset, place: Place | None = None):
        self.recipe, self.run, self.dataset = recipe, run, dataset
        self.place = place or Place.of(run.device)
        device = self.place.device
        run.work.mkdir(parents=True, exist_ok=True)
        self.chat = ChatFormat(self._tokenizer())
        torch.manual_seed(recipe.seed)
        torch.backends.cuda.matmul.allow_tf32 = True
        self.net = Nano(recipe.model).to(device)
        kinds = len(load_kinds())
        width = recipe.model.width
        # Reads each image token: which kind lies here (or none), and its box around the cell's centre.
        self.probe = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, kinds + 1 + 4)).to(device)
        self.optimizers = self._optimizers()
        self.averaged = {k: v.detach().clone().float() for k, v in self.net.state_dict().items()}
        self.step = 0
        self._resume()
        tensor = lambda a: None if a is None else torch.from_numpy(a)
        self.render = Renderer(tensor(dataset.atlas), tensor(dataset.backgrounds), device)
        self.bank = None if dataset.bank is None else tensor(dataset.bank).to(device)
        self.before = torch.tensor(self.chat.before, device=device)
        self.mean, self.std = (torch.tensor(v, device=device)[:, None, None] for v in (MEAN, STD))
        if run.compile:
            for block in [*self.net.model["visual"].blocks, *self.net.model["language_model"].layers]:
                block.compile(dynamic=True)

    def train(self) -> None:
        run, began, saved = self.run, time.monotonic(), time.monotonic()
        batches = Batches(self.dataset, self.chat, self.recipe.curriculum, self.recipe.seed,
                          self.place.rank, self.step)
        loader = torch.utils.data.DataLoader(
            batches, batch_size=None, num_workers=run.workers, pin_memory=run.device == "cuda",
            prefetch_factor=4 if run.workers else None)
        window: dict[str, list[Tensor]] = {}
        window_began = began
        for batch in loader:
            for key, value in self.learn(batch).items():
                window.setdefault(key, []).append(value)
            if self.step % run.log_every == 0:
                seconds, window_began = time.monotonic() - window_began, time.monotonic()
                self._log({k: torch.stack(v).mean().item() for k, v in window.items()}, seconds)
                window = {}
            if self.step % 10 == 0:
                now = time.monotonic()
                if run.minutes is not None and self._any(now - began > run.minutes * 60):
                    break
                if now - saved > run.save_minutes * 60:
                    self.save()
                    saved = now
        self.save()
        if self.place.world > 1:
            dist.barrier()

    def learn(self, batch: dict) -> dict[str, Tensor]:
        """One step; -> its losses."""
        progress = self.step / self.recipe.curriculum.steps
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.recipe.rate(self.step)
        batch = {k: v.to(self.place.device, non_blocking=True) if isinstance(v, Tensor) else v
                 for k, v in batch.items()}
        random = torch.Generator(self.place.device)
        random.manual_seed((self.recipe.seed * 1_000_003 + self.step) * 1009 + self.place.rank)
        images, targets = self._images(batch, random)
        with self._precision():
            images = (images - self.mean) / self.std
            hidden, seen = self.net(images, self.before, batch["ids"])
            wanted = batch["labels"][:, 1:]
            spoken = wanted != NO_LABEL
            logits = self.net.logits(hidden[:, :-1][spoken]).float()
            probed = self.probe(seen).float()
        loss = F.cross_entropy(logits, wanted[spoken])
        losses = {"words" if targets else "photo_words": loss.detach()}
        if targets:
            kind_loss, box_loss = _probe_losses(probed, *targets)
            loss = loss + max(0.05, 1 - 1.3 * progress) * (0.5 * kind_loss + box_loss)
            losses |= {"kinds": kind_loss.detach(), "boxes": box_loss.detach()}
        self.net.zero_grad()
        self.probe.zero_grad()
        loss.backward()
        self._share_gradients()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        if self.step % 10 == 0:
            self._average()
        return losses

    def save(self) -> None:
        if self.place.rank:
            return
        path, fresh = self.run.work / "checkpoint.pt", self.run.work / "checkpoint.pt.new"
        torch.save({"net": self.net.state_dict(), "averaged": self.averaged, "step": self.step,
                    "probe": self.probe.state_dict(),
                    "optimizers": [o.state_dict() for o in self.optimizers]}, fresh)
        fresh.replace(path)

    def _resume(self) -> None:
        described = json.dumps(dataclasses.asdict(self.recipe), indent=1)
        recipe, checkpoint = self.run.work / "recipe.json", self.run.work / "checkpoint.pt"
        if checkpoint.exists():
            if recipe.read_text() != described:
                raise ValueError(f"{recipe} is of another recipe: take another --work, or remove this one")
            state = torch.load(checkpoint, map_location=self.place.device, weights_only=True)
            self.net.load_state_dict(state["net"])
            self.probe.load_state_dict(state["probe"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"]):
                optimizer.load_state_dict(saved)
            self.averaged, self.step = state["averaged"], state["step"]
        elif self.place.rank == 0:
            recipe.write_text(described)

    def _tokenizer(self) -> Tokenizer:
        """Made by the first rank; the others wait for it."""
        path = self.run.work / "tokenizer.json"
        if self.place.rank == 0 and not path.exists():
            texts = tokenizer_texts(self.dataset, self.recipe.tokenizer_scenes)
            made = train_tokenizer(texts, self.recipe.model.vocab)
            made.save(str(path) + ".new")
            os.replace(str(path) + ".new", path)
        if self.place.world > 1:
            dist.barrier()
        tokenizer = Tokenizer.from_file(str(path))
        if tokenizer.get_vocab_size() > self.recipe.model.vocab:
            raise ValueError(f"{path} has more tokens than the model's {self.recipe.model.vocab}")
        return tokenizer

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """Matrices of hidden layers by Muon, all else by AdamW."""
        named = [*self.net.named_parameters(), *self.probe.named_parameters(prefix="probe")]
        hidden = [p for n, p in named if p.dim() == 2 and "embed" not in n and not n.startswith("probe")]
        rest = [p for _, p in named if all(p is not h for h in hidden)]
        adamw = torch.optim.AdamW(
            [{"params": [p for p in rest if p.dim() > 1], "weight_decay": 0.03},
             {"params": [p for p in rest if p.dim() <= 1], "weight_decay": 0.0}],
            lr=self.recipe.lr, betas=(0.9, 0.97), fused=self.place.device.type == "cuda")
        return [adamw, Muon(hidden, lr=self.recipe.lr)]

    def _images(self, batch: dict, random: torch.Generator):
        """-> images in 0-1, and the probe's targets; none for photographs."""
        height, width = batch["height"], batch["width"]
        if "crops" in batch:
            return _weathered(cut(self.bank, batch["crops"], height, width), random), None
        cell = self.recipe.model.cell
        images, shown = self.render(height, width, batch["sprites"], batch["affine"], batch["tints"],
                                      batch["tinted"], random, cell)
        most, owner = shown.flatten(2).max(1)
        taken = most > 0.2
        kinds = torch.where(taken, batch["kinds"].gather(1, owner), len(load_kinds()))
        boxes = batch["boxes"].gather(1, owner[..., None].expand(-1, -1, 4))
        centre = lambda n: torch.arange(n, device=images.device) * cell + cell / 2
        rows, columns = height // cell, width // cell
        middle = torch.stack([centre(columns).repeat(rows), centre(rows).repeat_interleave(columns)] * 2, -1)
        return images, (taken, kinds, (boxes - middle) / (4 * cell))

    def _precision(self):
        if self.place.device.type == "cuda":
            return torch.autocast("cuda", torch.bfloat16)
        return contextlib.nullcontext()

    def _share_gradients(self) -> None:
        if self.place.world == 1:
            return
        params = [*self.net.parameters(), *self.probe.parameters()]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
        flat = torch.cat([g.reshape(-1) for g in grads])
        dist.all_reduce(flat)
        flat /= self.place.world
        for p, part in zip(params, flat.split([p.numel() for p in params])):
            p.grad = part.view_as(p)

    def _any(self, value: bool) -> bool:
        """Whether it is so on any rank."""
        if self.place.world == 1:
            return value
        flag = torch.tensor(float(value), device=self.place.device)
        dist.all_reduce(flag)
        return bool(flag > 0)

    @torch.no_grad()
    def _average(self) -> None:
        keep = min(0.99, 0.9 + self.step / 50_000)
        now = [v.float() for v in self.net.state_dict().values()]
        torch._foreach_lerp_(list(self.averaged.values()), now, 1 - keep)

    def _log(self, losses: dict[str, float], seconds: float) -> None:
        if self.place.rank:
            return
        line = {"step": self.step, "lr": self.recipe.rate(self.step),
                "steps_per_second": self.run.log_every / seconds, **losses}
        text = json.dumps({k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in line.items()})
        print(text, flush=True)
        with open(self.run.work / "log.jsonl", "a") as log:
            log.write(text + "\n")


def _weathered(images: Tensor, random: torch.Generator) -> Tensor:
    """Contrast, brightness, colour cast and grain, a little of each."""
    n = len(images)
    uniform = lambda *shape: torch.rand(*shape, device=images.device, generator=random)
    grain = torch.randn(images.shape, device=images.device, generator=random)
    images = (images - 0.5) * (0.8 + 0.4 * uniform(n, 1, 1, 1)) + 0.5
    images = images + (uniform(n, 1, 1, 1) - 0.5) * 0.2 + (uniform(n, 3, 1, 1) - 0.5) * 0.08
    return (images + grain * 0.02 * uniform(n, 1, 1, 1)).clamp(0, 1)


def _probe_losses(probed: Tensor, taken: Tensor, kinds: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    kind_loss = F.cross_entropy(probed[..., :-4].flatten(0, 1), kinds.flatten())
    if not taken.any():
        return kind_loss, probed[..., -4:].sum() * 0
    return kind_loss, F.smooth_l1_loss(probed[..., -4:][taken], boxes[taken], beta=0.1)
