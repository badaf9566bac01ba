"""A Swarm of two nodes with a portolan on each, services that say who they are, and callers in containers of both nodes."""
import json, os, pathlib, re, shutil, signal, subprocess, threading, time

from lab import DIR, NODES, Lab, Portolan, docker, inside, pid, sh, wait

PORT, NETWORK = 8080, "shown"
HEALTH = "--health-cmd 'wget -q -O /dev/null http://127.0.0.1:8080/' --health-interval 1s --health-timeout 2s --health-retries 3"


class Scene:
    """`run.keep` it: it takes the lab down."""

    def __init__(self, run, start=True):
        """`start`: with a portolan on each node."""
        self.run = run
        self.lab = run.keep(Ended(Lab(run.program))).lab
        self.image()
        docker("node1", f"network create -d overlay --attachable {NETWORK}")
        self.askers = {}
        for node in NODES:
            self.asker(node)
        if start:
            self.lab.portolan()
        print(f"engine {self.lab.version}", flush=True)

    def image(self):
        root = DIR / "shown"
        sh("cp", "-a", DIR / "rootfs", root)
        shutil.copy(os.path.join(self.run.folder, "serve"), root / "bin/serve")
        sh("tar", "-C", root, "-cf", DIR / "shown.tar", ".")
        for node in NODES:
            docker(node, f"import {DIR}/shown.tar shown:latest")
        shutil.rmtree(root)

    def asker(self, node, name="asker"):
        docker(node, f"run -d --name {name} --network {NETWORK} counter:latest sleep 1000000")
        self.askers[node if name == "asker" else name] = pid(node, name)
        return pid(node, name)

    def service(self, name, replicas, *more, late=0, health=HEALTH, ports=PORT):
        """Its tasks are `NAME.SLOT.NODE`. They have ten seconds to stop. Gives its VIP."""
        docker("node1", f"service create -d --no-resolve-image --name {name} --network {NETWORK} --replicas {replicas} "
                        "--hostname {{.Service.Name}}.{{.Task.Slot}}.{{.Node.Hostname}} --stop-grace-period 10s "
                        f"{health} {' '.join(more)} shown:latest serve {name} {ports} {late}")
        self.settled(name, replicas)
        return self.vip(name)

    def vip(self, name):
        found = json.loads(docker("node1", f"service inspect -f '{{{{json .Endpoint.VirtualIPs}}}}' {name}"))
        network = docker("node1", f"network inspect -f {{{{.Id}}}} {NETWORK}")
        return next(it["Addr"].split("/")[0] for it in found if it["NetworkID"] == network)

    def settled(self, name, replicas, seconds=120):
        """As many tasks by the engine, and by `tasks.NAME` in the askers of both nodes."""
        wait(lambda: docker("node1", f"service ls -f name={name} --format {{{{.Replicas}}}}").split(" ")[0] == f"{replicas}/{replicas}",
             f"{replicas} tasks of {name}", seconds)
        for node in self.lab.portolans:
            try:
                # What the engines' gossip lost they tell each other every 30 s.
                wait(lambda: len(self.tasks(node, name)) == replicas, f"{replicas} tasks of {name} by portolan on {node}", 45)
            except RuntimeError as error:
                # Whose fault: what the node's engine heard of the others, at that moment.
                heard = docker(node, f"network inspect --verbose -f '{{{{json .Services}}}}' {NETWORK}", check=False)
                raise RuntimeError(f"{error}; its engine: {heard}; portolan:\n{self.lab.portolans[node].say('ls', 'tasks')}") from error

    def tasks(self, node, name):
        said = inside(self.askers[node], "dig", "@127.0.0.11", "+short", "+time=1", "+tries=1", f"tasks.{name}", check=False)
        return {it for it in said.split() if re.fullmatch(r"[\d.]+", it)}

    def updated(self, name, seconds=180):
        """Until an update is over; how it ended."""
        state = lambda: docker("node1", f"service inspect -f '{{{{with .UpdateStatus}}}}{{{{.State}}}}{{{{end}}}}' {name}")
        wait(lambda: state() in ("completed", "paused", "rollback_completed"), f"update of {name}", seconds)
        return state()

    def address(self, node):
        return json.loads(docker(node, "inspect -f '{{json .NetworkSettings.Networks}}' asker"))[NETWORK]["IPAddress"]

    def containers(self, node, service):
        return docker(node, f"ps -q --no-trunc -f label=com.docker.swarm.service.name={service}").split()

    def doorway(self, node):
        """The namespace in which the engine takes what comes to published ports, and its address on the ingress network."""
        attached = json.loads(docker(node, "network inspect -f '{{json .Containers}}' ingress"))
        return str(DIR / node / "exec/netns/ingress_sbox"), attached["ingress-sbox"]["IPv4Address"].split("/")[0]

    def replace(self, node, program, how=signal.SIGKILL):
        """Ends a node's portolan and starts `program` in its place."""
        old = self.lab.portolans[node]
        old.process.send_signal(how)
        old.process.wait()
        self.lab.portolans[node] = Portolan(program, node)


class Ended:
    """A lab that is ended as the other benches' servers are. LOGS is a folder to keep portolan's logs in."""

    def __init__(self, lab):
        self.lab = lab

    def end(self):
        if folder := os.environ.get("LOGS"):
            for node, portolan in self.lab.portolans.items():
                shutil.copy(portolan.log, os.path.join(folder, f"{node}.log"))
        self.lab.down()


