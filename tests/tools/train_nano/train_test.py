"""Everything from sprites to exported weights at a size that a CPU does in seconds."""
import json

import numpy as np
import pytest
import torch
from train_nano.data import Batches, Curriculum
from train_nano.export import export, export_checkpoint
from train_nano.model import Config, Nano, positions
from train_nano.optim import orthogonal
from train_nano.render import Renderer
from train_nano.sprites import SpriteBook
from train_nano.tokenizer import NO_LABEL, SPECIAL, ChatFormat, train_tokenizer
from train_nano.train import Recipe, Run, Trainer

TINY = Config(vision_width=32, vision_depth=3, vision_heads=2, vision_mlp=48, full_blocks=(1,), width=48,
              depth=2, heads=3, kv_heads=1, mlp=64, vocab=512, sections=(2, 3, 3))


def recipe(steps=8, batch=2, **changes):
    curriculum = Curriculum(steps, batch, small=((112, 84),), large=((140, 112),), scene_turns=2)
    return Recipe(TINY, curriculum, warmup=2, tokenizer_scenes=40, **changes)


def run(work):
    return Run(work, device="cpu", workers=0, compile=False, log_every=4)


@pytest.fixture(scope="module")
def chat():
    texts = ["find the red star", '[{"bbox_2d": [1, 2, 3, 4], "label": "red star"}]', "system\nuser\nassistant\n"]
    return ChatFormat(train_tokenizer(texts * 5, 512))


def test_the_tokenizer_gives_back_any_text_and_keeps_specials_last(chat):
    for text in ("find the red star", "找到猫头鹰 🦉", "a  b\n\n<|im_end|x"):
        assert chat.tokenizer.decode(chat.encode(text)) == text
    size = chat.tokenizer.get_vocab_size()
    assert [chat.id[s] for s in SPECIAL] == list(range(size - len(SPECIAL), size))


def test_only_answers_are_learnt(chat):
    dialog = chat.dialog([("find the red star", "[]"), ("the red star", "[1]")])
    learnt = [i for i in dialog.labels if i != NO_LABEL]
    assert learnt == [*chat.encode("[]"), chat.end, *chat.encode("[1]"), chat.end]
    assert all(label in (NO_LABEL, i) for i, label in zip(dialog.ids, dialog.labels))
    assert chat.dialog([("q", "[]")]).ids[: len(chat.prompt("q"))] == chat.prompt("q")


def test_positions_follow_the_image_and_go_on_after_its_longer_side():
    p = positions(2, 2, 3, 2, torch.device("cpu"))
    assert p.tolist() == [[0, 1, 2, 2, 2, 2, 2, 2, 5, 6], [0, 1, 2, 2, 2, 3, 3, 3, 5, 6],
                          [0, 1, 2, 3, 4, 2, 3, 4, 5, 6]]


@pytest.mark.parametrize("shape", [(4, 6, 10), (3, 10, 6), (2, 8, 8)])
def test_muon_makes_singular_values_alike(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape)).float())
    assert values.max() < 1.3 and values.min() > 0.3


def test_the_renderer_draws_things_where_their_boxes_are(shape_material, shapes_only, chat):
    batch = Batches(shape_material, chat, Curriculum(100, 6, small=((224, 168),), large=((224, 168),)), 1).batch(90)
    render = Renderer(torch.from_numpy(shape_material.atlas), None, torch.device("cpu"))
    names = "sprites", "affine", "tints", "tinted"
    args = [batch[n] for n in names]
    alone = [a[:, :1] for a in args]
    images, shown = render(168, 224, *alone, torch.Generator().manual_seed(1), cell=1)
    for b in range(len(images)):
        ys, xs = ((shown[b, 0] > 0.4).any(d).nonzero() for d in (1, 0))
        drawn = xs[0], ys[0], xs[-1] + 1, ys[-1] + 1
        # The atlas is coarser than the book from which the hulls come.
        tolerance = 1.5 + float(batch["affine"][b, 0, 2]) / 96
        assert max(abs(float(d) - float(v)) for d, v in zip(drawn, batch["boxes"][b, 0])) <= tolerance
    assert images.shape == (len(images), 3, 168, 224) and 0 <= images.min() and images.max() <= 1


