#!/usr/bin/env python3
"""Measures portolan on a real two-node Swarm, next to the engine's own resolver in the same run.

    sudo benches/swarm.py PORTOLAN [starts|scale]...     (LAB_ENGINE=trixie|sid for newer engines)

starts  from the engine's `network connect` event to a sandbox that answers by portolan, over 50 container starts
scale   20 changes of app between 2 and 8 tasks: from `health_status: healthy` (up) or `kill` (down) on the task's
        node to the change in `tasks.app` on the other node; a new connection per request meanwhile through the VIP
        and the router, from both nodes

It brings up the lab of tests/lab, and takes it down again. All load stays in the lab's namespaces.
"""
import calendar, ctypes, json, os, pathlib, re, signal, socket, statistics, struct, subprocess, sys, tempfile, threading, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
LAB = ROOT / "tests/lab/swarm-lab"
DIR = pathlib.Path(os.environ.setdefault("LAB_DIR", "/tmp/portolan-lab"))
NODES = ("node1", "node2")
libc = ctypes.CDLL(None, use_errno=True)


def sh(*words, check=True):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True)
    if check and done.returncode:
        sys.exit(f"{words}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def docker(node, *words, check=True):
    return sh("docker", "-H", f"unix://{DIR}/{node}/docker.sock", *words, check=check)


def enter(pid):
    """Moves the calling thread into a process's network namespace."""
    with open(f"/proc/{pid}/ns/net") as netns:
        if libc.setns(netns.fileno(), 0x40000000):
            raise OSError(ctypes.get_errno(), "setns")


class Portolan:
    def __init__(self, program, node):
        home = DIR / node
        config = (f'state_dir = "{home}/portolan"\n[sources.docker]\nendpoint = "unix://{home}/docker.sock"\n'
                  f'[admin]\nsocket = "{home}/portolan.sock"\n')
        self.log = home / "portolan.log"
        self.env = {**os.environ, "PORTOLAN_CONFIG": config}
        self.base = ["nsenter", f"--net=/run/netns/plab-{node}", program]
        self.process = subprocess.Popen([*self.base, "up"], env=self.env, stderr=open(self.log, "a"))
        wait(lambda: subprocess.run([*self.base, "status"], env=self.env, capture_output=True).returncode == 0, "portolan")


def wait(condition, what, seconds=60):
    end = time.time() + seconds
    while not condition():
        if time.time() > end:
            sys.exit(f"{what} did not come within {seconds} s")
        time.sleep(0.1)


class Events(threading.Thread):
    """The engine's events of one node as (nanoseconds, action, attributes)."""

    def __init__(self, node):
        super().__init__(daemon=True)
        self.node, self.seen = node, []
        self.process = subprocess.Popen(
            ["docker", "-H", f"unix://{DIR}/{node}/docker.sock", "events", "--format", "{{json .}}"],
            stdout=subprocess.PIPE, text=True)
        self.start()

    def run(self):
        for line in self.process.stdout:
            event = json.loads(line)
            action, about = event.get("Action", ""), event.get("Actor", {})
            record = (event["timeNano"], action, {"id": about.get("ID", ""), **about.get("Attributes", {})})
            if action == "health_status: healthy":
                record[2]["address"] = address(self.node, about["ID"])
            self.seen.append(record)


def address(node, container):
    networks = json.loads(docker(node, "inspect", "-f", "{{json .NetworkSettings.Networks}}", container, check=False) or "{}")
    return networks.get("frontend", {}).get("IPAddress", "")


def ask(sock, name, serial):
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0\0\1\0\1"
    sock.send(struct.pack(">6H", serial, 0x0100, 1, 0, 0, 0) + question)
    while True:
        reply = sock.recv(4096)
        if struct.unpack(">H", reply[:2])[0] == serial:
            break
    found, ttl, at = set(), None, 12 + len(question)
    for _ in range(struct.unpack(">H", reply[6:8])[0]):
        at += 2 if reply[at] & 0xC0 else reply.index(0, at) + 1 - at
        kind, _, ttl, length = struct.unpack(">HHIH", reply[at:at + 10])
        if kind == 1:
            found.add(socket.inet_ntoa(reply[at + 10:at + 14]))
        at += 10 + length
    return found, ttl


def bound_to_11(pid):
    lines = open(f"/proc/{pid}/net/udp").read().splitlines()[1:]
    local = [line.split()[1] for line in lines]
    return [int(it.split(":")[1], 16) for it in local if it.startswith("0B00007F")]


class Watch(threading.Thread):
    """Asks `tasks.app` every few milliseconds of one resolver in a container; keeps each change."""

    def __init__(self, pid, port):
        super().__init__(daemon=True)
        self.pid, self.port, self.changes, self.stop = pid, port, [], False
        self.start()

    def run(self):
        enter(self.pid)
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect(("127.0.0.11", self.port))
        sock.settimeout(1)
        last, serial = None, 0
        while not self.stop:
            serial = (serial + 1) % 65536
            try:
                found, _ = ask(sock, "tasks.app", serial)
            except OSError:
                continue
            if found != last:
                now = time.time_ns()
                for it in found - (last or set()):
                    self.changes.append((now, it, True))
                for it in (last or set()) - found:
                    self.changes.append((now, it, False))
                last = found
            time.sleep(0.003)

    def when(self, address, there, event):
        """Nanoseconds from the event to the change nearest to it."""
        deltas = [at - event for at, it, is_there in self.changes if it == address and is_there == there]
        near = [it for it in deltas if -5e9 < it < 5e9]
        return min(near, key=abs) if near else None


class Load(threading.Thread):
    """A new connection per request, until told to stop; keeps what failed, and when."""

    def __init__(self, name, pid, target, host):
        super().__init__(daemon=True)
        self.name_, self.pid, self.target, self.host = name, pid, target, host
        self.count, self.failed, self.stop = 0, [], False
        self.start()

    def run(self):
        if self.pid:
            enter(self.pid)
        request = f"GET /healthy HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n\r\n".encode()
        while not self.stop:
            self.count += 1
            try:
                with socket.create_connection(self.target, timeout=5) as conn:
                    conn.sendall(request)
                    answer = b""
                    while part := conn.recv(4096):
                        answer += part
                if b" 200 OK" not in answer[:20]:
                    raise OSError(answer[:200].decode(errors="replace"))
            except OSError as error:
                self.failed.append((time.time_ns(), str(error)))
            time.sleep(0.015)


def figures(values):
    values = sorted(it / 1e6 for it in values)
    if not values:
        return "none seen"
    return f"median {statistics.median(values):8.1f} ms   worst {values[-1]:8.1f} ms   best {values[0]:8.1f} ms   of {len(values)}"


def starts(_portolans):
    events = Events("node2")
    time.sleep(0.5)
    for number in range(50):
        docker("node2", "run", "-d", "--name", f"start-{number}", "--network", "frontend", "counter:latest", "sleep", "600")
    time.sleep(1)
    names = {it[2]["id"]: it[2]["name"] for it in events.seen if it[1] == "create" and "name" in it[2]}
    connected = {names.get(it[2].get("container")): it[0] for it in events.seen if it[1] == "connect"}
    started = {it[2]["name"]: it[0] for it in events.seen if it[1] == "start"}
    log = (DIR / "node2/portolan.log").read_text()
    taken = {}
    for line in log.splitlines():
        found = re.match(r"(\S+)Z .*took over DNS.*sandbox=\"?(start-\d+)", line)
        if found:
            seconds, _, micros = found[1].partition(".")
            stamp = time.strptime(seconds, "%Y-%m-%dT%H:%M:%S")
            taken.setdefault(found[2], calendar.timegm(stamp) * 10**9 + int(micros.ljust(9, "0")))
    common = [it for it in connected if it in taken]
    print(f"network connect -> answered by portolan  {figures([taken[it] - connected[it] for it in common])}")
    print(f"container start -> answered by portolan  {figures([taken[it] - started[it] for it in common if it in started])}")
    for number in range(50):
        docker("node2", "rm", "-f", f"start-{number}")


def scale(_portolans):
    events = {node: Events(node) for node in NODES}
    watches, loads = {}, []
    vip = ""
    for node in NODES:
        name = docker(node, "ps", "-q", "--filter", "label=com.docker.swarm.service.name=counter_web").split()[0]
        pid = int(docker(node, "inspect", "-f", "{{.State.Pid}}", name))
        # Ours answers on port 53 only; the engine's own, behind it, on the port that it is bound to.
        watches[node, "portolan"] = Watch(pid, 53)
        engine = [port for port in bound_to_11(pid) if lifetime(pid, port) == 600]
        watches[node, "engine"] = Watch(pid, engine[0])
        vip = sh("nsenter", f"--net=/proc/{pid}/ns/net", "dig", "@127.0.0.11", "+short", "app").splitlines()[0]
        loads.append(Load(f"VIP from {node}", pid, (vip, 8080), "app.test"))
        loads.append(Router(node))
    time.sleep(1)
    changes = []
    for turn, replicas in enumerate([8, 2, 5, 8, 2, 5, 2, 8, 5, 2, 8, 5, 8, 2, 5, 8, 2, 8, 2, 5]):
        changes.append((time.time_ns(), replicas))
        docker("node1", "service", "scale", "-d", f"counter_app={replicas}")
        wait(lambda: sum(len(docker(n, "ps", "-q", "--filter", "label=com.docker.swarm.service.name=counter_app",
                                    "--filter", "health=healthy").split()) for n in NODES) == replicas, "scaling", 90)
        time.sleep(3)
    for it in [*watches.values(), *loads]:
        it.stop = True
    time.sleep(0.5)
    up = {"portolan": [], "engine": []}
    down = {"portolan": [], "engine": []}
    kills = []
    for node, other in (NODES, NODES[::-1]):
        addresses = {}
        for at, action, about in events[node].seen:
            if "counter_app" not in about.get("com.docker.swarm.service.name", ""):
                continue
            if action == "health_status: healthy":
                addresses[about["id"]] = about["address"]
                gather(up, watches, other, about["address"], True, at)
            elif action == "kill" and about["id"] in addresses:
                kills.append(at)
                gather(down, watches, other, addresses.pop(about["id"]), False, at)
            elif action == "kill":
                kills.append(at)
    for what, side in (("up   (from healthy)", up), ("down (from kill)   ", down)):
        for who in ("portolan", "engine"):
            print(f"{what} {who:9} {figures(side[who])}")
    for load in loads:
        print(f"{load.name_:22} {load.count} requests, {len(load.failed)} failed")
        for at, why in load.failed[:10]:
            before = [it for it in kills if it <= at]
            near = f"{(at - before[-1]) / 1e6:.0f} ms after a kill" if before else "before any kill"
            print(f"    {near}: {why[:150]}")


def lifetime(pid, port):
    """The TTL of what answers at a port, None if nothing does."""
    result = []

    def look():
        enter(pid)
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect(("127.0.0.11", port))
        sock.settimeout(1)
        try:
            result.append(ask(sock, "tasks.app", 77)[1])
        except OSError:
            pass

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return result[0] if result else None


def gather(side, watches, node, address, there, event):
    for who in ("portolan", "engine"):
        watch = watches.get((node, who))
        delta = watch.when(address, there, event) if watch and address else None
        if delta is not None:
            side[who].append(delta)


class Router(Load):
    """The same through the manager's router, from a node's own namespace."""

    def __init__(self, node):
        self.node = node
        super().__init__(f"router from {node}", None, ("10.214.0.1", 8080), "app.test")

    def run(self):
        with open(f"/run/netns/plab-{self.node}") as netns:
            libc.setns(netns.fileno(), 0x40000000)
        super().run()


def main():
    if len(sys.argv) < 2 or os.geteuid():
        sys.exit(__doc__)
    program, what = sys.argv[1], sys.argv[2:] or ["starts", "scale"]
    sh(LAB, "down", check=False)
    portolans = []
    try:
        sh(LAB, "up", 2, program)
        print(f"engine {docker('node1', 'version', '-f', '{{.Server.Version}}')}")
        portolans = [Portolan(program, node) for node in NODES]
        stack = (ROOT / "fixtures/stack/counter.yml").read_text()
        # The scaled service gets a VIP and a route here, so that both can be called meanwhile.
        stack = stack.replace("      endpoint_mode: dnsrr\n", "      labels: {com.docker.lb.hosts: app.test, com.docker.lb.port: '8080', com.docker.lb.network: frontend}\n")
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
            file.write(stack)
            file.flush()
            docker("node1", "stack", "deploy", "-c", file.name, "counter")
        wait(lambda: all(a == b for a, b in (it.split()[0].split("/") for it in docker(
            "node1", "service", "ls", "--format", "{{.Replicas}}").splitlines())), "the stack", 90)
        time.sleep(2)
        for name in what:
            {"starts": starts, "scale": scale}[name](portolans)
    finally:
        for it in portolans:
            it.process.send_signal(signal.SIGTERM)
            it.process.wait()
        if not os.environ.get("KEEP_LAB"):
            sh(LAB, "down", check=False)


main()
