"""The box grammar: decode steps for each box with it and without, and whether the answers agree.

  python bench/grammar_steps.py --bin build/bin [--data DATA] [--limit 200]

Asks every prompt twice over gRPC, `grammar` auto and off, and compares boxes and text. Steps are
`usage.decode_steps` of the answers that agree, so that both sides did the same work.
"""

import json
import pathlib

from measure import Server, finish, parser, table


def prompts(data):
    """[(image, prompt)]: rows with "file" and "prompt", as demo/scenes.json has them."""
    data = pathlib.Path(data)
    files = [data] if data.is_file() else sorted([*data.glob("*.json"), *data.glob("*.jsonl")])
    out = []
    for file in files:
        text = file.read_text()
        try:
            rows = json.loads(text)
        except json.JSONDecodeError:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        out += [(file.parent / row["file"], row["prompt"]) for row in (rows if isinstance(rows, list) else [rows])]
    return out


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--limit", type=int, default=200, help="prompts at most")
    args = arguments.parse_args()

    asked = prompts(args.data)[: args.limit]
    sides = {"auto": [], "off": []}
    with Server(args) as server:
        from chord_server import grounding_pb2 as pb
        stub = server.stub()
        values = {"auto": pb.GRAMMAR_AUTO, "off": pb.GRAMMAR_OFF}
        for path, prompt in asked:
            image = path.read_bytes()
            for side, grammar in values.items():
                sides[side].append(stub.Ground(
                    pb.GroundRequest(image=image, prompt=prompt, grammar=grammar), timeout=300))

    def same(a, b):
        return a.text == b.text and [o.SerializeToString() for o in a.boxes] == [o.SerializeToString() for o in b.boxes]

    agree = [i for i, (a, b) in enumerate(zip(sides["auto"], sides["off"])) if same(a, b)]
    for i in sorted(set(range(len(asked))) - set(agree)):
        print(f"differs: {asked[i][0].name} {asked[i][1]!r}\n  auto {sides['auto'][i].text}\n  off  {sides['off'][i].text}")
    sums = {}
    for side, answers in sides.items():
        kept = [answers[i] for i in agree]
        with_boxes = [a for a in kept if a.boxes]
        boxes = sum(len(a.boxes) for a in with_boxes)
        sums[side] = {
            "answers": len(kept), "boxes": boxes,
            "tokens": sum(a.usage.completion_tokens for a in kept),
            "decode_steps": sum(a.usage.decode_steps for a in kept),
            "steps_per_box": sum(a.usage.decode_steps for a in with_boxes) / boxes if boxes else None,
            "decode_ms": sum(a.timing.decode_ms for a in kept),
        }
    rows = [[key, *(f"{sums[s][key]:.1f}" if isinstance(sums[s][key], float) else sums[s][key] for s in sums)]
            for key in sums["auto"]]
    table([f"{len(asked)} prompts", "grammar auto", "grammar off"], rows)
    per_box = [sums[s]["steps_per_box"] for s in ("auto", "off")]
    ratio = per_box[1] / per_box[0] if all(per_box) else None
    print(f"steps for each box: {ratio:.2f} times fewer" if ratio else "no boxes")
    finish(args, {"questions": len(asked), "same": len(agree), "ratio": ratio, **sums},
           {"at least 2 times fewer steps a box": bool(ratio and ratio >= 2), "same answers": len(agree) == len(asked)})


if __name__ == "__main__":
    main()
