"""A service that is updated, scaled and bereft of a node, at 200 new connections a second through its VIP: none may fail."""
import os, signal, time

from lab import NODES, docker, on, sh, wait
from life import Engine
from scene import Caller, Lives, Scene, report

RATE = 100
NAME = "shown"
PUBLISHED = 8000
ADDRESSES = {"node1": "10.214.0.1", "node2": "10.214.0.2"}


def phase(begin, lives, what, act):
    """Calls of whom `begin` starts while `act` goes on, and three seconds after; gives how many failed."""
    begun = time.time()
    callers = begin()
    time.sleep(1)
    said = act()
    time.sleep(3)
    for it in callers.values():
        it.end()
    print(f"{what}: {said or ''} {time.time() - begun:.0f} s", flush=True)
    return report(callers, lives, begun)


def changes(scene, name=NAME):
    """(what, how) of everything that happens to a service in a day."""
    def force(order):
        def act():
            docker("node1", f"service update -d --force --update-order {order} --update-parallelism 1 --update-delay 1s {name}")
            time.sleep(1)
            return scene.updated(name)
        return act

    def scale(replicas):
        def act():
            docker("node1", f"service scale -d {name}={replicas}")
            scene.settled(name, replicas)
            # Those that leave have two seconds before they are told to stop, and some to end.
            time.sleep(5)
        return act
    return [("update --force, stop-first", force("stop-first")), ("update --force, start-first", force("start-first")),
            ("scaled 4 -> 12", scale(12)), ("scaled 12 -> 2", scale(2)), ("scaled 2 -> 4", scale(4))]


def rolling(run):
    """LATE=1: tasks listen on for a second after SIGTERM, and say so: nobody may come by then."""
    scene = Scene(run)
    vip = scene.service(NAME, 4, "--replicas-max-per-node 8", late=int(os.environ.get("LATE", "0")))
    return course(scene, lambda: {node: Caller(scene, scene.askers[node], vip, NAME, RATE) for node in NODES})


def course(scene, begin):
    lives = {node: Lives(node) for node in NODES}
    time.sleep(2)
    bad = sum(phase(begin, lives, what, act) for what, act in changes(scene))
    for it in lives.values():
        it.end()
    return not bad


def through_mesh(run):
    """The same from outside, by a published port of each node."""
    scene = Scene(run)
    scene.service(NAME, 4, "--replicas-max-per-node 8", f"--publish {PUBLISHED}:8080", late=int(os.environ.get("LATE", "0")))
    client = "/run/netns/plab-client"
    # Two clients: tasks see their own addresses, so one client's port would come from both nodes as the same connection.
    own = {"node1": "10.214.0.101", "node2": "10.214.0.102"}
    for address in own.values():
        on("client", "ip", "address", "add", f"{address}/24", "dev", "eth0")
    wait(lambda: all("200 OK" in sh("nsenter", f"--net={client}", "curl", "-s", "-i", "-m", "2", f"http://{it}:{PUBLISHED}/", check=False)
                     for it in ADDRESSES.values()), "the mesh of both nodes")
    return course(scene, lambda: {f"outside, through {node}": Caller(scene, client, address, NAME, RATE, port=PUBLISHED, own=[own[node]],
                                                                             traced=scene.doorway(node)[0])
                                  for node, address in ADDRESSES.items()})


def engine_killed(run):
    """The worker's engine is killed; its containers run on, and the manager hears of it in its own time."""
    scene = Scene(run)
    vip = scene.service(NAME, 4, "--replicas-max-per-node 4")
    caller = Caller(scene, scene.askers["node1"], vip, NAME, RATE)
    # Who answers, and when: the caller counts only.
    seen = []
    ask = lambda: sh("nsenter", f"--net=/proc/{scene.askers['node1']}/ns/net", "curl", "-s", "-m", "2", f"http://{vip}:8080/", check=False)
    engine = Engine("node2")
    time.sleep(2)
    engine.stop(signal.SIGKILL)
    killed, known = time.time(), None
    while time.time() < killed + 60:
        if said := ask():
            seen.append((time.time(), said.split()[1]))
        if not known and len(seen) % 5 == 0 and "Down" in docker("node1", "node ls --format {{.Status}}"):
            known = time.time()
        if known and time.time() > known + 8:
            break
        time.sleep(0.03)
    caller.end()
    last = max((at for at, host in seen if host.endswith("node2")), default=killed)
    print(f"node2 is down by the manager {known - killed if known else float('nan'):.1f} s after its engine was killed; its tasks answered "
          f"until {last - killed:.1f} s after")
    report({"node1": caller}, {}, killed)
    engine.start()
    return bool(known) and last < known + 2 and not caller.failures
