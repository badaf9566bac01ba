"""A service's port, TCP and UDP, on both nodes: from outside, from the nodes, from containers, over IPv6; where it is to be had
by label; and one of its ports moved while another is called."""
import os, subprocess, time

from asked import asked
from lab import NODES, docker, on, sh, wait
from rolling import ADDRESSES
from scene import Caller, Lives, Scene, report

NAME, PUBLISHED = "shown", 8000
OUTSIDE, CLIENT = "/run/netns/plab-client", "10.214.0.100"
CLIENT6 = "fd00:214::64"
ADDRESSES6 = {"node1": "fd00:214::1", "node2": "fd00:214::2"}
CONF = "/proc/sys/net/ipv4/conf"


def host(node):
    return f"/run/netns/plab-{node}"


def row(what, found, fine):
    print(f"  {what:52} {found}  {'ok' if fine else 'NO'}", flush=True)
    return fine


def everybody(what, place, address, peer, kinds=("TCP", "UDP"), port=PUBLISHED, tasks=4):
    """All tasks answer at that address and see `peer`."""
    fine = True
    for kind in kinds:
        found = asked(place, kind, address, port, NAME)
        good = len(found.hosts) == tasks and not found.others and not found.refused and found.peers == {peer}
        fine &= row(f"{kind} {what}", found, good)
    return fine


def nobody(what, place, address, port=PUBLISHED, kinds=("TCP", "UDP")):
    """Refused at once, every time."""
    fine = True
    for kind in kinds:
        # The kernel tells one client of six refused datagrams at once, then of one a second (icmp_ratelimit).
        count = 10 if kind == "TCP" else 4
        found = asked(place, kind, address, port, NAME, count)
        fine &= row(f"{kind} {what}", found, found.refused == count and found.worst < 0.5)
    return fine


def from_everywhere(scene):
    fine = True
    doorways = {node: scene.doorway(node)[1] for node in NODES}
    for node in NODES:
        fine &= everybody(f"from outside through {node}", OUTSIDE, ADDRESSES[node], CLIENT)
        fine &= everybody(f"from outside through {node}, IPv6", OUTSIDE, ADDRESSES6[node], doorways[node])
        # What has no address that a task could answer is seen as the node's end of the ingress network.
        for address, seen in (("127.0.0.1", doorways[node]), ("::1", doorways[node]), (ADDRESSES[node], ADDRESSES[node]),
                              (ADDRESSES6[node], doorways[node])):
            fine &= everybody(f"on {node}, to {address}", host(node), address, seen)
        other = next(it for it in NODES if it != node)
        fine &= everybody(f"on {node}, through {other}", host(node), ADDRESSES[other], ADDRESSES[node])
        asker = f"/proc/{scene.askers[node]}/ns/net"
        fine &= everybody(f"from a container of {node}, through {node}", asker, ADDRESSES[node], doorways[node])
        fine &= everybody(f"from a container of {node}, through {other}", asker, ADDRESSES[other], ADDRESSES[node])
    return fine


def places(scene):
    """The namespaces that published ports lead through: nodes, doorways, tasks."""
    found = {}
    for node in NODES:
        found[node] = host(node)
        found[f"ingress_sbox of {node}"] = scene.doorway(node)[0]
        for number, it in enumerate(scene.containers(node, NAME), 1):
            found[f"task {number} on {node}"] = f"/proc/{docker(node, f'inspect -f {{{{.State.Pid}}}} {it}')}/ns/net"
    return found


def strict(scene, value):
    """rp_filter of all interfaces everywhere."""
    for place in places(scene).values():
        sh("nsenter", f"--net={place}", "sh", "-c", f"for it in {CONF}/*/rp_filter; do echo {value} >$it; done")


def filters(scene):
    """rp_filter by place, where it is not 0."""
    found = {}
    for name, place in places(scene).items():
        said = sh("nsenter", f"--net={place}", "grep", "-H", ".", *("-r", CONF, "--include=rp_filter"))
        values = {it.split("/")[6]: it.rpartition(":")[2] for it in said.splitlines()}
        found[name] = " ".join(f"{it}={value}" for it, value in sorted(values.items()) if value != "0") or "none"
    return found


