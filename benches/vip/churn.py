"""Minutes of chance: services scaled, tasks killed, containers connected and disconnected, labels changed, engines restarted,
portolans killed, all under load. Nobody may ever be answered by somebody else, and nothing may grow."""
import os, random, re, signal, statistics, subprocess, time

from lab import NODES, docker, inside, on, wait
from life import Engine
from scene import NETWORK, Caller, Scene

MINUTES = float(os.environ.get("MINUTES", "30"))
# What counts as growth begins after this; shorter runs give a third of their time.
WARM = min(300, MINUTES * 60 / 3)
SERVICES = ("red", "green", "blue")
RATE = 30


class World:
    """What may happen, and what has."""

    def __init__(self, scene, chance):
        self.scene, self.chance, self.count = scene, chance, {}
        self.engines = {}
        self.guests = 0

    def scale(self):
        docker("node1", f"service scale -d {self.chance.choice(SERVICES)}={self.chance.randint(1, 6)}", check=False)

    def kill(self):
        node, name = self.chance.choice(NODES), self.chance.choice(SERVICES)
        tasks = self.scene.containers(node, name)
        if tasks:
            docker(node, f"kill -s {self.chance.choice(['KILL', 'TERM'])} {self.chance.choice(tasks)}", check=False)

    def label(self):
        docker("node1", f"service update -d --label-add portolan.vip.affinity={self.chance.choice(['client', 'none'])} "
                        f"{self.chance.choice(SERVICES)}", check=False)

    def force(self):
        docker("node1", f"service update -d --force {self.chance.choice(SERVICES)}", check=False)

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
        self.scene.replace(self.chance.choice(NODES), self.scene.run.program, self.chance.choice([signal.SIGKILL, signal.SIGTERM]))

    def engine(self):
        """The worker's engine ends and starts again: its containers with it, the askers too."""
        engine = self.engines.setdefault("node2", Engine("node2"))
        engine.stop(signal.SIGTERM)
        engine.start()

    def step(self):
        what = self.chance.choices([self.scale, self.kill, self.label, self.force, self.guest, self.portolan, self.engine],
                                   [8, 8, 4, 2, 6, 1.5, 0.5])[0]
        self.count[what.__name__] = self.count.get(what.__name__, 0) + 1
        what()


def sample(scene):
    """What may grow, node by node: (descriptors, MiB, tables in the asker's namespace, rules' lines, routes)."""
    found = {}
    for node in NODES:
        portolan = scene.lab.portolans[node]
        descriptors, _threads, resident = portolan.holds()
        asker = scene.askers[node]
        tables = inside(asker, "nft", "list", "ruleset", check=False)
        found[node] = {
            "descriptors": descriptors, "MiB": resident, "tables": len(re.findall(r"^table", tables, re.M)),
            "lines": len(tables.splitlines()), "routes": len(inside(asker, "ip", "route", check=False).splitlines()),
            "host tables": len(on(node, "nft", "list", "tables", check=False).splitlines()),
            "host rules": len(on(node, "ip", "rule", check=False).splitlines()),
        }
    return found


class Load:
    """Callers on both nodes, begun anew when their container was."""

    def __init__(self, scene, vips):
        self.scene, self.vips, self.callers, self.ended = scene, vips, {}, []
        for node in NODES:
            self.begin(node)

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
        return [*self.ended, *(it.end() for it in self.callers.values())]


def growth(samples, key):
    """Median after the warm-up of the first and of the last quarter, by node."""
    late = [it for at, it in samples if at >= WARM]
    quarter = max(1, len(late) // 4)
    return {node: tuple(statistics.median(it[node][key] for it in part) for part in (late[:quarter], late[-quarter:])) for node in NODES}


def churn(run):
    """MINUTES=30; SEED chooses another course of events."""
    scene = Scene(run)
    vips = {name: scene.service(name, 3, "--replicas-max-per-node 6", "--restart-delay 1s") for name in SERVICES}
    time.sleep(2)
    world = World(scene, random.Random(int(os.environ.get("SEED", "1"))))
    load, samples, begun = Load(scene, vips), [], time.time()
    while (at := time.time() - begun) < MINUTES * 60:
        world.step()
        load.look()
        if not samples or at - samples[-1][0] >= 15:
            samples.append((at, sample(scene)))
        time.sleep(world.chance.uniform(0.2, 3))
    print(f"{(time.time() - begun) / 60:.1f} minutes: " + ", ".join(f"{n} x {what}" for what, n in sorted(world.count.items())))
    for name in SERVICES:
        docker("node1", f"service scale -d {name}=3", check=False)
    wait(load.look, "the askers")
    for name in SERVICES:
        scene.settled(name, 3)
    time.sleep(5)
    samples.append((time.time() - begun, sample(scene)))
    callers = load.end()
    wrong = [it for caller in callers for it in caller.failures if it[2] == "wrong"]
    kinds = {}
    for caller in callers:
        for it in caller.failures:
            kinds[it[2]] = kinds.get(it[2], 0) + 1
    print(f"{sum(it.values.get('count', 0) for it in callers):.0f} connections; failed, of tasks that were killed and nodes that went: {kinds}; "
          f"wrong answers {len(wrong)} {wrong[:5]}")
    fine = not wrong
    for key in samples[0][1]["node1"]:
        grown = growth(samples, key)
        # A tenth more, or four, is the ups and downs of what runs at the moment.
        good = all(last <= first * 1.1 + 4 for first, last in grown.values())
        fine &= good
        print(f"{key:12} " + ", ".join(f"{node} {first:.0f} -> {last:.0f}" for node, (first, last) in grown.items()) + ("  ok" if good else "  NO"))
    for node in NODES:
        ours = scene.lab.portolans[node]
        done = subprocess.run([*ours.base, "verify"], env=ours.env, capture_output=True, text=True)
        fine &= done.returncode == 0
        print(f"verify on {node}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return fine