class Caller(threading.Thread):
    """`call steady` in a container's namespace, or in one with a path. Keeps failures with the task that conntrack names for each."""

    def __init__(self, scene, place, addresses, names, rate, seconds=0, port=PORT, own=(), traced=None):
        """`traced`: the namespace whose conntrack knows where connections went, if it is not the place itself."""
        super().__init__(daemon=True)
        self.place, self.seconds = place if isinstance(place, str) else f"/proc/{place}/ns/net", seconds
        self.traced = traced or self.place
        self.failures, self.slow, self.late, self.answers, self.values = [], [], [], {}, {}
        self.child = subprocess.Popen(
            ["nsenter", f"--net={self.place}", os.path.join(scene.run.folder, "call"), "steady", addresses, str(port),
             str(rate), str(seconds), names, *own], stdout=subprocess.PIPE, text=True)
        self.start()

    def run(self):
        for line in self.child.stdout:
            word, *rest = line.split()
            if word == "fail":
                at, took, port, what, answer = float(rest[0]), float(rest[1]), rest[2], rest[3], " ".join(rest[4:])
                self.failures.append((at, took, what, answer, self.task(port)))
            elif word == "slow" and len(rest) == 3:
                self.slow.append((float(rest[0]), float(rest[1]), self.task(rest[2])))
            elif word == "late" and len(rest) == 2:
                self.late.append((float(rest[0]), rest[1]))
            elif word == "answers":
                self.answers[tuple(rest[1:])] = int(rest[0])
            else:
                self.values[word] = float(rest[0])

    def task(self, port):
        """The address that a connection from that port was sent to; None once conntrack forgot it."""
        said = sh("nsenter", f"--net={self.traced}", "conntrack", "-L", "-p", "tcp", "--sport", port, check=False)
        found = re.search(r"src=\S+ dst=\S+ sport=\d+ dport=\d+ (?:\[UNREPLIED\] )?src=(\S+)", said)
        return found[1] if found else None

    def end(self):
        """Ends it, unless it has its seconds, and waits for what is under way."""
        if not self.seconds:
            self.child.send_signal(signal.SIGTERM)
        self.child.wait(20)
        self.join(20)
        return self

    def hosts(self, service):
        """How many answers each task gave."""
        found = {}
        for (name, host, _peer), count in self.answers.items():
            if name == service:
                found[host] = found.get(host, 0) + count
        return found

    def peers(self):
        return {peer for _, _, peer in self.answers}


class Lives(threading.Thread):
    """What became of containers on one node, by address: (name, [(time, action)])."""

    def __init__(self, node):
        super().__init__(daemon=True)
        self.node, self.seen, self.addresses = node, {}, {}
        self.child = subprocess.Popen(["docker", "-H", f"unix://{DIR}/{node}/docker.sock", "events", "--format", "{{json .}}"],
                                      stdout=subprocess.PIPE, text=True)
        for it in docker(node, "ps -q --no-trunc").split():
            self.learn(it)
        self.start()

    def learn(self, container):
        networks = json.loads(docker(self.node, f"inspect -f '{{{{json .NetworkSettings.Networks}}}}' {container}", check=False) or "{}")
        self.addresses |= {it["IPAddress"]: container for it in networks.values() if it["IPAddress"]}

    def run(self):
        for line in self.child.stdout:
            it = json.loads(line)
            if it.get("Type") != "container" or it["Action"].startswith("exec"):
                continue
            self.seen.setdefault(it["Actor"]["ID"], []).append((it["timeNano"] / 1e9, it["Action"], it["Actor"]["Attributes"].get("name", "")))
            if it["Action"] == "start":
                self.learn(it["Actor"]["ID"])

    def story(self, address, at):
        """What happened to whoever has the address, in seconds before (-) and after (+) `at`."""
        container = self.addresses.get(address)
        if not container:
            return None
        events = self.seen.get(container, [])
        name = events[0][2] if events else container[:12]
        return f"{self.node} {name[:30]}: " + ", ".join(f"{what.replace('health_status: ', '')} {when - at:+.2f}" for when, what, _ in events[-5:])

    def end(self):
        self.child.kill()
        self.child.wait()


def report(callers, lives, begun, most=12):
    """Prints the failures with what happened to their tasks; gives how many failed or were slow or late."""
    bad = 0
    for name, caller in callers.items():
        print(f"  from {name}: {caller.values.get('count', 0):.0f} connections, {len(caller.failures)} failed, {len(caller.slow)} slow, "
              f"{len(caller.late)} to tasks that were told to stop; connect p50 {caller.values.get('p50', 0) / 1000:.2f} ms, "
              f"p99 {caller.values.get('p99', 0) / 1000:.2f} ms, worst {caller.values.get('worst', 0) / 1000:.0f} ms", flush=True)
        told = [(at, f"{what} after {took:.0f} ms {answer}", task) for at, took, what, answer, task in caller.failures]
        told += [(at, f"connected after {took:.0f} ms", task) for at, took, task in caller.slow]
        told += [(at, f"answered by {host} after SIGTERM", None) for at, host in caller.late]
        bad += len(told)
        for at, what, task in sorted(told)[:most]:
            stories = [it for life in lives.values() if task and (it := life.story(task, at))]
            print(f"    {at - begun:8.3f} s {what}; to {task} {stories or ''}")
        if len(told) > most:
            print(f"    and {len(told) - most} more")
    return bad
