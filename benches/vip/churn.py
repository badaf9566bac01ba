"""Minutes of chance: services scaled, tasks killed, ports published elsewhere, containers connected and disconnected, labels
changed, engines restarted, portolans killed, all under load by VIPs and published ports. Nobody may ever be answered by somebody
else, and nothing may grow."""
import os, random, re, signal, subprocess, threading, time

from asked import asked
from lab import NODES, docker, inside, on, sh, wait
from life import Engine
from rolling import ADDRESSES
from scene import NETWORK, Caller, Scene

MINUTES = float(os.environ.get("MINUTES", "30"))
# What counts as growth begins after this; shorter runs give a third of their time. Then, and at the end, everything is put to
# rest and looked at, because what there is in between depends on what runs at the moment.
WARM = min(300, MINUTES * 60 / 3)
# Each publishes its port, TCP and UDP, always, and one more (to a target of its own) now and then.
SERVICES = {"red": 8200, "green": 8201, "blue": 8202}
MORE, TARGETS = 10, "8080,8081"
RATE = 30
OUTSIDE = "/run/netns/plab-client"
OWN = {"node1": "10.214.0.101", "node2": "10.214.0.102"}


class World:
    """What may happen, and what has."""

    def __init__(self, scene, chance):
        self.scene, self.chance, self.count = scene, chance, {}
        self.engines = {}
        self.guests = 0
        self.mortal = NODES

    def scale(self):
        docker("node1", f"service scale -d {self.chance.choice([*SERVICES])}={self.chance.randint(1, 6)}", check=False)

    def kill(self):
        node, name = self.chance.choice(NODES), self.chance.choice([*SERVICES])
        tasks = self.scene.containers(node, name)
        if tasks:
            docker(node, f"kill -s {self.chance.choice(['KILL', 'TERM'])} {self.chance.choice(tasks)}", check=False)

    def label(self):
        docker("node1", f"service update -d --label-add portolan.vip.affinity={self.chance.choice(['client', 'none'])} "
                        f"{self.chance.choice([*SERVICES])}", check=False)

    def force(self):
        docker("node1", f"service update -d --force {self.chance.choice([*SERVICES])}", check=False)

    def publish(self):
        """One more port of a service comes, goes, or moves to another service."""
        name = self.chance.choice([*SERVICES])
        docker("node1", f"service update -d --publish-rm 8081 {name}", check=False)
        if self.chance.random() < 0.6:
            docker("node1", f"service update -d --publish-add {self.chance.choice([*SERVICES.values()]) + MORE}:8081 {name}", check=False)

    def guest(self):
        """A plain container that comes, is connected elsewhere and back, and goes."""
        node, name = self.chance.choice(NODES), f"guest{self.guests}"
        self.guests += 1
        docker(node, f"run -d --name {name} --network {NETWORK} counter:latest sleep 600", check=False)
        docker(node, f"network connect bridge {name}", check=False)
        docker(node, f"network disconnect {NETWORK} {name}", check=False)
        docker(node, f"network connect {NETWORK} {name}", check=False)
        docker(node, f"rm -f {name}", check=False)

    def portolan(self):
        self.scene.replace(self.chance.choice(self.mortal), self.scene.run.program, self.chance.choice([signal.SIGKILL, signal.SIGTERM]))

    def engine(self):
        """The worker's engine ends and starts again: its containers with it, the askers too."""
        engine = self.engines.setdefault("node2", Engine("node2"))
        engine.stop(signal.SIGTERM)
        engine.start()

    def step(self):
        what = self.chance.choices([self.scale, self.kill, self.label, self.force, self.guest, self.publish, self.portolan, self.engine],
                                   [8, 8, 4, 2, 6, 1.5, 1.5, 0.5])[0]
        self.count[what.__name__] = self.count.get(what.__name__, 0) + 1
        what()


def elements(listing):
    """How many elements the maps and sets of a listing have."""
    return sum(len(it.split(",")) for it in re.findall(r"elements = \{([^}]*)\}", listing))