def families(scene):
    for node, address in {**ADDRESSES6, "client": CLIENT6}.items():
        on(node, "ip", "address", "add", f"{address}/64", "dev", "eth0", "nodad")


def reachable(port=PUBLISHED):
    for node, address in ADDRESSES.items():
        wait(lambda: asked(OUTSIDE, "TCP", address, port, NAME, 1).answered(), f"port {port} through {node}", 30)


def leave(scene):
    """Ends both portolans, and has everything put back; of the whole machine, so CLEANUP=0 where others work with portolan."""
    for node in NODES:
        ours = scene.lab.portolans.pop(node)
        ours.process.terminate()
        ours.process.wait()
        if os.environ.get("CLEANUP") == "0":
            continue
        done = subprocess.run([*ours.base, "cleanup"], env=ours.env, capture_output=True, text=True)
        print(f"  cleanup on {node}: exit {done.returncode} {done.stdout.strip().splitlines()[-1:]} {done.stderr.strip()}")


def published(run):
    scene = Scene(run, start=False)
    families(scene)
    scene.service(NAME, 4, "--replicas-max-per-node 2", f"--publish {PUBLISHED}:8080 --publish {PUBLISHED}:8080/udp")
    print("rp_filter=1 everywhere before portolan starts:")
    strict(scene, 1)
    before = filters(scene)
    scene.lab.portolan()
    scene.settled(NAME, 4)
    reachable()
    fine = from_everywhere(scene)
    for it, value in filters(scene).items():
        print(f"    rp_filter in {it}: {value}")
    leave(scene)
    after = filters(scene)
    if os.environ.get("CLEANUP") != "0":
        fine &= row("rp_filter after cleanup", {it: after[it] for it in after if after[it] != before[it]} or "as before", after == before)
    print("rp_filter=0 everywhere:")
    strict(scene, 0)
    scene.lab.portolan()
    scene.settled(NAME, 4)
    reachable()
    fine &= from_everywhere(scene)
    docker("node1", f"service rm {NAME}")
    fine &= bound(scene)
    return republished(scene) and fine


def label(value):
    # The engines of workers tell no service's labels, but their own containers'.
    return f"--label portolan.mesh.bind={value} --container-label portolan.mesh.bind={value}"


def bound(scene):
    """By an inner address of one node, and by an interface of both."""
    print("portolan.mesh.bind:")
    inner, port, fine = "10.214.9.1", PUBLISHED + 1, True
    on("node1", "ip", "address", "add", f"{inner}/32", "dev", "lo")
    on("client", "ip", "route", "add", f"{inner}/32", "via", ADDRESSES["node1"])
    publish = f"--publish {port}:8080 --publish {port}:8080/udp"
    scene.service("shown", 4, "--replicas-max-per-node 2", publish, label(inner))
    wait(lambda: asked(OUTSIDE, "TCP", inner, port, NAME, 1).answered(), "the inner address", 30)
    time.sleep(2)
    fine &= everybody(f"bound to {inner}: there", OUTSIDE, inner, CLIENT, port=port)
    fine &= everybody("the same on node1 itself", host("node1"), inner, inner, port=port)
    fine &= nobody("at another address of node1", OUTSIDE, ADDRESSES["node1"], port)
    fine &= nobody("at 127.0.0.1 of node1", host("node1"), "127.0.0.1", port)
    fine &= nobody("at ::1 of node1", host("node1"), "::1", port)
    fine &= nobody("at another address of node1, IPv6", OUTSIDE, ADDRESSES6["node1"], port)
    fine &= nobody("through node2", OUTSIDE, ADDRESSES["node2"], port)
    fine &= nobody("through node2, from its container", f"/proc/{scene.askers['node2']}/ns/net", ADDRESSES["node2"], port)
    docker("node1", f"service rm {NAME}")
    port += 1
    publish = f"--publish {port}:8080 --publish {port}:8080/udp"
    wait(lambda: not docker("node1", "ps -q -f label=com.docker.swarm.service.name=shown"), "its end", 60)
    scene.service("shown", 4, "--replicas-max-per-node 2", publish, label("eth0"))
    for node in NODES:
        wait(lambda: asked(OUTSIDE, "TCP", ADDRESSES[node], port, NAME, 1).answered(), "the interface", 30)
    time.sleep(2)
    for node in NODES:
        fine &= everybody(f"bound to eth0: through {node}", OUTSIDE, ADDRESSES[node], CLIENT, port=port)
        fine &= nobody(f"at 127.0.0.1 of {node}", host(node), "127.0.0.1", port)
    docker("node1", f"service rm {NAME}")
    return fine


