"""What the three processes cost: the same prompts in one process and through the service, in turn.

  python bench/three_processes.py --bin build/bin [--model models/chord-nano] [--rounds 60] [--device cpu]

Prints a table of medians (and the middle half) by stage, and the difference at the median of the
paired rounds. Both sides answer each prompt right after the other, so that the machine's mood
hits both.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "process"))


def spread(values):
    q = statistics.quantiles(values, n=4)
    return f"{statistics.median(values):8.2f}  [{q[0]:.2f} – {q[2]:.2f}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=str(ROOT / "build" / "bin"))
    parser.add_argument("--model", default=str(ROOT / "models" / "chord-nano"))
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--image", help="an image to ask about instead of the bundled ones")
    parser.add_argument("--prompt", default="the star")
    args = parser.parse_args()
    import os
    os.environ["CHORD_BIN_DIR"] = args.bin
    from chord_server import Chord

    if args.image:
        scenes = [(pathlib.Path(args.image).resolve(), args.prompt)]
    else:
        scenes = [(ROOT / "demo" / s["file"], s["prompt"]) for s in json.loads((ROOT / "demo" / "scenes.json").read_text())]
    alone = subprocess.Popen([f"{args.bin}/in_process", args.model, args.device], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)

    def ask_alone(path, prompt):
        alone.stdin.write(f"{path}\t{prompt}\n")
        alone.stdin.flush()
        return json.loads(alone.stdout.readline())

    stages = ["vision_ms", "prefill_ms", "decode_ms", "total_ms"]
    one, three, extra = ({s: [] for s in stages} for _ in range(3))
    with Chord("--vision-device", args.device, "--language-device", args.device, model=args.model) as chord:
        import time
        stub = chord.stub()
        from chord_server import grounding_pb2
        wall = []
        for i in range(-len(scenes), args.rounds):  # the first turn of each image is not counted
            path, prompt = scenes[i % len(scenes)]
            a = ask_alone(path, prompt)
            data = path.read_bytes()
            begin = time.perf_counter()
            answer = stub.Ground(grounding_pb2.GroundRequest(image=data, prompt=prompt), timeout=120)
            took = (time.perf_counter() - begin) * 1e3
            b = {s: getattr(answer.timing, s) for s in stages}
            if answer.usage.completion_tokens != a["tokens"]:
                sys.exit(f"{path.name}: {answer.usage.completion_tokens} tokens through the service, {a['tokens']} in one process")
            if i < 0:
                continue
            wall.append(took - a["total_ms"])
            for s in stages:
                one[s].append(a[s]); three[s].append(b[s]); extra[s].append(b[s] - a[s])
    alone.stdin.close()
    alone.wait()
    print(f"{args.rounds} rounds over {len(scenes)} images, device {args.device}; median [middle half], ms")
    print(f"{'stage':12}{'one process':32}{'three processes':32}{'added':24}")
    for s in stages:
        print(f"{s[:-3]:12}{spread(one[s]):32}{spread(three[s]):32}{spread(extra[s]):24}")
    print(f"{'client wall':12}{'':64}{spread(wall):24}")


if __name__ == "__main__":
    main()