def holds(portolan, tries=20):
    """What the process and its children hold."""
    try:
        descriptors, threads, resident = portolan.holds()
        held = {os.readlink(it.path) for process in portolan.family() for it in os.scandir(f"/proc/{process}/fd")}
    except OSError:
        # A thread or a descriptor was gone while it was looked at.
        if not tries:
            raise
        return holds(portolan, tries - 1)
    return {"descriptors": descriptors, "threads": threads, "MiB": resident, "namespaces open": len([it for it in held if it.startswith("net:")])}


def sample(scene):
    """What may grow, node by node: what the process holds, and what is in the asker's, the doorway's and the host's namespace."""
    found = {}
    for node in NODES:
        found[node] = holds(scene.lab.portolans[node])
        for name, place in (("asker", f"/proc/{scene.askers[node]}/ns/net"), ("doorway", scene.doorway(node)[0]), ("host", f"/run/netns/plab-{node}")):
            said = lambda *words: sh("nsenter", f"--net={place}", *words, check=False)
            rules = said("nft", "list", "ruleset")
            found[node] |= {
                f"{name}: tables": len(re.findall(r"^table", rules, re.M)), f"{name}: rules, lines": len(rules.splitlines()),
                f"{name}: elements": elements(rules), f"{name}: routes": len(said("ip", "route", "show", "table", "all").splitlines()),
                f"{name}: policy rules": len(said("ip", "rule").splitlines()), f"{name}: flows": int(said("conntrack", "-C") or 0),
            }
    return found


class Load:
    """Callers on both nodes, begun anew when their container was."""

    def __init__(self, scene, vips):
        self.scene, self.vips, self.callers, self.ended = scene, vips, {}, []
        for node in NODES:
            self.begin(node)
        self.outside, self.datagrams = [], Datagrams()
        for node, own in OWN.items():
            on("client", "ip", "address", "add", f"{own}/24", "dev", "eth0")
            places = ",".join(f"{ADDRESSES[node]}:{port}" for port in SERVICES.values())
            self.outside.append(Caller(scene, OUTSIDE, places, ",".join(SERVICES), RATE, own=[own], traced=scene.doorway(node)[0]))

    def begin(self, node):
        vips, names = ",".join(self.vips.values()), ",".join(self.vips)
        self.callers[node] = Caller(self.scene, self.scene.askers[node], vips, names, RATE)

    def look(self):
        """An asker that died with its engine is started again. Whether all of them run and call."""
        whole = True
        for node in NODES:
            said = docker(node, "inspect -f '{{.State.Running}} {{.State.Pid}}' asker", check=False).split()
            whole &= said == ["true", str(self.scene.askers[node])]
            if len(said) == 2 and said[0] == "false":
                docker(node, "start asker", check=False)
            elif len(said) == 2 and int(said[1]) != self.scene.askers[node]:
                self.ended.append(self.callers[node].end())
                self.scene.askers[node] = int(said[1])
                self.begin(node)
        return whole

    def end(self):
        self.datagrams.end()
        return [*self.ended, *(it.end() for it in [*self.callers.values(), *self.outside])]


class Datagrams(threading.Thread):
    """Asks every published port of every node from outside by UDP, a few times a second."""

    def __init__(self):
        super().__init__(daemon=True)
        self.over, self.answers, self.wrong, self.silent = False, 0, 0, 0
        self.start()

    def run(self):
        while not self.over:
            for name, port in SERVICES.items():
                for address in ADDRESSES.values():
                    found = asked(OUTSIDE, "UDP", address, port, name, 1)
                    self.answers += found.answered()
                    self.wrong += found.others.get("wrong", 0)
                    self.silent += not found.answered() and not found.refused
            time.sleep(0.3)

    def end(self):
        self.over = True
        self.join(30)


