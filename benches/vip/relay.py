"""The userspace plane next to HAProxy in tcp mode: CPU of the one in the middle per octet and per connection."""
import os, statistics

import peers, planes
from field import PORT, Field
from places import until
from table import rounds, spread


def userspace(run, field):
    """Our relay, for a client's namespace in which nftables is not used."""
    place = field.host("10.250.0.5")
    ours = run.keep(peers.Portolan(run.folder, run.program, "userspace"))
    ours.env["PORTOLAN_CONFIG"] += '[vip]\ndata_plane = "userspace"\n'
    head, tasks = planes.service().split("[[task]]", 1)
    ports = f'labels = {{ "portolan.vip.ports" = "{PORT},{PORT}/udp" }}\n'
    ours.up(peers.network("net", "10.0.0.0/8") + head + ports + "[[task]]" + tasks + peers.sandbox("client", place, "net"))
    until(lambda: field.call(place, "requests", planes.VIP, 1, check=False), f"portolan (see {ours.folder}/log)")
    way = planes.Way("portolan, userspace", place, planes.VIP)
    way.version, way.processes = ours.version, [ours.pid]
    return way


def relay(run):
    """Target: no more CPU per GB in the middle than HAProxy's."""
    field = Field(run)
    tasks = [field.task(f"bench{n}", it) for n, it in enumerate(planes.TASKS)]
    ways = [userspace(run, field), planes.haproxy(run, field)]
    ours, theirs = (it.name for it in ways)
    print("  ".join(f"{it.name} {it.version}".strip() for it in ways))
    fine = True
    for what, words in (("down", "one stream from the task"), ("up", "one stream to the task")):
        seen = rounds(run, field, tasks, ways, what, run.seconds)
        cost = {name: [it["proxy"] / (it["rate"] * run.seconds / 1e9) for it in all] for name, all in seen.items()}
        every = {name: [it["cpu_s_per_gb"] + it["others"] / (it["rate"] * run.seconds / 1e9) for it in all] for name, all in seen.items()}
        ratios = [a / b for a, b in zip(cost[ours], cost[theirs])]
        good = statistics.median(ratios) <= 1
        fine = fine and good
        print(f"\n{words}\n{'':22} {'its CPU s/GB':>24} {'all CPU s/GB':>24} {'MB/s':>24}")
        for name, all in seen.items():
            print(f"{name:22} {spread(cost[name], '{:.3f}'):>24} {spread(every[name], '{:.3f}'):>24} "
                  f"{spread([it['rate'] / 1e6 for it in all], '{:.0f}'):>24}")
        print(f"portolan is x {spread(ratios)} of HAProxy, target <= 1 {'ok' if good else 'NO'}", flush=True)
    count = int(run.seconds * 1000)
    seen = rounds(run, field, tasks, ways, "requests", count)
    print(f"\nconnect, GET, answer, end, {count} a round\n{'':22} {'its CPU us':>24} {'p50 us':>20} {'p99 us':>20}")
    for name, all in seen.items():
        print(f"{name:22} {spread([it['proxy'] / count * 1e6 for it in all], '{:.1f}'):>24} "
              f"{spread([it['p50'] for it in all], '{:.0f}'):>20} {spread([it['p99'] for it in all], '{:.0f}'):>20}", flush=True)
    return fine
