"""Upstream servers that are dead: what a client waits, and what it is told."""
import os, signal, statistics, struct, time

import peers
from peers import InSandbox, Portolan
from places import Place, Process, until

HOLE = "192.0.2.53"
OPT = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"


def lookup(sock, name, serial):
    """Milliseconds until the reply, its code, its first TTL or None, its Extended DNS Error or None."""
    tail = b"".join(bytes([len(it)]) + it.encode() for it in name.split(".")) + b"\0\0\1\0\1"
    begun = time.monotonic()
    sock.send(struct.pack(">6H", serial, 0x0100, 1, 0, 0, 1) + tail + OPT)
    while (reply := sock.recv(4096))[:2] != struct.pack(">H", serial):
        pass
    took = (time.monotonic() - begun) * 1000
    ttl = struct.unpack_from(">I", reply, 12 + len(tail) + 6)[0] if reply[7] else None
    at = reply.rfind(b"\0\x0f\0")
    error = struct.unpack_from(">H", reply, at + 4)[0] if at > 0 and reply[11] else None
    return took, reply[3] & 15, ttl, error


def outage(run):
    firsts, nexts, waits, refusals, stale = [], [], [], set(), []
    for _ in range(run.rounds):
        dead_first(run, firsts, nexts)
        all_dead(run, waits, refusals, stale)
        run.end()
    nexts.sort()
    p95 = nexts[int(len(nexts) * 0.95)]
    print(f"the first of two servers is a black hole, {run.rounds} times anew: first look-up {max(firsts):.0f} ms at worst "
          f"(target 1000); of the next 50 median {statistics.median(nexts):.1f} ms, p95 {p95:.1f} ms (target 50), worst {nexts[-1]:.1f} ms\n"
          f"the only one falls silent: a name never heard of gets {sorted(refusals)} (code, Extended DNS Error) after "
          f"{max(waits):.0f} ms at worst (target 5000)\n"
          f"one whose second is over is told as stale (TTL 30, error 3) after {max(it[0] for it in stale):.0f} ms at worst, "
          f"and then within {max(it[1] for it in stale):.1f} ms: {len(stale)} of {run.rounds} times")


def dead_first(run, firsts, nexts):
    portolan = run.keep(Portolan(run.folder, run.program))
    portolan.place.run("ip", "address", "add", f"{HOLE}/32", "dev", "lo")
    hole = portolan.place.bound(HOLE, 53)  # takes questions, and nobody reads them
    run.keep(Process(portolan.place, os.path.join(run.folder, "upstream"), run.echo, "upstream", "127.0.0.1:53"))
    sock = asker(portolan, [f"{HOLE}:53", "127.0.0.1:53"])
    times = [lookup(sock, f"n{it}.example.com", it)[0] for it in range(51)]
    firsts.append(times[0])
    nexts.extend(times[1:])
    hole.close()


def all_dead(run, waits, refusals, stale):
    portolan = run.keep(Portolan(run.folder, run.program))
    log = os.path.join(run.folder, "dnsmasq")
    server = run.keep(Process(portolan.place, log, "dnsmasq", "-k", "-C", "/dev/null", "-a", "127.0.0.1", "-z", "-R", "-h",
                              "-u", "root", "-x", "", "--local-ttl=1", "--host-record=known.example,198.51.100.7"))
    sock = asker(portolan, ["127.0.0.1:53"])
    until(lambda: lookup(sock, "known.example", 1)[1] == 0, f"dnsmasq (see {log})")
    os.kill(server.pid, signal.SIGSTOP)
    time.sleep(1.2)
    took, code, _, error = lookup(sock, "never.example", 2)
    waits.append(took)
    refusals.add((code, error))
    first, again = lookup(sock, "known.example", 3), lookup(sock, "known.example", 4)
    if all(it[1:] == (0, 30, 3) for it in (first, again)):
        stale.append((first[0], again[0]))
    os.kill(server.pid, signal.SIGCONT)


def asker(portolan, upstreams):
    inside = Place()
    portolan.up(peers.network("net", "10.0.0.0/8") + peers.services("net", 2) + peers.sandbox("asker", inside, "net", upstreams))
    InSandbox("portolan", portolan, inside).ready()
    sock = inside.client()
    sock.settimeout(8)
    return sock