def test_batches_repeat_by_seed_and_differ_by_rank(shape_material, shapes_only, chat):
    make = lambda rank, index: Batches(shape_material, chat, recipe().curriculum, 5, rank).batch(index)
    a, again, other = make(0, 3), make(0, 3), make(1, 3)
    assert all(torch.equal(a[k], again[k]) for k in a if isinstance(a[k], torch.Tensor))
    assert (a["width"], a["height"]) == (other["width"], other["height"])
    assert not torch.equal(a["boxes"], other["boxes"])


def test_steps_on_one_batch_lower_its_loss(shape_material, shapes_only, tmp_path):
    trainer = Trainer(recipe(steps=1000, lr=4e-3), run(tmp_path), shape_material)
    batch = Batches(shape_material, trainer.chat, trainer.recipe.curriculum, 1).batch(0)
    losses = [trainer.learn(batch) for _ in range(25)]
    for part, ratio in (("words", 0.6), ("kinds", 0.8), ("boxes", 1.0)):
        assert losses[-1][part] < ratio * losses[0][part], part


def test_photographs_are_learnt_from_too(shape_material, shapes_only, tmp_path):
    import dataclasses

    from train_nano.photos import BANK_SIDE, Photo, Seen

    photo = Photo("chess", 300, 200, (Seen("white pawn", "白兵", (50, 60, 120, 140)),))
    bank = np.full((1, 3, BANK_SIDE, BANK_SIDE), 90, np.uint8)
    backgrounds = np.full((1, 3, 60, 80), 128, np.uint8)
    dataset = dataclasses.replace(shape_material, bank=bank, photos=[photo], backgrounds=backgrounds)
    some = dataclasses.replace(recipe(steps=10), curriculum=dataclasses.replace(
        recipe(steps=10).curriculum, photo_share=1.0))
    trainer = Trainer(some, run(tmp_path), dataset)
    stream = Batches(dataset, trainer.chat, some.curriculum, 1)
    assert set(trainer.learn(stream.batch(0))) == {"words", "kinds", "boxes"}
    assert set(trainer.learn(stream.batch(5))) == {"photo_words"}


def test_a_run_that_was_cut_goes_on_as_if_it_had_not_been(shape_material, shapes_only, tmp_path):
    whole = Trainer(recipe(), run(tmp_path / "whole"), shape_material)
    whole.train()
    cut = Trainer(recipe(), run(tmp_path / "cut"), shape_material)
    stream = Batches(shape_material, cut.chat, cut.recipe.curriculum, 1)
    for index in range(3):
        cut.learn(stream.batch(index))
    cut.save()
    resumed = Trainer(recipe(), run(tmp_path / "cut"), shape_material)
    assert resumed.step == 3
    resumed.train()
    assert resumed.step == whole.step == 8
    for (name, a), b in zip(whole.net.state_dict().items(), resumed.net.state_dict().values()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)
    assert [json.loads(l)["step"] for l in (tmp_path / "whole" / "log.jsonl").open()] == [4, 8]


def test_another_recipe_does_not_go_on_from_a_checkpoint(shape_material, shapes_only, tmp_path):
    Trainer(recipe(), run(tmp_path), shape_material).save()
    with pytest.raises(ValueError, match="another recipe"):
        Trainer(recipe(lr=1e-4), run(tmp_path), shape_material)


