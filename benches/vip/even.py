"""A service of four tasks on two nodes, called by its VIP from containers of both: who answers, and what he sees."""
import re, socket, statistics, time

from lab import NODES, docker, enter, inside
from scene import PORT, Caller, Scene
from places import elsewhere

CALLS = 400


def datagrams(process, vip, count=CALLS):
    """Who answers datagrams of as many sockets, and whom they say they see."""
    def ask():
        enter(process)
        hosts, peers, lost = {}, set(), 0
        for _ in range(count):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(2)
                sock.connect((vip, PORT))
                try:
                    sock.send(b"who")
                    _name, host, peer, _state = sock.recv(512).decode().split()
                except OSError:
                    lost += 1
                    continue
                hosts[host] = hosts.get(host, 0) + 1
                peers.add(peer.split(":")[0])
        return hosts, peers, lost
    return elsewhere(ask)


def refusals(process, vip, count=50):
    """How long a connect takes to be refused, in ms; what else happened."""
    def ask():
        enter(process)
        times, others = [], []
        for _ in range(count):
            with socket.socket() as sock:
                sock.settimeout(2)
                begun = time.perf_counter()
                try:
                    sock.connect((vip, PORT))
                    others.append("connected")
                except ConnectionRefusedError:
                    times.append((time.perf_counter() - begun) * 1000)
                except OSError as error:
                    others.append(str(error))
        return times, others
    return elsewhere(ask)


def row(what, hosts, extra, fine):
    shares = " ".join(f"{it}={hosts[it]}" for it in sorted(hosts))
    print(f"{what:44} {shares}; {extra}  {'ok' if fine else 'NO'}", flush=True)
    return fine


def shares(hosts, tasks=4):
    """Each within 60 to 140 of a hundred."""
    each = CALLS / tasks
    return len(hosts) == tasks and all(0.6 * each <= it <= 1.4 * each for it in hosts.values())


def called(scene, node, vips, names):
    """400 connections to each VIP, in turns where there are several."""
    return Caller(scene, scene.askers[node], ",".join(vips), ",".join(names), 200 * len(vips), CALLS / 200).end()


def even(run):
    scene = Scene(run)
    vips = {name: scene.service(name, 4, "--replicas-max-per-node 2") for name in ("shown", "other")}
    fine = True
    for node in NODES:
        own = scene.address(node)
        for names in (["shown"], ["shown", "other"]):
            caller = called(scene, node, [vips[it] for it in names], names)
            for name in names:
                hosts = caller.hosts(name)
                good = shares(hosts) and not caller.failures and caller.peers() == {own}
                fine &= row(f"TCP from {node} to {name}{', in turns' if len(names) > 1 else ''}", hosts,
                            f"failed {len(caller.failures)}, tasks see {caller.peers()} (own {own})", good)
        hosts, peers, lost = datagrams(scene.askers[node], vips["shown"])
        fine &= row(f"UDP from {node} to shown", hosts, f"lost {lost}, tasks see {peers}", shares(hosts) and not lost and peers == {own})
        said = inside(scene.askers[node], "ping", "-c", "20", "-i", "0.05", "-W", "2", vips["shown"], check=False)
        back = re.search(r"(\d+) received", said)
        fine &= row(f"ICMP echo from {node} to shown", {}, f"{back and back[1]} of 20 came back from {set(re.findall(r'from ([0-9.]+)', said))}",
                    bool(back) and back[1] == "20" and set(re.findall(r"from ([0-9.]+)", said)) == {vips["shown"]})
        name = inside(scene.askers[node], "dig", "@127.0.0.11", "+short", "-x", vips["shown"])
        fine &= row(f"dig -x VIP on {node}", {}, name, name == "shown.shown.")
    docker("node1", "service scale -d shown=0")
    scene.settled("shown", 0)
    for node in NODES:
        times, others = refusals(scene.askers[node], vips["shown"])
        middle, worst = (statistics.median(times), max(times)) if times else (0, 0)
        fine &= row(f"scaled to 0, from {node}", {}, f"refused after {middle:.3f} ms, {worst:.3f} ms at most, of {len(times)}; others {set(others)}",
                    not others and middle < 1)
        _, _, lost = datagrams(scene.askers[node], vips["shown"], 5)
        said = inside(scene.askers[node], "ping", "-c", "2", "-i", "0.2", "-W", "1", vips["shown"], check=False)
        fine &= row(f"UDP and ICMP then, from {node}", {}, f"{lost} of 5 datagrams refused, {' '.join(said.splitlines()[1:2])}",
                    lost == 5 and " 0 received" in said)
    return fine
