"""Checkpoints stored by AWQ and GPTQ: the weights Chord computes with, bit by bit, and its logits.

Random integers, zero points and scales are packed as AutoAWQ (version gemm) and AutoGPTQ pack them
into a copy of chord-nano. What they stand for is computed twice: by Chord (`inspect --stage
weights`) and here, by the two libraries' own dequantisation written out in torch:

  AWQ   awq/utils/packing_utils.py: unpack_awq, reverse_awq_order, dequantize_gemm
  GPTQ  auto_gptq/nn_modules/qlinear/qlinear_cuda.py: forward without its CUDA kernels

Chord's float32 values, rounded to float16, must equal the reference's float16 ones in every bit.
The logits must be those of the dequantised checkpoint but for the rounding of activations.
"""
import argparse
import itertools
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
NANO = ROOT / "models" / "chord-nano"
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # nibble i of a word holds output AWQ_ORDER[i]
AWQ_REVERSE_ORDER = [0, 4, 1, 5, 2, 6, 3, 7]
PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
               "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
# Logits of int8 activations against float32 ones; a wrong zero point or order gives 0.5 and more.
LOGITS = 0.12


# --- packing --------------------------------------------------------------------------------------

def words(values, bits):
    """[..., n · 32/bits] integers -> int32 words, the first in the lowest bits."""
    per_word = 32 // bits
    parts = values.to(torch.int64).reshape(*values.shape[:-1], -1, per_word)
    packed = (parts << (torch.arange(per_word) * bits)).sum(-1)
    return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)


def pack_awq(q, zeros):
    """q [in, out] and zeros [groups, out], of 4 bits."""
    def pack(values):
        columns = values.reshape(values.shape[0], -1, 8)[:, :, AWQ_ORDER]
        return words(columns.reshape(values.shape), 4)
    return pack(q), pack(zeros)


def pack_gptq(q, stored_zeros, bits):
    return words(q.T.contiguous(), bits).T.contiguous(), words(stored_zeros, bits)


# --- the libraries' dequantisation ----------------------------------------------------------------

