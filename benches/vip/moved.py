"""A UDP client that keeps its source port; the task that answers it is killed."""
import re, socket, time

from lab import NODES, docker, enter, inside
from places import elsewhere
from scene import PORT, Scene

OWN_PORT, PAUSE = 5555, 0.02


def talk(scene, node, vip):
    """Kills who answers; gives (who answered before, its address, seconds until another did, who, lost meanwhile)."""
    def ask():
        enter(scene.askers[node])
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("0.0.0.0", OWN_PORT))
        sock.settimeout(PAUSE)
        return sock
    sock = elsewhere(ask)

    def who():
        try:
            sock.sendto(b"who", (vip, PORT))
            return sock.recv(512).decode().split()[1]
        except OSError:
            return None
    before = None
    for _ in range(50):
        before = who() or before
        time.sleep(PAUSE)
    home = before.split(".")[-1]
    container = next(it for it in scene.containers(home, "shown")
                     if docker(home, f"inspect -f {{{{.Config.Hostname}}}} {it}") == before)
    address = docker(home, f"inspect -f '{{{{(index .NetworkSettings.Networks \"shown\").IPAddress}}}}' {container}")
    docker(home, f"kill -s KILL {container}")
    killed, lost = time.time(), 0
    while (after := who()) in (None, before) and time.time() < killed + 15:
        lost += after is None
        time.sleep(PAUSE)
    took = time.time() - killed
    for _ in range(50):
        who()
        time.sleep(PAUSE)
    sock.close()
    return before, address, took, after, lost


def moved(run):
    scene, fine = Scene(run), True
    vip = scene.service("shown", 4, "--replicas-max-per-node 2")
    for node in NODES:
        for _ in range(3):
            before, address, took, after, lost = talk(scene, node, vip)
            table = inside(scene.askers[node], "conntrack", "-L", "-p", "udp", check=False)
            left = [it for it in table.splitlines() if re.search(rf"src={re.escape(address)}\b", it)]
            good = after not in (None, before) and took < 1 and not left
            fine &= good
            print(f"from {node}: {before} ({address}) killed; {after} answered {took * 1000:.0f} ms later, {lost} datagrams lost; "
                  f"{len(left)} entries to the dead one {'ok' if good else 'NO'}", flush=True)
            for it in left:
                print(f"    {it}")
            scene.settled("shown", 4)
    return fine
