"""Measures portolan's DNS next to other servers, in one run, rounds interleaved.

    sudo python3 benches/dns PORTOLAN [table|cache|bound|flood|change|outage|many|restarts|order|where]...     (ROUNDS=5 SECONDS=3 ENGINE=1)

table   CPU per answer of each server: 1,000 names, asked from inside the server's own namespace by one dnsperf with
        100 questions in flight; echoes as yardsticks. ENGINE=0 leaves Docker's own (which needs tests/lab) out
cache   CPU per answer for names from a cached upstream, next to local ones
bound   memory that a full cache takes, for several limits
flood   latency of local names at 10,000 q/s: alone, while another namespace floods somebody else with 100,000 q/s
        of unknown names, and while another sandbox floods portolan, whose upstream there is dead
change  from a world file's new name to the first changed answer, and what of it follows the new snapshot
restarts  kill -9 and a new start, 50 times (KILLS=50), under 5,000 q/s of a client that retries as glibc does: names that
        nobody answered. ENGINE=0: a dnsmasq stands where the engine's resolver would
outage  dead upstream servers: what the first look-up and the next ones wait, and what is told when all are silent
many    500 sandboxes: memory, and the time that setting one up takes
order   what the rules in a sandbox's table cost an answer, in front of an echo
where   system calls and CPU samples of a busy resolver (needs strace and perf)

PORTOLAN is a release build; `cargo build --release -p kernel --example echo` makes the echoes. benches/README.md says
how to read the figures.
"""
import os, pathlib, shutil, sys, tempfile

import bound, outage, parts, restarts

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
ROUNDS, SECONDS = int(os.environ.get("ROUNDS", "5")), float(os.environ.get("SECONDS", "3"))
PARTS = {it.__name__: it for it in (parts.table, parts.cache, bound.bound, parts.flood, parts.change, outage.outage, parts.many,
                                    restarts.restarts, parts.order, parts.where)}


def echo_program():
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    program = target / "release/examples/echo"
    if not program.exists():
        sys.exit(f"{program} is not there: cargo build --release -p kernel --example echo")
    return program


def main():
    if len(sys.argv) < 2 or os.geteuid():
        sys.exit(__doc__)
    program, what = os.path.abspath(sys.argv[1]), sys.argv[2:] or ["table", "cache", "flood", "change", "many"]
    folder = tempfile.mkdtemp(prefix="dns-bench-")
    run = parts.Run(program, echo_program(), folder, ROUNDS, SECONDS)
    try:
        for name in what:
            print(f"\n== {name}", flush=True)
            PARTS[name](run)
            run.end()
    finally:
        run.end()
        if not os.environ.get("KEEP"):
            shutil.rmtree(folder)


main()