def churn(run):
    """MINUTES=30; SEED chooses another course of events."""
    scene = Scene(run)
    vips = {name: scene.service(name, 3, "--replicas-max-per-node 6 --restart-delay 1s --update-failure-action continue",
                                f"--publish {port}:8080 --publish {port}:8080/udp", ports=TARGETS) for name, port in SERVICES.items()}
    time.sleep(2)
    world = World(scene, random.Random(int(os.environ.get("SEED", "1"))))
    load, begun = Load(scene, vips), time.time()
    between(world, load, begun + WARM)
    first = rest(scene, load)
    # From here on the manager's lives, so that what grows in it shows.
    world.mortal = ("node2",)
    print(f"at rest after {(time.time() - begun) / 60:.1f} minutes", flush=True)
    most = between(world, load, begun + MINUTES * 60)
    last = rest(scene, load)
    print(f"{(time.time() - begun) / 60:.1f} minutes: " + ", ".join(f"{n} x {what}" for what, n in sorted(world.count.items())))
    fine = answers(load)
    fine &= grown(first, most, last)
    for node in NODES:
        ours = scene.lab.portolans[node]
        done = subprocess.run([*ours.base, "verify"], env=ours.env, capture_output=True, text=True)
        fine &= done.returncode == 0
        print(f"verify on {node}: exit {done.returncode}{'  ok' if not done.returncode else '  NO'}\n{done.stdout}{done.stderr}")
    return fine


def between(world, load, end):
    """Lets things happen until then; gives the most of everything that was seen meanwhile."""
    most, seen = {}, 0
    while time.time() < end:
        world.step()
        load.look()
        if time.time() > seen + 15:
            seen = time.time()
            for node, values in sample(world.scene).items():
                known = most.setdefault(node, {})
                known |= {key: max(value, known.get(key, 0)) for key, value in values.items()}
        time.sleep(world.chance.uniform(0.2, 3))
    return most


def rest(scene, load):
    """Waits until every service is as it was in the beginning, for everybody; what there is then."""
    for name in SERVICES:
        docker("node1", f"service update -d --replicas 3 --publish-rm 8081 --label-add portolan.vip.affinity=none {name}", check=False)
    wait(load.look, "the askers", 120)
    time.sleep(2)
    state = lambda name: docker("node1", f"service inspect -f '{{{{with .UpdateStatus}}}}{{{{.State}}}}{{{{end}}}}' {name}")
    for name in SERVICES:
        wait(lambda: state(name) not in ("updating", "rollback_started"), f"update of {name}", 180)
        scene.settled(name, 3)
    for name, port in SERVICES.items():
        for address in ADDRESSES.values():
            wait(lambda: asked(OUTSIDE, "TCP", address, port, name, 1).answered(), f"{name} through {address}", 30)
    # Tasks that were replaced have ten seconds to stop, what they held is cut, and DNS forgets.
    time.sleep(15)
    return sample(scene)


def answers(load):
    callers = load.end()
    wrong = [it for caller in callers for it in caller.failures if it[2] == "wrong"]
    for what, some in (("by VIPs", [it for it in callers if it not in load.outside]), ("by published ports", load.outside)):
        kinds = {}
        for caller in some:
            for it in caller.failures:
                kinds[it[2]] = kinds.get(it[2], 0) + 1
        print(f"{what}: {sum(it.values.get('count', 0) for it in some):.0f} connections; failed, of tasks that were killed and nodes that went: {kinds}")
    udp = load.datagrams
    print(f"by published ports, UDP: {udp.answers} answers, {udp.silent} times none; wrong answers of all kinds {len(wrong) + udp.wrong} {wrong[:5]}"
          f"{'  NO' if wrong or udp.wrong else '  ok'}")
    return not wrong and not udp.wrong


# How much more may be there at the second rest than at the first, on both nodes together: which tasks are on which node is the
# managers' choice. Chains for a number of tasks stay once there was that number; a connection's entry stays for two minutes.
ROOM = {"rules, lines": 160, "flows": 20_000, "descriptors": 16, "MiB": 12, "threads": 16}


def grown(first, most, last):
    fine = True
    print(f"  {'':22}        at rest -> at rest, the most between them")
    for key in first["node1"]:
        room = next((it for what, it in ROOM.items() if key.endswith(what)), 4)
        good = sum(last[node][key] for node in NODES) <= sum(first[node][key] for node in NODES) + room
        fine &= good
        print(f"  {key:22} " + "   ".join(f"{node} {first[node][key]:6.0f} -> {last[node][key]:6.0f}, {most[node][key]:6.0f}" for node in NODES)
              + ("  ok" if good else "  NO"))
    return fine
