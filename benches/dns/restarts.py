"""Portolan dies and comes back under load, and every name is looked up nevertheless."""
import json, os, random, subprocess, sys, time

import load, peers, stub
from peers import Portolan
from places import Place, until

KILLS, RATE = int(os.environ.get("KILLS", "50")), 5000


class OnEngine(Portolan):
    """Portolan next to a real engine: while it is away the engine's own resolver answers."""

    def __init__(self, run, engine):
        super().__init__(run.folder, run.program, "portolan-killed")
        self.place = Place(of=engine.pid)
        self.env = {"PORTOLAN_CONFIG": f'state_dir = "{self.folder}/state"\n[sources.docker]\n'
                                       f'endpoint = "unix://{peers.LAB_DIR}/node1/docker.sock"\n'
                                       f'[admin]\nsocket = "{self.folder}/socket"\n[dns]\nhost_listen = "off"\n'}

    def again(self):
        return self.start(self.program, "up", env=self.env)


class OverWorld(Portolan):
    """The same over a world file; dnsmasq stands where the engine's resolver would."""

    def __init__(self, run, inside):
        super().__init__(run.folder, run.program, "portolan-killed")
        self.rewrite(peers.network("net", "10.0.0.0/8") + peers.services("net") + peers.sandbox("asker", inside, "net"))

    def again(self):
        return self.start(self.program, "up", env=self.env)


def begin(run):
    """Who is killed, where is asked, and the TTL by which the other's answers are known."""
    if os.environ.get("ENGINE", "1") != "0":
        engine = run.keep(peers.Engine(run.program))
        return run.keep(OnEngine(run, engine)), engine.place, f"the engine {engine.version}", "600"
    other = run.keep(peers.dnsmasq(run.folder, ttl=600))
    return run.keep(OverWorld(run, other.place)), other.place, f"dnsmasq {other.version}", "600"


def restarts(run):
    """`kill -9` and a new start, again and again."""
    portolan, inside, other, other_ttl = begin(run)
    file = load.questions(run.folder, peers.names())
    ours = lambda: held(inside) not in (None, int(other_ttl))
    portolan.again()
    until(ours, f"portolan's first answer (see {portolan.folder}/log)")
    asking = subprocess.Popen(inside.words(sys.executable, stub.__file__, "127.0.0.11", file, RATE), stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True)
    back = []
    time.sleep(1)
    for _ in range(KILLS):
        portolan.process.child.kill()
        portolan.process.child.wait()
        time.sleep(random.uniform(0.05, 0.4))
        begun = time.monotonic()
        portolan.again()
        until(ours, f"portolan's answer after a restart (see {portolan.folder}/log)")
        back.append(time.monotonic() - begun)
        time.sleep(random.uniform(0.2, 0.5))
    said = json.loads(asking.communicate()[0])
    report(said, back, other, other_ttl)


def held(place):
    """What an answer holds now, in seconds."""
    sock = place.client()
    try:
        sock.send(b"\x12\x34\x01\x00\x00\x01" + bytes(6) + b"\x02s1\x00\x00\x01\x00\x01")
        reply = sock.recv(512)
    except OSError:
        return None
    finally:
        sock.close()
    return stub.ttl(reply, 20) if reply[7] else None


def report(said, back, other, other_ttl):
    number = lambda what: said.get(what, 0)
    theirs = said["ttls"].get(other_ttl, 0)
    back = sorted(back)
    print(f"{KILLS} times kill -9 and started again in {said['seconds']:.0f} s; {number('asked')} names asked at "
          f"{number('asked') / said['seconds']:.0f} q/s, each by a socket of its own, as glibc does\n"
          f"answered at the first attempt: {number('answered at once')}, {theirs} of all by {other}; the slowest of them "
          f"{said['slowest'] * 1000:.0f} ms\n"
          f"answered after glibc's retry: {number('answered after a retry')}; ports found closed: {number('refused')}; "
          f"wrong answers: {number('wrong')}; never answered: {number('failed')} (target 0)\n"
          f"from a start to portolan's first answer: median {back[len(back) // 2] * 1000:.0f} ms, worst {back[-1] * 1000:.0f} ms")
