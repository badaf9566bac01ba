"""Hosts on one bridge in namespaces of their own, and the two programs that call and serve there.

Everything ends with this process: the namespaces have no names.
"""
import os, pathlib, subprocess, sys

from places import Place, Process, until

PROGRAMS = pathlib.Path(__file__).resolve().parent / "programs"
PORT = 8080
# The client has one processor and the tasks another: where the scheduler puts them differs from round to round, and moves
# octets a second by a fifth.
FIRST, LAST = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))


def build(folder):
    """Compiles the programs; statically, so that they also run in an image without libraries."""
    for source in sorted(PROGRAMS.glob("*.c")):
        program = os.path.join(folder, source.stem)
        done = subprocess.run(["cc", "-O2", "-static", "-Wall", "-o", program, source], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
    return folder


def pinned(processor):
    """A program's words begin with these, to stay on that processor."""
    return ["taskset", "--cpu-list", str(processor)]


def figures(said):
    """`name value` lines as numbers; what else is printed is left out."""
    pairs = [it.split() for it in said.splitlines()]
    return {it[0]: float(it[1]) for it in pairs if len(it) == 2}


class Field:
    """A bridge, 10.0.0.0/8, without a default route."""

    def __init__(self, run):
        self.run, self.switch, self.hosts = run, Place(), 0
        self.switch.run("ip", "link", "add", "br0", "type", "bridge")
        self.switch.run("ip", "link", "set", "br0", "up")

    def host(self, address):
        """A fresh namespace with that address on the bridge."""
        place = Place()
        port, self.hosts = f"p{self.hosts}", self.hosts + 1
        self.switch.run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", place.path)
        self.switch.run("ip", "link", "set", port, "master", "br0", "up")
        place.run("ip", "address", "add", f"{address}/8", "dev", "eth0")
        place.run("ip", "link", "set", "eth0", "up")
        # All calls of a round go to one address and port of a VIP and to four of the tasks: ports that rest after a close
        # would run short for the VIP first, and what is measured then is the search for a free one (900 us).
        place.run("sysctl", "-qw", "net.ipv4.tcp_max_tw_buckets=0")
        place.address = address
        return place

    def task(self, name, address):
        """A host on which `serve` answers with `name`."""
        place = self.host(address)
        place.process = self.run.keep(Process(place, os.path.join(self.run.folder, f"{name}.log"), *pinned(LAST),
                                              os.path.join(self.run.folder, "serve"), name, PORT))
        until(lambda: self.call(place, "requests", address, 1, check=False), f"{name} answers")
        return place

    def call(self, place, what, addresses, *more, check=True):
        """What `call` printed, as numbers; None if it failed and that may be."""
        words = place.words(*pinned(FIRST), os.path.join(self.run.folder, "call"), what, addresses, PORT, *more)
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            if check:
                sys.exit(f"{words}: {done.stdout}{done.stderr}")
            return None
        return figures(done.stdout)


def nanoseconds(pid):
    """CPU time of a process so far, all its threads (proc(5), schedstat of each task)."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        total += int(open(f"/proc/{pid}/task/{task}/schedstat").read().split()[0])
    return total
