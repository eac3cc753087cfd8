"""Many clients: sixteen at once against one at a time, and where the time goes.

  python bench/many_clients.py --bin build/bin [--clients 16] [--seconds 30] [--rounds 2]

Two closed loops of `chord bench` on the same server, in turn so that the machine's mood hits both;
the ratio of their throughputs, and the stages of a request from the answers' `timing` (medians, and
their share of the request).
"""

import statistics

from measure import Server, bench, finish, parser, table

STAGES = ("queue", "vision", "prefill", "decode", "server_total")


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--clients", type=int, default=16)
    arguments.add_argument("--seconds", type=float, default=30, help="of each run")
    arguments.add_argument("--rounds", type=int, default=2)
    args = arguments.parse_args()

    runs = {1: [], args.clients: []}
    with Server(args) as server:
        bench(args, server, concurrency=args.clients, duration=2, warmup=0)  # both workers warm
        for _ in range(args.rounds):
            for clients in runs:
                runs[clients].append(bench(args, server, concurrency=clients, duration=args.seconds, warmup=2))
    rates = {n: statistics.mean(r["completed_rps"] for r in rows) for n, rows in runs.items()}
    if not all(rates.values()):
        raise SystemExit(f"nothing was answered: {[r['errors'] for rows in runs.values() for r in rows]}")

    def median(n, *path):
        values = []
        for run in runs[n]:
            for key in path:
                run = run[key]
            if run["p50"] is not None:
                values.append(run["p50"] * 1e3)
        return statistics.mean(values) if values else float("nan")

    summary = {n: {"rps": rates[n], "total_ms": median(n, "total_seconds"), "ttft_ms": median(n, "ttft_seconds"),
                   **{f"{s}_ms": median(n, "stages_seconds", s) for s in STAGES}} for n in runs}
    ratio = rates[args.clients] / rates[1]
    rows = [["answers per second", *(f"{summary[n]['rps']:.2f}" for n in runs), f"{ratio:.2f} ×"]]
    for name, key in [("first token, ms", "ttft_ms"), ("total, ms", "total_ms"),
                      *((f"  {s}, ms", f"{s}_ms") for s in STAGES[:-1])]:
        one, many = summary[1][key], summary[args.clients][key]
        share = 100 * many / summary[args.clients]["server_total_ms"]
        rows.append([name, f"{one:.1f}", f"{many:.1f}", f"{share:.0f} % of many" if name.startswith(" ") else ""])
    table(["median", "one at a time", f"{args.clients} at once", ""], rows)
    failed = {n: sum(r["count"]["failed"] for r in rows) for n, rows in runs.items()}
    finish(args, {"clients": args.clients, "throughput_ratio": ratio, "summary": summary,
                  "failed": failed, "runs": runs},
           {"no request failed": not any(failed.values()), "many give at least the throughput of one": ratio >= 1})


if __name__ == "__main__":
    main()
