"""Measures a grounding model on scenes with known boxes, and on held-out photographs.

Answerers take an image file and a prompt and give boxes in pixels of the upright image:
transformers in this process, or a running Chord over HTTP or gRPC.
"""
from __future__ import annotations

import io
import json
import re
import sys
import tarfile
import tempfile
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Sequence

Boxes = list[tuple[float, float, float, float]]
Answerer = Callable[[bytes, str], Boxes]
_BOX = re.compile(r'"bbox_2d": \[(\d+), (\d+), (\d+), (\d+)\]')


def parse_boxes(text: str) -> list[tuple[int, int, int, int]]:
    return [tuple(map(int, m)) for m in _BOX.findall(text)]


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return w * h / (both - w * h)


def matched(truth: Boxes, predicted: Boxes) -> list[float]:
    """IoU of each true box with the answer that is its own; greedy, best pairs first."""
    pairs = sorted(((iou(t, s), i, j) for i, t in enumerate(truth) for j, s in enumerate(predicted)),
                   reverse=True)
    scores, used_truth, used_predicted = [0.0] * len(truth), set(), set()
    for score, i, j in pairs:
        if i not in used_truth and j not in used_predicted:
            scores[i] = score
            used_truth.add(i)
            used_predicted.add(j)
    return scores


@dataclass
class Score:
    """exact: as many boxes as there are things, each over IoU 0.5 with its own."""

    asked: int = 0
    exact: int = 0
    boxes: int = 0
    hits: int = 0
    iou_sum: float = 0.0

    def add(self, truth: Boxes, predicted: Boxes) -> bool:
        scores = matched(truth, predicted)
        right = len(predicted) == len(truth) and all(s > 0.5 for s in scores)
        self.asked += 1
        self.exact += right
        self.boxes += len(truth)
        self.hits += sum(s > 0.5 for s in scores)
        self.iou_sum += sum(scores)
        return right

    def as_dict(self) -> dict:
        summary = {"asked": self.asked, "exact": self.exact}
        if self.boxes:
            summary |= {"acc_at_0.5": round(self.hits / self.boxes, 4),
                        "mean_iou": round(self.iou_sum / self.boxes, 4)}
        return summary


class Transformers:
    """The reference: Hugging Face transformers, greedy."""

    def __init__(self, model: Path, dtype: str = "fp32", device: str = "cpu", max_new_tokens: int = 256):
        import torch
        from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

        self._torch = torch
        self._max_new_tokens = max_new_tokens
        self._processor = AutoProcessor.from_pretrained(model)
        self._model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            model, dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]).to(device).eval()

    def __call__(self, image: bytes, prompt: str) -> Boxes:
        image = upright_rgb(image)
        _, ids, grid = self.generate(image, prompt)
        return self.to_image(parse_boxes(self.decode(ids)), image, grid)

    def generate(self, image, prompt: str) -> tuple[list[int], list[int], object]:
        """-> prompt ids, new ids, image_grid_thw."""
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        text = self._processor.apply_chat_template([{"role": "user", "content": content}],
                                                   tokenize=False, add_generation_prompt=True)
        inputs = self._processor(text=[text], images=[image], return_tensors="pt")
        inputs = inputs.to(self._model.device)
        with self._torch.inference_mode():
            out = self._model.generate(**inputs, max_new_tokens=self._max_new_tokens, do_sample=False)
        length = inputs["input_ids"].shape[1]
        return out[0, :length].tolist(), out[0, length:].tolist(), inputs["image_grid_thw"]

    def decode(self, ids: Sequence[int]) -> str:
        return self._processor.tokenizer.decode(ids, skip_special_tokens=True)

    def to_image(self, boxes: Boxes, image, grid) -> Boxes:
        """From pixels of the resized image, which `grid` tells, to those of `image`."""
        patch = self._processor.image_processor.patch_size
        height, width = (int(g) * patch for g in grid[0, 1:])
        x, y = image.width / width, image.height / height
        return [(b[0] * x, b[1] * y, b[2] * x, b[3] * y) for b in boxes]