@pytest.mark.parametrize("width, height", [(224, 224), (364, 252), (252, 420)])
def test_exported_weights_give_the_same_logits_in_transformers(chat, tmp_path, width, height):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    config = Config(**{**TINY.__dict__, "vocab": chat.tokenizer.get_vocab_size()})
    net = Nano(config).eval()
    with torch.no_grad():
        for p in net.parameters():  # biases and norms away from their neutral values
            p += 0.05 * torch.randn_like(p)
    chat.tokenizer.save(str(tmp_path / "made.json"))
    export(net.state_dict(), config, tmp_path / "made.json", tmp_path / "model", "tiny", torch.float32)
    peer = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "model", dtype=torch.float32)
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "model")
    from PIL import Image

    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    content = [{"type": "image"}, {"type": "text", "text": "find the red star"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True,
                                         tokenize=False)
    inputs = processor(text=[text], images=[Image.fromarray(pixels)], return_tensors="pt")
    from train_nano.train import MEAN, STD

    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    image = ((torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 - mean) / std)[None]
    prompt = chat.prompt("find the red star")
    with torch.inference_mode():
        theirs = peer.eval()(**inputs).logits[:, -len(prompt):]
        ours = net.logits(net(image, torch.tensor(chat.before), torch.tensor([prompt]))[0])
    assert inputs["input_ids"][0, -len(prompt):].tolist() == prompt
    assert inputs["input_ids"][0, : len(chat.before)].tolist() == chat.before
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_exports_in_the_shape_of_the_shipped_model(shape_material, shapes_only, tmp_path):
    from pathlib import Path

    from safetensors import safe_open

    shipped = Path(__file__).resolve().parents[3] / "models" / "chord-nano"
    net = Nano(Config())
    export(net.state_dict(), Config(), shipped / "tokenizer.json", tmp_path / "full", "chord-nano")
    for name in ("config", "generation_config", "preprocessor_config", "chat_template", "tokenizer_config", "chord"):
        made, kept = (json.loads((d / f"{name}.json").read_text()) for d in (tmp_path / "full", shipped))
        assert made == kept, name
    with safe_open(tmp_path / "full" / "model.safetensors", "pt") as made, \
         safe_open(shipped / "model.safetensors", "pt") as kept:
        describe = lambda f: {k: (f.get_slice(k).get_shape(), f.get_slice(k).get_dtype()) for k in f.keys()}
        assert describe(made) == describe(kept)
    Trainer(recipe(), run(tmp_path / "work"), shape_material).save()
    export_checkpoint(tmp_path / "work", tmp_path / "tiny", "tiny")
    assert json.loads((tmp_path / "tiny" / "config.json").read_text())["hidden_size"] == TINY.width


def test_atlas_rows_are_premultiplied():
    book = SpriteBook()
    ring = next(i for i, k in enumerate(book.kinds) if k.is_shape and k.en[0] == "ring")
    from train_nano.sprites import _premultiplied

    sprite = _premultiplied(book.sprite(ring), 96)
    assert sprite.shape == (4, 96, 96) and sprite[3, 48, 48] == 0 and sprite[3, 48, 8] == 255
    assert (sprite[:3] <= sprite[3:]).all()


def test_the_shipped_weights_know_the_answers_that_the_recipe_teaches(book, tmp_path):
    """Scenes, renderer, chat format and model are those that chord-nano was trained with."""
    import shutil
    from pathlib import Path

    import torch.nn.functional as F
    from safetensors.torch import load_file
    from train_nano.data import own_material

    shipped = Path(__file__).resolve().parents[3] / "models" / "chord-nano"
    shutil.copyfile(shipped / "tokenizer.json", tmp_path / "tokenizer.json")
    full = Recipe(Config(), Curriculum(100, 4, small=((224, 280),), large=((280, 224),)))
    trainer = Trainer(full, run(tmp_path), own_material())
    trainer.net.load_state_dict({
        "model." + k if k.startswith("visual.") else k.replace("model.", "model.language_model.", 1): v.float()
        for k, v in load_file(shipped / "model.safetensors").items()})
    batch = Batches(trainer.dataset, trainer.chat, full.curriculum, 9).batch(90)
    images, _ = trainer._images(batch, torch.Generator().manual_seed(1))
    with torch.inference_mode():
        hidden, _ = trainer.net((images - trainer.mean) / trainer.std, trainer.before, batch["ids"])
    wanted = batch["labels"][:, 1:]
    logits = trainer.net.logits(hidden[:, :-1])[wanted != NO_LABEL]
    assert F.cross_entropy(logits, wanted[wanted != NO_LABEL]) < 0.3  # untrained: 8.3
