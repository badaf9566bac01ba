"""A service that is updated and scaled, at 200 new connections a second through its VIP: none may fail."""
import os, time

from lab import NODES, docker, on, sh, wait
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
