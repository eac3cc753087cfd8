"""transformers as the oracle, with the guards that keep it from being a wrong one (spec §10)."""
import os

os.environ.setdefault("USE_HUB_KERNELS", "0")  # they may replace RMSNorm and rope
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from PIL import Image


def version_is_good(version):
    numbers = tuple(int(part) for part in version.split(".")[:3])
    if (4, 54) <= numbers[:2] <= (4, 55):
        return False
    return not (5, 3, 0) <= numbers <= (5, 5, 3) and numbers >= (4, 49, 0)


# (ids with "S" start, "I" image, "E" end), grids, T, H, W, delta: executed rows of spec §4.2.
POSITIONS = [
    ("a b S I*6 E c d", [(1, 4, 6)], [0, 1, 2, 3, 3, 3, 3, 3, 3, 6, 7, 8],
     [0, 1, 2, 3, 3, 3, 4, 4, 4, 6, 7, 8], [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7, 8], -3),
    ("a S I*10 E c", [(1, 2, 20)], [0, 1] + [2] * 10 + [12, 13], [0, 1] + [2] * 10 + [12, 13],
     [0, 1] + list(range(2, 12)) + [12, 13], 0),
    ("a S I*3 E c", [(1, 6, 2)], [0, 1, 2, 2, 2, 5, 6], [0, 1, 2, 3, 4, 5, 6],
     [0, 1, 2, 2, 2, 5, 6], 0),
    ("a S I*4 E b S I*2 E c", [(1, 4, 4), (1, 2, 4)],
     [0, 1, 2, 2, 2, 2, 4, 5, 6, 7, 7, 9, 10], [0, 1, 2, 2, 3, 3, 4, 5, 6, 7, 7, 9, 10],
     [0, 1, 2, 3, 2, 3, 4, 5, 6, 7, 8, 9, 10], -2),
    ("a b S I*4", [(1, 4, 4)], [0, 1, 2, 3, 3, 3, 3], [0, 1, 2, 3, 3, 4, 4],
     [0, 1, 2, 3, 4, 3, 4], -2),
]
WINDOWS = [
    ([(1, 6, 10)], [0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 4, 9, 14], [0, 48, 60]),
    ([(1, 2, 2)], [0], [0, 4]),
    ([(1, 8, 8)], list(range(16)), [0, 64]),
    ([(1, 2, 40)], list(range(20)), [0, 16, 32, 48, 64, 80]),
    ([(1, 4, 4), (1, 6, 10)],
     [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 16, 17, 8, 13, 18], [0, 16, 64, 76]),
]


def check_oracle(model):
    """Raises when this transformers would write wrong fixtures."""
    if not version_is_good(transformers.__version__):
        raise RuntimeError(f"transformers {transformers.__version__} is a bad oracle (spec §10.1)")
    config = model.config
    special = {"S": config.vision_start_token_id, "I": config.image_token_id,
               "E": config.vision_end_token_id}
    for row, grids, *axes, delta in POSITIONS:
        ids = []
        for word in row.split():
            word, _, times = word.partition("*")
            ids += [special.get(word, 5)] * int(times or 1)
        ids = torch.tensor([ids])
        positions, deltas = model.model.get_rope_index(
            ids, (ids == special["I"]).int(), torch.tensor(grids),
            attention_mask=torch.ones_like(ids))
        if positions[:, 0].tolist() != list(axes) or int(deltas) != delta:
            raise RuntimeError(f"transformers' positions of {row!r} are not the spec's")
    try:
        from transformers.vision_utils import get_vision_window_index
    except ImportError:  # older versions keep it inside the tower
        return
    for grids, index, lengths in WINDOWS:
        got_index, got_lengths = get_vision_window_index(
            torch.tensor(grids), spatial_merge_size=2, window_size=112, patch_size=14)
        if got_index.tolist() != index or got_lengths.tolist() != lengths:
            raise RuntimeError(f"transformers' windows of {grids} are not the spec's")


class Oracle:
    """One checkpoint in one dtype."""

    def __init__(self, folder, dtype=torch.float32, device="cpu"):
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self.device = device
        # from_pretrained and not .to(): the rotary buffers must stay float32.
        self.model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager").eval().to(device)
        for module in self.model.modules():
            if hasattr(module, "inv_freq") and module.inv_freq.dtype != torch.float32:
                raise RuntimeError("a rotary buffer lost its precision")
        self.processor = self._processor(folder)

    @staticmethod
    def _processor(folder):
        import json
        import pathlib

        bounds = json.loads((pathlib.Path(folder) / "preprocessor_config.json").read_text())
        # 5.17 leaks one checkpoint's bounds into the class; naming both settles it.
        processor = transformers.Qwen2_5_VLProcessor.from_pretrained(
            folder, min_pixels=bounds["min_pixels"], max_pixels=bounds["max_pixels"])
        size = processor.image_processor.size
        if (size["shortest_edge"], size["longest_edge"]) != (bounds["min_pixels"],
                                                             bounds["max_pixels"]):
            raise RuntimeError("the processor did not take the checkpoint's pixel bounds")
        return processor

    def inputs(self, images, prompt):
        content = [{"type": "image"} for _ in images] + [{"type": "text", "text": prompt}]
        text = self.processor.apply_chat_template([{"role": "user", "content": content}],
                                                  tokenize=False, add_generation_prompt=True)
        images = [upright_rgb(path) for path in images] or None
        inputs = self.processor(text=[text], images=images, return_tensors="pt")
        if "mm_token_type_ids" not in inputs and transformers.__version__ >= "5":
            raise RuntimeError("the processor gave no mm_token_type_ids")
        return inputs.to(self.device)

    @torch.no_grad()
    def embeddings(self, inputs):
        features = self.model.model.visual(
            inputs["pixel_values"].to(self.model.dtype), grid_thw=inputs["image_grid_thw"])
        rows = getattr(features, "pooler_output", features)
        return rows.float().cpu()

    @torch.no_grad()
    def positions(self, inputs):
        if "image_grid_thw" not in inputs:
            length = inputs["input_ids"].shape[1]
            return torch.arange(length).expand(3, length)
        positions, _ = self.model.model.get_rope_index(
            inputs["input_ids"], inputs["mm_token_type_ids"], inputs["image_grid_thw"],
            attention_mask=inputs["attention_mask"])
        return positions[:, 0].cpu()

    @torch.no_grad()
    def logits(self, inputs):
        self.model.model.rope_deltas = None  # kept between calls
        return self.model(**inputs, use_cache=False).logits[0].float().cpu()

    @torch.no_grad()
    def tokens(self, inputs, count):
        self.model.model.rope_deltas = None
        out = self.model.generate(**inputs, max_new_tokens=count, do_sample=False,
                                  temperature=None, top_k=None, top_p=None)
        return out[0, inputs["input_ids"].shape[1]:].cpu()


def upright_rgb(path):
    """EXIF applied, alpha on white: the product's rule, which transformers leaves to its caller."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        white.alpha_composite(image)
        image = white
    return image.convert("RGB")
