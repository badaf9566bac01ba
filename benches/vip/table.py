"""What a connection, an octet and a datagram cost through a VIP, next to the same without one and next to others."""
import os, statistics

import planes
from field import Field, nanoseconds

TARGETS = {"down": (">=", 0.95), "up": (">=", 0.95), "requests": ("<=", 1.35), "connects": ("<=", 1.35), "datagrams": (">=", 0.9)}


def spread(values, form="{:.2f}"):
    low, high = (form.format(it) for it in (min(values), max(values)))
    return f"{form.format(statistics.median(values))} ({low}-{high})"


def measured(field, tasks, way, what, *more):
    """One round: what `call` says, and the CPU seconds of all who take part (client, tasks, a proxy)."""
    others = [*(it.process.pid for it in tasks), *way.processes]
    before = sum(map(nanoseconds, others))
    proxies = sum(map(nanoseconds, way.processes))
    # Closed flows of the last round would collide with ports that are used again.
    way.place.run("sh", "-c", "conntrack -F 2>/dev/null || true")
    said = field.call(way.place, what, way.addresses, *more)
    said["others"] = (sum(map(nanoseconds, others)) - before) / 1e9
    said["proxy"] = (sum(map(nanoseconds, way.processes)) - proxies) / 1e9
    return said


def rounds(run, field, tasks, ways, what, *more):
    """Everybody's rounds, interleaved; the order turns, so that nobody always follows the same neighbour."""
    seen = {it.name: [] for it in ways}
    for number in range(run.rounds):
        for way in ways[number % len(ways):] + ways[:number % len(ways)]:
            seen[way.name].append(measured(field, tasks, way, what, *more))
    return seen


def verdict(what, ratios):
    sign, limit = TARGETS[what]
    middle = statistics.median(ratios)
    fine = middle >= limit if sign == ">=" else middle <= limit
    return f"target {sign} {limit} {'ok' if fine else 'NO'}", fine


def connections(run, field, tasks, ways):
    """CPU and time of a new connection: alone, and with a request and its answer. A proxy's CPU counts as the client's:
    it stands where our table stands."""
    fine, count = True, int(run.seconds * 3000)
    for what, words in (("connects", "connect and close"), ("requests", "connect, GET, answer, end")):
        seen = rounds(run, field, tasks, ways, what, count)
        print(f"\n{words}, {count} a round")
        print(f"{'':26} {'client CPU us':>24} {'x direct':>18} {'all CPU us':>24} {'p50 us':>18} {'p99 us':>20} {'p99 - direct':>14}")
        client = {name: [it["cpu_us"] + it["proxy"] / count * 1e6 for it in all] for name, all in seen.items()}
        for way in ways:
            mine = seen[way.name]
            ratios = [a / b for a, b in zip(client[way.name], client["direct"])]
            every = [it["cpu_us"] + it["others"] / count * 1e6 for it in mine]
            later = statistics.median(a["p99"] - b["p99"] for a, b in zip(mine, seen["direct"]))
            note = ""
            if way.name == "portolan":
                note, good = verdict(what, ratios)
                note += f"; p99 target + 40 us {'ok' if later <= 40 else 'NO'}"
                fine = fine and good and later <= 40
            print(f"{way.name:26} {spread(client[way.name]):>24} {spread(ratios):>18} {spread(every):>24} "
                  f"{spread([it['p50'] for it in mine], '{:.1f}'):>18} {spread([it['p99'] for it in mine], '{:.1f}'):>20} "
                  f"{later:>+14.1f}  {note}", flush=True)
    return fine


def streams(run, field, tasks, ways):
    fine = True
    for what, words in (("down", "one stream from the task"), ("up", "one stream to the task")):
        seen = rounds(run, field, tasks, ways, what, run.seconds)
        print(f"\n{words}\n{'':26} {'MB/s':>26} {'x direct':>18} {'all CPU s/GB':>24}")
        for way in ways:
            mine = seen[way.name]
            rates = [it["rate"] / 1e6 for it in mine]
            ratios = [it["rate"] / direct["rate"] for it, direct in zip(mine, seen["direct"])]
            every = [it["cpu_s_per_gb"] + it["others"] / (it["rate"] * run.seconds / 1e9) for it in mine]
            note, good = verdict(what, ratios) if way.name == "portolan" else ("", True)
            fine = fine and good
            print(f"{way.name:26} {spread(rates, '{:.0f}'):>26} {spread(ratios):>18} {spread(every, '{:.3f}'):>24}  {note}", flush=True)
    return fine


def datagrams(run, field, tasks, ways):
    fine, ways = True, [it for it in ways if it.datagrams]
    for window in (1, 32):
        seen = rounds(run, field, tasks, ways, "datagrams", run.seconds, 128, window)
        print(f"\nUDP echoes of 128 octets, {window} under way\n{'':26} {'1,000/s':>24} {'x direct':>18} {'client CPU us':>22} {'lost':>6}")
        for way in ways:
            mine = seen[way.name]
            ratios = [it["rate"] / direct["rate"] for it, direct in zip(mine, seen["direct"])]
            note, good = verdict("datagrams", ratios) if way.name == "portolan" else ("", True)
            fine = fine and good
            print(f"{way.name:26} {spread([it['rate'] / 1e3 for it in mine], '{:.1f}'):>24} {spread(ratios):>18} "
                  f"{spread([it['cpu_us'] for it in mine]):>22} {sum(it['lost'] for it in mine):6.0f}  {note}", flush=True)
    return fine


def table(run):
    """The targets' table. ONLY=connections|streams|datagrams."""
    field = Field(run)
    tasks = [field.task(f"bench{n}", it) for n, it in enumerate(planes.TASKS)]
    peers = [planes.kube, planes.haproxy, *([planes.ipvs] if planes.has_ipvs() else [])]
    ways = [it(run, field) for it in (planes.direct, planes.tracked, planes.portolan, *peers)]
    print("  ".join(f"{it.name} {it.version}".strip() for it in ways) + f"; {planes.SERVICES} services x {planes.EACH} besides"
          + ("" if planes.ipvs in peers else "; no ip_vs in this kernel, or no ipvsadm"))
    parts = {it.__name__: it for it in (connections, streams, datagrams)}
    # All of them, also when one is not as it should be.
    results = [parts[it](run, field, tasks, ways) for it in parts if os.environ.get("ONLY", it) == it]
    return all(results)
