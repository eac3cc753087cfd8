"""Writes prompts_golden.json: conversations, and what transformers makes of them.

Uses chord-nano's own processor and get_rope_index of the model class, so the file holds ids with
expanded pads, positions and rope delta of the reference. Run it again only when the cases change:

    python make_prompts_golden.py ../../../models/chord-nano prompts_golden.json
"""

import json
import sys

import torch
from PIL import Image
from transformers import AutoConfig, AutoProcessor, Qwen2_5_VLForConditionalGeneration

TEXTS = {
    "plain": "Locate the red apple, output its bbox coordinates using JSON format.",
    "newlines first": "\n\nfind it",
    "blanks first": "   find it  \n",
    "newline last": "find it\n",
    "chinese": "找到图里右下角的红色椅子，以JSON格式输出其bbox坐标",
    "unicode": "e\u0301 \u1100\u1161\u11a8 👩\u200d👩 ½²\u00a0\u3000x",
    "empty": "",
    "digits": "[{\"bbox_2d\": [12, 34, 567, 890], \"label\": \"white vase\"}]",
}


def text(t):
    return {"type": "text", "text": t}


IMAGE = {"type": "image"}


def cases():
    for name, t in TEXTS.items():
        yield f"text only, {name}", [("user", [text(t)])], []
        yield f"image first, {name}", [("user", [IMAGE, text(t)])], [(336, 448)]
        yield f"text first, {name}", [("user", [text(t), IMAGE])], [(448, 336)]
    yield "two images", [("user", [IMAGE, IMAGE, text("compare")])], [(336, 448), (224, 280)]
    yield "text between images", [("user", [text("\na"), IMAGE, text(" b \n"), IMAGE, text("\n\nc")])], [(300, 300), (700, 200)]
    yield "two texts side by side", [("user", [text("a\n"), text("\nb")])], []
    yield "wide image", [("user", [IMAGE, text("x")])], [(2000, 60)]
    yield "own system", [("system", [text("Answer with boxes.\n")]), ("user", [IMAGE, text("the cat")])], [(336, 448)]
    yield "empty system", [("system", [text("")]), ("user", [text("hi")])], []
    yield "several turns", [("user", [IMAGE, text("the cat")]), ("assistant", [text(TEXTS["digits"])]),
                            ("user", [text("\nand the dog")]), ("assistant", [text("[]")]),
                            ("user", [IMAGE, text("here?")])], [(336, 448), (448, 336)]


def main(folder, out):
    processor = AutoProcessor.from_pretrained(folder)
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    rows = []
    for name, messages, sizes in cases():
        conversation = [{"role": role, "content": content} for role, content in messages]
        prompt = processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
        images = [Image.new("RGB", size) for size in sizes]
        batch = processor(text=[prompt], images=images or None, return_tensors="pt")
        grid = batch.get("image_grid_thw")
        positions, delta = model.model.get_rope_index(
            batch["input_ids"], mm_token_type_ids=batch["mm_token_type_ids"], image_grid_thw=grid,
            attention_mask=batch["attention_mask"])
        rows.append({
            "name": name,
            "messages": [{"role": role, "parts": [c.get("text", 0) for c in content]} for role, content in messages],
            "grids": [] if grid is None else [[int(h), int(w)] for _, h, w in grid.tolist()],
            "ids": batch["input_ids"][0].tolist(),
            "positions": positions[:, 0].tolist(),
            "rope_delta": int(delta.flatten()[0]),
        })
    with open(out, "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows) + "\n]\n")


main(*sys.argv[1:])
