"""Overload: what is left of the service when far more is asked than it can do.

  python bench/overload.py --bin build/bin [--seconds 60] [--times 10] [--slo 10] [--json OUT.json]

Measures the capacity with `chord bench --concurrency` (closed loop), then offers ten times that in
an open loop. To hold: goodput at least 90 % of the capacity, refusals answered within 100 ms at the
99th percentile, and no process whose memory grows from the middle of the run to its end.
"""

import argparse
import threading
import time

from measure import Server, bench, finish, parser, table

GROWTH = 16 << 20  # bytes from middle to end: what allocators move without a leak


class Memory(threading.Thread):
    """Resident bytes of every process, once a second."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.rows, self.ended = server, [], threading.Event()

    def sample(self):
        return {role: self.server.memory(role) for role in self.server.ROLES}

    def run(self):
        begin = time.monotonic()
        while not self.ended.wait(1):
            try:
                self.rows.append((time.monotonic() - begin, self.sample()))
            except (OSError, TypeError):  # a process is being restarted: the pids tell
                pass

    def at(self, share):
        return self.rows[min(len(self.rows) - 1, int(share * len(self.rows)))][1]


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--seconds", type=float, default=60, help="of overload (default 60)")
    arguments.add_argument("--capacity-seconds", type=float, default=20)
    arguments.add_argument("--concurrency", type=int, default=16, help="of the closed loop")
    arguments.add_argument("--times", type=float, default=10, help="offered load over capacity")
    arguments.add_argument("--slo", type=float, default=10, help="seconds; goodput counts answers within it")
    args = arguments.parse_args()

    with Server(args) as server:
        capacity = bench(args, server, concurrency=args.concurrency, duration=args.capacity_seconds,
                         warmup=5, slo=args.slo)
        if not capacity["completed_rps"]:
            raise SystemExit(f"nothing was answered in the closed loop: {capacity['errors']}")
        rate = args.times * capacity["completed_rps"]
        pids = server.pids()
        start = Memory(server)
        first = start.sample()
        start.start()
        # The warm-up is long enough for what may be under way to fill up: work in progress is no loss.
        load = bench(args, server, rate=rate, duration=args.seconds, warmup=20, slo=args.slo,
                     timeout=max(30, 3 * args.slo), max_outstanding=4096)
        start.ended.set()
        start.join()
        last = start.sample()
        survived = server.pids() == pids

    middle = start.at(0.5) if start.rows else last
    ratio = load["goodput_rps"] / capacity["completed_rps"]
    refused = {reason: n for reason, n in load["errors"].items() if reason in ("OVERLOADED", "CLIENT_LIMIT")}
    times = {reason: load["failure_seconds_by_code"][reason] for reason in load["errors"]}
    refusal = max((times[reason]["p99"] for reason in refused), default=None)
    grown = {role: last[role] - middle[role] for role in last}
    table(["", "per second", "note"], [
        ["capacity, closed loop", f"{capacity['completed_rps']:.2f}", f"{args.concurrency} at once"],
        ["offered", f"{load['offered_rps']:.2f}", f"{load['dropped_by_bench']} not sent by the bench"],
        ["completed", f"{load['completed_rps']:.2f}", ""],
        ["goodput", f"{load['goodput_rps']:.2f}", f"within {args.slo:g} s; {100 * ratio:.0f} % of capacity"],
    ])
    table(["failed", "count", "p50, ms", "p90, ms", "p99, ms", "max, ms"],
          [[reason, n, *(f"{times[reason][q] * 1e3:.1f}" for q in ("p50", "p90", "p99", "max"))]
           for reason, n in load["errors"].items()])
    table(["resident MiB", "start", "middle", "end"],
          [[role, *(f"{m[role] / 2**20:.0f}" for m in (first, middle, last))] for role in last])
    finish(args, {
        "capacity_rps": capacity["completed_rps"], "offered_rps": load["offered_rps"],
        "goodput_rps": load["goodput_rps"], "goodput_share": ratio, "refusal_p99_seconds": refusal,
        "refused": refused, "errors": load["errors"], "dropped_by_bench": load["dropped_by_bench"],
        "resident_bytes": {"start": first, "middle": middle, "end": last}, "survived": survived,
        "capacity": capacity, "overload": load,
    }, {
        "goodput at least 90 % of capacity": ratio >= 0.9,
        "refusals within 100 ms (p99)": refusal is not None and refusal < 0.1,
        "every failure is a refusal with its reason": sum(refused.values()) == load["count"]["failed"],
        "no process died": survived,
        "no process grew": all(g < GROWTH for g in grown.values()),
    })


if __name__ == "__main__":
    main()