def dequantize_awq(qweight, qzeros, scales, bits, group_size):
    shifts = torch.arange(0, 32, bits)

    def unpack(packed):
        unpacked = torch.bitwise_right_shift(packed[:, :, None], shifts[None, None, :]).to(torch.int8)
        unpacked = unpacked.view(unpacked.shape[0], -1)
        order = torch.arange(unpacked.shape[-1]).view(-1, 32 // bits)[:, AWQ_REVERSE_ORDER].reshape(-1)
        return torch.bitwise_and(unpacked[:, order], (2**bits) - 1)

    scales = scales.repeat_interleave(group_size, dim=0)
    zeros = unpack(qzeros).repeat_interleave(group_size, dim=0)
    return ((unpack(qweight) - zeros) * scales).T


def dequantize_gptq(qweight, qzeros, scales, g_idx, bits, add_one):
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    kind = torch.int16 if bits == 8 else torch.int8
    zeros = torch.bitwise_right_shift(qzeros.unsqueeze(2).expand(-1, -1, 32 // bits),
                                      shifts[None, None, :]).to(kind)
    zeros = torch.bitwise_and(zeros, (2**bits) - 1) + (1 if add_one else 0)
    zeros = zeros.reshape(scales.shape)
    weight = torch.bitwise_right_shift(qweight.unsqueeze(1).expand(-1, 32 // bits, -1),
                                       shifts[None, :, None]).to(kind)
    weight = torch.bitwise_and(weight, (2**bits) - 1).reshape(-1, qweight.shape[1])
    g_idx = g_idx.long()
    return (scales[g_idx] * (weight - zeros[g_idx])).T


# --- checkpoints ----------------------------------------------------------------------------------

def quantize(shape, case, random):
    """Random tensors of one layer by their suffixes, and the reference's float16 weight."""
    outputs, inputs = shape
    bits, group = case["bits"], case["group_size"] if case["group_size"] > 0 else inputs
    groups = inputs // group
    q = torch.randint(0, 2**bits, (inputs, outputs), generator=random)
    high = 2**bits - (1 if case["add_one"] and bits == 8 else 0)
    stored_zeros = torch.randint(0, high, (groups, outputs), generator=random)
    scales = (torch.rand((groups, outputs), generator=random) * 2e-2 / 2**(bits - 4) + 1e-4).half()
    if case["method"] == "awq":
        qweight, qzeros = pack_awq(q, stored_zeros)
        tensors = dict(qweight=qweight, qzeros=qzeros, scales=scales)
        return tensors, dequantize_awq(qweight, qzeros, scales, bits, group)
    g_idx = torch.arange(inputs, dtype=torch.int32) // group
    if case["desc_act"]:
        g_idx = g_idx[torch.randperm(inputs, generator=random)].contiguous()
    qweight, qzeros = pack_gptq(q, stored_zeros, bits)
    tensors = dict(qweight=qweight, qzeros=qzeros, scales=scales, g_idx=g_idx)
    return tensors, dequantize_gptq(qweight, qzeros, scales, g_idx, bits, case["add_one"])


def make(case, folder):
    """Two folders, the quantised one and the dequantised one; returns the reference's weights."""
    random = torch.Generator().manual_seed(case["seed"])
    quantized, plain, reference = {}, {}, {}
    for name, tensor in load_file(NANO / "model.safetensors").items():
        layer = name.removesuffix(".weight")
        if not layer.endswith(PROJECTIONS) or "visual." in name:
            quantized[name] = plain[name] = tensor
            continue
        if not name.endswith(".weight"):
            quantized[name] = plain[name] = tensor
            continue
        parts, weight = quantize(tensor.shape, case, random)
        quantized.update({f"{layer}.{part}": value for part, value in parts.items()})
        plain[name] = weight.float().contiguous()
        reference[layer] = weight
    for part, tensors in (("quantized", quantized), ("plain", plain)):
        target = folder / part
        target.mkdir()
        for file in NANO.iterdir():
            if file.is_file() and file.suffix != ".safetensors":
                shutil.copy(file, target / file.name)
        save_file(tensors, target / "model.safetensors", {"format": "pt"})
    config = json.loads((NANO / "config.json").read_text())
    config["quantization_config"] = case["config"]
    (folder / "quantized" / "config.json").write_text(json.dumps(config))
    return reference


def cases():
    seed = itertools.count(1)
    for group in (32, 128, -1):
        yield dict(name=f"awq groups of {group}", method="awq", bits=4, group_size=group,
                   add_one=False, seed=next(seed),
                   config=dict(quant_method="awq", bits=4, group_size=group, zero_point=True,
                               version="gemm", modules_to_not_convert=["visual"]))
    for bits, group, desc_act, form in ((4, 128, False, None), (4, 32, True, "gptq"),
                                        (4, 64, True, "gptq_v2"), (8, 64, True, "gptq"),
                                        (8, -1, False, "gptq_v2")):
        config = dict(quant_method="gptq", bits=bits, group_size=group, desc_act=desc_act, sym=False)
        if form is not None:
            config["checkpoint_format"] = form
        yield dict(name=f"gptq {bits} bits, groups of {group}, desc_act {desc_act}, {form}",
                   method="gptq", bits=bits, group_size=group, desc_act=desc_act,
                   add_one=form != "gptq_v2", seed=next(seed), config=config)


# --- comparison -----------------------------------------------------------------------------------

def canonical(layer):
    for old, new in (("model.language_model.", "model."), ("language_model.model.", "model.")):
        if layer.startswith(old):
            return new + layer.removeprefix(old)
    return layer


def inspect(program, model, stage, out, *more):
    subprocess.run([program, "--model", model, "--stage", stage, "--out", out, *more], check=True)
    return load_file(out)


def compare(program, case, folder):
    reference = make(case, folder)
    ours = inspect(program, folder / "quantized", "weights", folder / "weights.safetensors")
    for layer, weight in reference.items():
        mine = ours[canonical(layer) + ".weight"].half().view(torch.int16)
        different = (mine != weight.contiguous().half().view(torch.int16)).sum().item()
        if different:
            return f"{layer}: {different} of {weight.numel()} weights differ"
    logits = [inspect(program, folder / part, "logits", folder / f"{part}.out", "--prompt", "the red mug",
                      "--image", image())["logits"]
              for part in ("quantized", "plain")]
    distance = ((logits[0] - logits[1]).norm() / logits[1].norm()).item()
    print(f"{case['name']}: {len(reference)} layers equal, logits {distance:.4f} apart")
    return "" if distance < LOGITS else f"logits are {distance:.3f} apart"


def image():
    return next(p for p in sorted((ROOT / "demo").rglob("*")) if p.suffix in (".jpg", ".png", ".webp"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inspect", required=True, help="the program behind `chord inspect`")
    args = parser.parse_args()
    failed = False
    for case in cases():
        with tempfile.TemporaryDirectory() as folder:
            why = compare(args.inspect, case, pathlib.Path(folder))
        if why:
            print(f"{case['name']}: {why}")
            failed = True
    return failed


if __name__ == "__main__":
    sys.exit(main())
