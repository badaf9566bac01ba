"""A service's tasks changed again and again while clients connect as fast as they can: nobody is refused, nothing is lost."""
import os, random, re, subprocess, threading, time

import planes
from field import Field

SWAPS = int(os.environ.get("SWAPS", "10000"))


class Callers(threading.Thread):
    """Connects, one after another, until told to stop; `call` reports what failed and the worst time of each batch."""

    def __init__(self, field, way, batch=5000):
        super().__init__(daemon=True)
        self.field, self.way, self.batch, self.stop = field, way, batch, False
        self.count = self.failed = 0
        self.worst, self.p99 = 0.0, []
        self.start()

    def run(self):
        while not self.stop:
            self.way.place.run("sh", "-c", "conntrack -F 2>/dev/null || true")
            done = subprocess.run(self.way.place.words(os.path.join(self.field.run.folder, "call"), "requests", self.way.addresses,
                                                       8080, self.batch), capture_output=True, text=True)
            said = dict(it.split() for it in done.stdout.splitlines() if len(it.split()) == 2)
            self.count += int(said["count"])
            self.failed += int(said["failed"])
            self.worst = max(self.worst, float(said["worst"]))
            self.p99.append(float(said["p99"]))


def transactions(place):
    """How often the namespace's rules were changed so far (the kernel's generation)."""
    found = re.search(r"generation (\d+)", place.run("sh", "-c", "timeout 5 nft monitor & sleep 0.3; nft add table ip once; nft delete table ip once; sleep 0.3; kill $!"))
    return int(found[1])


def swaps(run):
    field = Field(run)
    tasks = [field.task(f"bench{n}", it) for n, it in enumerate(planes.TASKS)]
    way = planes.portolan(run, field, others=10)
    first, chance = transactions(way.place), random.Random(7)
    callers = Callers(field, way)
    begun, drained, wanted = time.monotonic(), (), 0
    while (done := transactions(way.place) - first if wanted % 500 == 0 else done) < SWAPS and wanted < SWAPS * 4:
        # One to three tasks serve, never the same ones as before.
        last = drained
        while drained == last:
            drained = tuple(sorted(chance.sample(range(len(tasks)), chance.randint(1, 3))))
        way.portolan.rewrite(planes.world(way.place, drained, others=10))
        wanted += 1
        time.sleep(0.004)
    took = time.monotonic() - begun
    callers.stop = True
    callers.join()
    print(f"{wanted} world files in {took:.0f} s were {done} transactions in the client's namespace; {callers.count} connections "
          f"meanwhile, {callers.failed} failed; p99 of a connect {max(callers.p99):.0f} us in the worst batch, the longest {callers.worst / 1000:.1f} ms")
    # A lost SYN is sent again after a second.
    return done >= SWAPS and callers.failed == 0 and callers.worst < 900_000