class ChordHttp:
    def __init__(self, address: str, max_new_tokens: int = 256):
        self._url = (address if "://" in address else f"http://{address}").rstrip("/") + "/api/ground"
        self._max_new_tokens = max_new_tokens

    def __call__(self, image: bytes, prompt: str) -> Boxes:
        mark = uuid.uuid4().hex
        fields = {"prompt": prompt, "max_new_tokens": str(self._max_new_tokens)}
        body = b"".join(
            f'--{mark}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode()
            for k, v in fields.items())
        body += (f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="image"\r\n'
                 "Content-Type: application/octet-stream\r\n\r\n").encode()
        body += image + f"\r\n--{mark}--\r\n".encode()
        request = urllib.request.Request(
            self._url, body, {"Content-Type": f"multipart/form-data; boundary={mark}"})
        with urllib.request.urlopen(request, timeout=300) as answer:
            return [tuple(b) for b in json.load(answer)["boxes"]]


class ChordGrpc:
    """Compiles the public protocol from the repository's proto folder, for this run alone."""

    def __init__(self, address: str, max_new_tokens: int = 256, protos: Path | None = None):
        import grpc
        from grpc_tools import protoc

        protos = protos or Path(__file__).resolve().parents[2] / "proto"
        with tempfile.TemporaryDirectory() as made:
            name = "chord/v1/grounding.proto"
            if protoc.main(["protoc", f"-I{protos}", f"--python_out={made}",
                            f"--grpc_python_out={made}", name]):
                raise RuntimeError(f"cannot compile {protos / name}")
            sys.path.insert(0, made)
            try:
                from chord.v1 import grounding_pb2, grounding_pb2_grpc
            finally:
                sys.path.remove(made)
        self._request = grounding_pb2.GroundRequest
        limit = [("grpc.max_send_message_length", 65 << 20)]
        self._stub = grounding_pb2_grpc.GroundingStub(grpc.insecure_channel(address, limit))
        self._max_new_tokens = max_new_tokens

    def __call__(self, image: bytes, prompt: str) -> Boxes:
        answer = self._stub.Ground(self._request(
            image=image, prompt=prompt, max_new_tokens=self._max_new_tokens), timeout=300)
        return [(b.x1, b.y1, b.x2, b.y2) for b in answer.boxes]


def upright_rgb(image: bytes):
    """EXIF orientation applied, alpha on white: as Chord shows an image to the model."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(Image.open(io.BytesIO(image)))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def load_rows(folder: Path) -> list[dict]:
    return json.loads((folder / "scenes.json").read_text(encoding="utf-8"))


def evaluate_scenes(folder: Path, answer: Answerer, report: Callable[[str], None] = print) -> dict:
    """`report` gets a line for each scene that was not answered exactly."""
    scores: dict[str, Score] = {}
    for row in load_rows(folder):
        predicted = answer((folder / row["file"]).read_bytes(), row["prompt"])
        kind = ("absent", "one")[len(row["boxes"])] if len(row["boxes"]) < 2 else "several"
        for key in (kind, row["lang"]):
            right = scores.setdefault(key, Score()).add(row["boxes"], predicted)
        if not right:
            rounded = [[round(v) for v in b] for b in predicted]
            report(f"{row['file']}: {row['prompt']!r} should be {row['boxes']}, was {rounded}")
    return {key: score.as_dict() for key, score in sorted(scores.items())}


def evaluate_photos(tars: Sequence[Path], answer: Answerer) -> dict:
    """Acc@0.5 and mean IoU of prompts for things that occur once in a photograph."""
    summary = {}
    for path in tars:
        score = Score()
        with tarfile.open(path) as tar:
            files = {m.name.removeprefix("./"): m for m in tar.getmembers()}
            for photo in json.load(tar.extractfile(files["annotations.json"])):
                labels = [o["label_en"] for o in photo["objects"]]
                member = files.get(photo["file"]) or files["images/" + photo["file"]]
                for thing in photo["objects"]:
                    if labels.count(thing["label_en"]) == 1:
                        predicted = answer(tar.extractfile(member).read(), f"find the {thing['label_en']}")
                        score.add([thing["bbox"]], predicted)
        summary[path.stem.removeprefix("real_heldout_")] = score.as_dict()
    return summary
