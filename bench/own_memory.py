"""What all processes of one host hold of their own, with the default budgets.

  python bench/own_memory.py --bin build/bin [--images 200] [--concurrency 8] [--json OUT.json]

A process's own memory is what would be free if it alone ended (USS: private pages of
/proc/PID/smaps_rollup; libtorch's code, which both workers map, is not counted). Measured when all
are ready, after the first answers, and after many fresh images, asked --concurrency at once, have
filled the caches. To hold for chord-nano: 400 MB over all processes.
"""

import concurrent.futures
import pathlib
import re

from measure import Server, finish, parser, table
from second_request import PROMPTS, image

LIMIT = 400_000_000


def own(pid):
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(1024 * int(kb) for kb in re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.M))


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--images", type=int, default=200, help="fresh ones (default 200)")
    arguments.add_argument("--concurrency", type=int, default=8)
    args = arguments.parse_args()

    moments = {}
    with Server(args) as server:
        def ask(seed):
            server.ground(image(448, 336, seed), PROMPTS[seed % len(PROMPTS)])

        def note(moment):
            pids = {"supervisor": server.process.pid, **server.pids()}
            moments[moment] = {role: own(pid) for role, pid in pids.items()}

        note("ready")
        for seed in range(3):
            ask(seed)
        note("3 answers")
        with concurrent.futures.ThreadPoolExecutor(args.concurrency) as pool:
            list(pool.map(ask, range(3, 3 + args.images)))
        note(f"{args.images} images, {args.concurrency} at once")

    roles = list(next(iter(moments.values())))
    table(["own memory, MB", *roles, "all"],
          [[moment, *(f"{by[role] / 1e6:.0f}" for role in roles), f"{sum(by.values()) / 1e6:.0f}"]
           for moment, by in moments.items()])
    last = sum(moments[next(reversed(moments))].values())
    finish(args, {"own_bytes": moments}, {"at most 400 MB over all processes": last <= LIMIT})


if __name__ == "__main__":
    main()
