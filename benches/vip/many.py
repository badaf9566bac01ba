"""Memory of 100 sandboxes that all balance 1,000 services: of the process, and of the kernel."""
import os, re, time

import peers
import planes
from field import Field
from places import memory, until

SANDBOXES = int(os.environ.get("SANDBOXES", "100"))


def kernel():
    """MiB of the kernel's that tables can be in: slab that is not given back, large blocks, and per processor."""
    said = open("/proc/meminfo").read()
    return {it: int(re.search(rf"^{it}:\s+(\d+) kB", said, re.M)[1]) / 1024 for it in ("SUnreclaim", "VmallocUsed", "Percpu")}


def many(run):
    field = Field(run)
    places = [field.host(f"10.250.{n >> 8}.{n & 255}") for n in range(1, SANDBOXES + 1)]
    ours = run.keep(peers.Portolan(run.folder, run.program, "many"))
    text = peers.network("net", "10.0.0.0/8")
    sandboxes = "".join(peers.sandbox(f"b{n}", it, "net") for n, it in enumerate(places))
    ours.up(text + sandboxes)
    until(lambda: ours.logged().count("took over DNS") == SANDBOXES, "sandboxes", 120)
    time.sleep(2)
    before, resident = kernel(), memory(ours.pid)[0]
    begun = time.monotonic()
    ours.rewrite(text + peers.services("net", planes.SERVICES, planes.EACH, "vip") + sandboxes)
    last = peers.address((planes.SERVICES - 1) + ((planes.EACH - 1) << 16))
    filled = lambda it: last in it.run("sh", "-c", "nft list table ip portolan_vip 2>/dev/null || true")
    until(lambda: filled(places[-1]) and filled(places[0]), "tables", 300)
    until(lambda: all(filled(it) for it in places), "tables everywhere", 300)
    took = time.monotonic() - begun
    time.sleep(2)
    after, (now, most) = kernel(), memory(ours.pid)
    grown = {it: after[it] - before[it] for it in before}
    whole = sum(grown.values())
    print(f"{SANDBOXES} sandboxes x {planes.SERVICES} services x {planes.EACH}: {now:.0f} MiB resident, {most:.0f} at most ({resident:.0f} without "
          f"services; target 64); kernel {whole:.0f} MiB (target 150): " + ", ".join(f"{it} {mib:.0f}" for it, mib in grown.items())
          + f"; {took:.0f} s until seen in all, looking included")
    return now <= 64 and whole <= 150
