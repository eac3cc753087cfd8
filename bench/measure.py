"""What the measuring scripts share: a real Chord, `chord bench` as a function, tables, verdicts."""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "process"))


def parser(doc):
    out = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--bin", default=str(ROOT / "build" / "bin"), help="folder of the programs")
    out.add_argument("--model", default=str(ROOT / "models" / "chord-nano"))
    out.add_argument("--data", default=str(ROOT / "demo"), help="images and prompts, as for chord bench")
    out.add_argument("--device", default="cpu", help="of both workers")
    out.add_argument("--serve-flag", action="append", default=[], metavar="FLAG",
                     help="handed to chord serve, for example --serve-flag=--gateway-flag=max_in_flight=16")
    out.add_argument("--json", metavar="OUT.json", help="also write every figure here")
    out.add_argument("--strict", action="store_true", help="exit code 1 when a target is missed")
    return out


def Server(args, *flags, model=None):
    """`chord serve` of tests/process/chord_server.py, with this command's programs."""
    os.environ["CHORD_BIN_DIR"] = args.bin
    from chord_server import Chord
    flags = [flag for item in [*args.serve_flag, *flags] for flag in item.split("=", 1)]
    return Chord("--vision-device", args.device, "--language-device", args.device, *flags,
                 model=model or args.model)


def bench(args, server, data=None, http=False, **options):
    """The JSON of one `chord bench`; options by their names with _ for -. True is a switch."""
    command = [f"{args.bin}/chord", "bench", str(data or args.data), "--json", "--server",
               server.http_address if http else server.grpc_address]
    if http:
        command.append("--http")
    for name, value in options.items():
        if value is None or value is False:
            continue
        command.append("--" + name.replace("_", "-"))
        if value is not True:
            command.append(str(value))
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def table(head, rows):
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        print("  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))))
    print()


def machine():
    name = platform.processor() or platform.machine()
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    # A busy machine measures its neighbours; look at this before quoting a figure.
    return {"processor": name, "cores": len(os.sched_getaffinity(0)), "load_average": round(os.getloadavg()[0], 2)}


def finish(args, summary, targets):
    """Prints the verdicts, writes the JSON, ends with the exit code."""
    for target, held in targets.items():
        print(f"{'held  ' if held else 'MISSED'}  {target}")
    summary = dict(summary, targets=targets, machine=machine())
    print("machine:", summary["machine"])
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(summary, indent=1) + "\n")
    else:
        brief = {k: v for k, v in summary.items() if k not in ("capacity", "overload", "runs")}
        print(json.dumps(brief))
    sys.exit(1 if args.strict and not all(targets.values()) else 0)