RATE = 25
STAYS, LEAVES, COMES = PUBLISHED + 10, PUBLISHED + 11, PUBLISHED + 12


def republished(scene):
    """One port stays and is called 50 times a second, through both nodes; others come and go."""
    print("service update --publish-rm, --publish-add:")
    # The port that goes has a target of its own: `--publish-rm` names the target.
    scene.service(NAME, 4, "--replicas-max-per-node 4", f"--publish {STAYS}:8080 --publish {LEAVES}:8081 --update-delay 1s", ports="8080,8081,8082")
    for port in (STAYS, LEAVES):
        reachable(port)
    own = {"node1": "10.214.0.101", "node2": "10.214.0.102"}
    for address in own.values():
        on("client", "ip", "address", "add", f"{address}/24", "dev", "eth0")
    lives, fine = {node: Lives(node) for node in NODES}, True
    for order in ("stop-first", "start-first"):
        for remove, add in (((LEAVES, 8081), (COMES, 8082)), ((COMES, 8082), (LEAVES, 8081))):
            # A worker hears of an update by its tasks only, and takes one that came shortly before for a new one.
            time.sleep(16)
            fine &= moved_port(scene, lives, own, order, remove, add)
    for it in lives.values():
        it.end()
    return fine


def moved_port(scene, lives, own, order, remove, add):
    begun = time.time()
    callers = {f"outside, through {node}": Caller(scene, OUTSIDE, address, NAME, RATE, port=STAYS, own=[own[node]], traced=scene.doorway(node)[0])
               for node, address in ADDRESSES.items()}
    time.sleep(1)
    told = time.time()
    docker("node1", f"service update -d --update-order {order} --publish-rm {remove[1]} --publish-add {add[0]}:{add[1]} {NAME}")
    came, gone, silent = {}, {}, 0
    while time.time() < told + 120 and len(came) + len(gone) < 4:
        for node, address in ADDRESSES.items():
            if node not in came:
                found = asked(OUTSIDE, "TCP", address, add[0], NAME, 1)
                # Tasks from before the update drop what comes to the new target: nobody may be led there.
                silent += bool(found.others)
                if found.answered():
                    came[node] = time.time() - told
            if node not in gone and asked(OUTSIDE, "TCP", address, remove[0], NAME, 1).refused:
                gone[node] = time.time() - told
        time.sleep(0.05)
    ended = scene.updated(NAME)
    over = time.time() - told
    time.sleep(2)
    for it in callers.values():
        it.end()
    print(f"  {order}: port {remove[0]} -> {add[0]}, {ended} after {over:.0f} s; the new one answered after "
          f"{ {node: round(it, 1) for node, it in came.items()} } s, until then {silent} times nobody said anything; the old one refused after { {node: round(it, 1) for node, it in gone.items()} } s")
    fine = len(came) == len(gone) == 2 and not silent
    for node, address in ADDRESSES.items():
        fine &= everybody(f"port {add[0]} through {node}", OUTSIDE, address, CLIENT, ("TCP",), add[0])
        fine &= nobody(f"port {remove[0]} through {node}", OUTSIDE, address, remove[0], ("TCP",))
    return not report(callers, lives, begun) and fine
