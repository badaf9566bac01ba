"""A node, or a task, that is there no more for anybody but itself: how long it is still called, by a VIP and through the mesh."""
import json, os, signal, threading, time

from lab import NODES, docker, on, sh, wait
from life import Engine
from rolling import ADDRESSES
from scene import Caller, Scene, report

NAME, RATE, PUBLISHED = "shown", 100, 8000
OWN = "10.214.0.101"
CHECK = "--label portolan.health.{} --label portolan.health.interval=1s --label portolan.health.timeout=1s --label portolan.health.fall=2"


class Verdicts(threading.Thread):
    """When node1's portolan first said of each task that it does not serve, and why."""

    def __init__(self, scene):
        super().__init__(daemon=True)
        self.portolan, self.seen, self.over = scene.lab.portolans["node1"], {}, False
        self.start()

    def run(self):
        while not self.over:
            try:
                tasks = json.loads(self.portolan.say("ls", "tasks", "--json"))
            except ValueError:
                continue
            for it in tasks["rows"]:
                if it["state"] != "serving":
                    self.seen.setdefault(it["name"], (time.time(), f"{it['state']}, {it['reason']}"))
            time.sleep(0.05)

    def end(self):
        self.over = True
        self.join()


def callers(scene, vip):
    """From a container of node1, and from outside through node1."""
    wait(lambda: "200 OK" in sh("nsenter", "--net=/run/netns/plab-client", "curl", "-s", "-i", "-m", "2",
                                f"http://{ADDRESSES['node1']}:{PUBLISHED}/", check=False), "the mesh")
    return {"node1": Caller(scene, scene.askers["node1"], vip, NAME, RATE),
            "outside, through node1": Caller(scene, "/run/netns/plab-client", ADDRESSES["node1"], NAME, RATE, port=PUBLISHED,
                                             own=[OWN], traced=scene.doorway("node1")[0])}


def judge(what, begun, verdicts, called, whose, known=None):
    """Nobody may call them later than two seconds after it was said that they are gone."""
    said = [it for name, it in verdicts.seen.items() if whose(name)]
    first, why = min(said, default=(float("nan"), "nobody said so"))
    limit = min(it for it in (first, known) if it) + 2 if said or known else begun
    late = {name: [it for it in caller.failures if it[0] > limit] for name, caller in called.items()}
    print(f"{what}: said after {first - begun:.1f} s ({why})" + (f", by the manager after {known - begun:.1f} s" if known else ""))
    report(called, {}, begun, 4)
    fine = bool(said) and not any(late.values())
    print(f"  of them later than 2 s after that: { {name: len(it) for name, it in late.items()} } {'ok' if fine else 'NO'}", flush=True)
    return fine


def node2(scene):
    return {docker("node2", f"inspect -f {{{{.Name}}}} {it}").lstrip("/") for it in scene.containers("node2", NAME)}


def engine_killed(scene, vip, called):
    """The worker's engine is killed; its containers run on, and the manager hears of it in its own time."""
    verdicts, theirs, engine = Verdicts(scene), node2(scene), Engine("node2")
    # Who answers, and when: the callers count only.
    seen = []
    ask = lambda: sh("nsenter", f"--net=/proc/{scene.askers['node1']}/ns/net", "curl", "-s", "-m", "2", f"http://{vip}:8080/", check=False)
    time.sleep(2)
    engine.stop(signal.SIGKILL)
    killed, known = time.time(), None
    while time.time() < killed + 60 and not (known and time.time() > known + 6):
        if said := ask():
            seen.append((time.time(), said.split()[1]))
        if not known and "Down" in docker("node1", "node ls --format {{.Status}}"):
            known = time.time()
        time.sleep(0.03)
    for it in [*called.values(), verdicts]:
        it.end()
    last = max((at for at, host in seen if host.endswith("node2")), default=killed)
    print(f"node2's tasks answered until {last - killed:.1f} s after its engine was killed")
    first = min((it[0] for name, it in verdicts.seen.items() if name in theirs), default=None)
    fine = judge("node2's engine killed", killed, verdicts, called, theirs.__contains__, known)
    engine.start()
    return fine and bool(known) and last < min(it for it in (first, known) if it) + 2


def unplugged(scene, called):
    """The worker is off the net: nothing comes back from its tasks, and nobody says so."""
    verdicts, theirs = Verdicts(scene), node2(scene)
    time.sleep(2)
    on("node2", "ip", "link", "set", "eth0", "down")
    begun = time.time()
    time.sleep(16)
    for it in [*called.values(), verdicts]:
        it.end()
    on("node2", "ip", "link", "set", "eth0", "up")
    return judge("node2 unplugged, portolan.health.tcp", begun, verdicts, called, theirs.__contains__)


def hung(scene, called):
    """A task of the other node takes connections and answers none of them."""
    verdicts, container = Verdicts(scene), scene.containers("node2", NAME)[0]
    whose = docker("node2", f"inspect -f {{{{.Name}}}} {container}").lstrip("/")
    time.sleep(2)
    docker("node2", f"kill -s STOP {container}")
    begun = time.time()
    time.sleep(12)
    docker("node2", f"kill -s CONT {container}")
    time.sleep(6)
    for it in [*called.values(), verdicts]:
        it.end()
    return judge("a task stopped (SIGSTOP), portolan.health.http", begun, verdicts, called, whose.__eq__)


def killed(run):
    scene = Scene(run)
    on("client", "ip", "address", "add", f"{OWN}/24", "dev", "eth0")
    publish = f"--publish {PUBLISHED}:8080"
    vip = scene.service(NAME, 4, "--replicas-max-per-node 2", publish, CHECK.format("http=8080/"), health="--no-healthcheck")
    fine = hung(scene, callers(scene, vip))
    docker("node1", f"service update -d --label-rm portolan.health.http --label-add portolan.health.tcp=8080 {NAME}")
    time.sleep(3)
    scene.settled(NAME, 4)
    fine &= unplugged(scene, callers(scene, vip))
    wait(lambda: docker("node1", "node ls --format {{.Status}}").split() == ["Ready", "Ready"], "node2", 90)
    docker("node1", "service update -d --force " + NAME)
    time.sleep(2)
    scene.updated(NAME)
    scene.settled(NAME, 4)
    time.sleep(3)
    return engine_killed(scene, vip, callers(scene, vip)) and fine
