"""The life of containers and engines, and what portolan says meanwhile."""
import json, os, signal, statistics, subprocess, threading, time
from concurrent.futures import ThreadPoolExecutor

import world
from asker import Asker
from lab import DIR, NODES, docker, engine_port, inside, our_port, pid, sh, wait

SLOW = """
version: "3.8"
services:
  slow:
    image: counter:latest
    command: ["/bin/sh", "-c", "trap 'sleep 10; exit 0' TERM; while :; do sleep 0.2; done"]
    networks: [frontend]
    stop_grace_period: 20s
    deploy: {replicas: 4, placement: {max_replicas_per_node: 2}}
networks:
  frontend: {external: true, name: frontend}
"""


def milliseconds(values):
    values = sorted(it * 1000 for it in values if it is not None)
    return f"median {statistics.median(values):.0f} ms, worst {values[-1]:.0f} ms, of {len(values)}" if values else "none"


class Events(threading.Thread):
    """(seconds, action, container's name) of one engine."""

    def __init__(self, node):
        super().__init__(daemon=True)
        self.seen = []
        self.process = subprocess.Popen(["docker", "-H", f"unix://{DIR}/{node}/docker.sock", "events", "--format", "{{json .}}"],
                                        stdout=subprocess.PIPE, text=True)
        self.start()

    def run(self):
        for line in self.process.stdout:
            it = json.loads(line)
            self.seen.append((it["timeNano"] / 1e9, it.get("Action"), it.get("Actor", {}).get("Attributes", {}).get("name")))

    def end(self):
        self.process.kill()
        self.process.wait()


def draining(lab):
    """A task that takes 10 s to stop: what `tasks.NAME` says meanwhile, on either node, by either resolver."""
    lab.counter()
    lab.deploy("late", SLOW)
    for node in NODES:
        docker(node, "run -d --name asker --network frontend counter:latest sleep 100000")
    lab.portolan()
    events = {node: Events(node) for node in NODES}
    askers = {}
    for node in NODES:
        process = pid(node, "asker")
        wait(lambda: our_port(process), f"portolan on {node}")
        askers[node, "portolan"] = Asker(process, "tasks.slow", 53, 0.01)
        askers[node, "engine"] = Asker(process, "tasks.slow", engine_port(process), 0.01)
    wait(lambda: all(it.last() and len(it.last()[1]) == 4 for it in askers.values()), "four tasks everywhere")
    names = {}
    for node in NODES:
        for name in docker(node, "ps -f label=com.docker.swarm.service.name=late_slow --format {{.Names}}").split():
            names[name] = (node, json.loads(docker(node, f"inspect -f '{{{{json .NetworkSettings.Networks}}}}' {name}"))["frontend"]["IPAddress"])
    begun = time.time()
    docker("node1", "service scale -d late_slow=1")
    wait(lambda: sum(it[1] == "die" for node in NODES for it in events[node].seen) == 3, "three tasks that ended", 60)
    time.sleep(1)
    for it in [*askers.values(), *events.values()]:
        it.end()
    fine, on_time = True, {who: [] for who in askers}
    print("seconds from `service scale` 4 -> 1 until                     out of tasks.slow")
    print(f"{'task of':8} {'SIGTERM':>8} {'end':>8}   " + "".join(f"{f'{node} {who}':>18}" for node, who in askers))
    for name, (node, address) in names.items():
        happened = {action: at for at, action, who in events[node].seen if who == name and action in ("kill", "die")}
        if "die" not in happened:
            continue
        gone = {who: it.when(lambda said: address not in said[1], begun) for who, it in askers.items()}
        for who, at in gone.items():
            # The engine gives it two seconds in which nobody new should come; then it is told to stop.
            fine = fine and (who[1] == "engine" or (at is not None and at < happened["kill"]))
            on_time[who].append(happened["kill"] - at if at else None)
        print(f"{node:8} {happened['kill'] - begun:8.2f} {happened['die'] - begun:8.2f}   " +
              "".join(f"{at - begun if at else float('nan'):18.2f}" for at in gone.values()))
    empty = {who: any(not said[1] for at, said in it.changes if at > begun) for who, it in askers.items()}
    lost = {who: len(it.unanswered) for who, it in askers.items()}
    print(f"unanswered: {lost}\nan empty answer while one task served: {empty}")
    return fine and not any(empty[it] or lost[it] for it in askers if it[1] == "portolan")


class Engine:
    """One node's engine, to be ended and started again where it ran."""

    def __init__(self, node):
        self.node, self.pidfile, self.own = node, DIR / node / "dockerd.pid", None
        first = self.pid()
        self.line = open(f"/proc/{first}/cmdline").read().split("\0")[:-1]
        self.env = dict(it.split("=", 1) for it in open(f"/proc/{first}/environ").read().split("\0") if "=" in it)
        # Keeps its namespaces while it is away.
        self.place = subprocess.Popen(["nsenter", "-t", str(first), "-n", "-u", "-m", "-r", "sleep", "100000"])
        time.sleep(0.2)

    def pid(self):
        return int(self.pidfile.read_text())

    def stop(self, how):
        process = self.pid()
        os.kill(process, how)
        wait(lambda: self.own.poll() is not None if self.own else not os.path.exists(f"/proc/{process}"), "the engine's end")
        if self.pidfile.exists():
            self.pidfile.unlink()

    def start(self, *more):
        with open(DIR / self.node / "dockerd.log", "a") as log:
            self.own = subprocess.Popen(["nsenter", "-t", str(self.place.pid), "-n", "-u", "-m", "-r", *self.line, *more], env=self.env,
                                        stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
        wait(lambda: self.answers(), "the engine")

    def answers(self):
        return subprocess.run(["docker", "-H", f"unix://{DIR}/{self.node}/docker.sock", "version"], capture_output=True).returncode == 0


def restarts(lab):
    """The engine restarted and killed under live containers (live-restore, so without a Swarm)."""
    for node in NODES[::-1]:
        docker(node, "swarm leave --force")
    engine = Engine("node1")
    try:
        engine.stop(signal.SIGTERM)
        engine.start("--live-restore")
        world.populate_plain("node1")
        lab.portolan("node1")
        process = pid("node1", "asker")
        wait(lambda: our_port(process), "portolan in the asker")
        ours = [Asker(process, name) for name in ("box", "store", "Crate", "box.duo")]
        wait(lambda: all(it.last() and it.last()[0] == 0 for it in ours), "names by portolan")
        # The engine binds another port when it comes back.
        engines = Asker(process, "box", lambda: engine_port(process))
        wait(engines.last, "names by the engine")
        for how in (signal.SIGTERM, signal.SIGKILL):
            begun = time.time()
            engine.stop(how)
            stopped = time.time()
            time.sleep(2)
            engine.start("--live-restore")
            print(f"{how.name}: the engine was away for {time.time() - stopped:.1f} s (it took {stopped - begun:.1f} s to end)")
            time.sleep(5)
        for it in [*ours, engines]:
            it.end()
        docker("node1", "run -d --name later --network duo counter:latest sleep 100000")
        later = pid("node1", "later")
        wait(lambda: our_port(later), "portolan in a container made after the restarts", 10)
        status = lab.portolans["node1"].say("status")
        for it in ours:
            print(f"portolan {it.name_:8} asked {it.asked}, unanswered {len(it.unanswered)}, worst {it.worst * 1000:.1f} ms, "
                  f"replies that differ {len(it.changes) - 1}")
        print(f"engine   {engines.name_:8} asked {engines.asked}, unanswered {len(engines.unanswered)}")
        print(f"status afterwards: {status.splitlines()[0] if status else 'none'}")
        return all(not it.unanswered and len(it.changes) == 1 for it in ours)
    finally:
        engine.place.kill()
        engine.place.wait()


def crash(lab):
    """A worker's engine killed in a Swarm, away for AWAY seconds (8): what its containers are told meanwhile."""
    lab.counter()
    docker("node2", "run -d --name asker --network frontend counter:latest sleep 100000")
    lab.portolan()
    process = pid("node2", "asker")
    wait(lambda: our_port(process), "portolan in the asker")
    names = ("counter_web", "web", "tasks.counter_app", "tasks.app")
    wanted = {"counter_web": 1, "web": 1, "tasks.counter_app": 5, "tasks.app": 5}
    askers = [Asker(process, it) for it in names]
    wait(lambda: all(it.last() and len(it.last()[1]) == wanted[it.name_] for it in askers), "names on the worker")
    time.sleep(2)
    engine, begun = Engine("node2"), time.time()
    try:
        engine.stop(signal.SIGKILL)
        time.sleep(float(os.environ.get("AWAY", "8")))
        for it in askers:
            it.end()
        engine.start()
        back = time.time()
        web = wait(lambda: docker("node2", "ps -q -f label=com.docker.swarm.service.name=counter_web", check=False).split(), "a new task of web", 60)
        made = time.time()
        process = pid("node2", web[0])
        wait(lambda: our_port(process), "portolan in it", 20)
        served = time.time()
        wait(lambda: len(inside(process, "dig", "@127.0.0.11", "+short", "tasks.app", check=False).split()) >= 3, "tasks.app in it", 60)
    finally:
        engine.place.kill()
        engine.place.wait()
    for it in askers:
        told = [(round(at - begun, 1), {0: "NOERROR", 2: "SERVFAIL", 3: "NXDOMAIN"}.get(said[0], said[0]), len(said[1]))
                for at, said in it.changes if at > begun]
        print(f"{it.name_:18} asked {it.asked}, unanswered {len(it.unanswered)}, worst {it.worst * 1000:.0f} ms; "
              f"other replies (seconds after the kill, code, addresses): {told or 'none'}")
    print(f"the engine came back; {made - back:.1f} s later a task of web ran, portolan served it at most {served - made:.1f} s later")
    return all(not it.unanswered and len(it.changes) <= 2 for it in askers) and all(it.last()[0] == 0 for it in askers)


def storm(lab):
    """COUNT containers (100) started as fast as the engine can, and removed again."""
    count = int(os.environ.get("COUNT", "100"))
    docker("node1", "network create --subnet 172.29.0.0/16 storm")
    lab.portolan("node1")
    docker("node1", "run -d --name first --network storm counter:latest sleep 100000")
    wait(lambda: our_port(pid("node1", "first")), "the first")
    ours = lab.portolans["node1"]
    time.sleep(1)
    before = ours.holds()
    asker = Asker(pid("node1", "first"), "first", pause=0.02)
    begun = time.time()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda it: docker("node1", f"run -d --name s{it} --network storm counter:latest sleep 100000"), range(count)))
    started = time.time()
    processes = [pid("node1", f"s{it}") for it in range(count)]
    wait(lambda: all(our_port(it) for it in processes), "portolan everywhere", 30)
    served = time.time()
    answered = sum(sh("nsenter", f"--net=/proc/{it}/ns/net", "dig", "@127.0.0.11", "+time=2", "+tries=1", "+noall", "+answer", "s0",
                      check=False).split()[1:2] == ["5"] for it in processes)
    during = ours.holds()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda it: docker("node1", f"rm -f s{it}"), range(count)))
    removed = time.time()
    wait(lambda: ours.holds()[0] <= before[0], f"as many descriptors as before ({before}, now {ours.holds()})", 30)
    returned = time.time()
    # Threads that wait for more of what blocks stay for ten seconds.
    wait(lambda: ours.holds()[1] <= before[1], f"as many threads as before ({before}, now {ours.holds()})", 40)
    after = ours.holds()
    asker.end()
    print(f"{count} containers: started in {started - begun:.1f} s; all taken over at most {served - started:.1f} s later; "
          f"{answered} of {count} answered by portolan")
    print(f"(descriptors, threads, MiB): before {before}, with them {during}, after {after}; "
          f"back {returned - removed:.1f} s after the last was removed")
    print(f"another container meanwhile: asked {asker.asked}, unanswered {len(asker.unanswered)}, worst {asker.worst * 1000:.1f} ms")
    return answered == count and after[0] <= before[0] and not asker.unanswered


def shared(lab):
    """Containers that share a namespace, and networks connected and disconnected while containers run."""
    world.populate_plain("node1")
    lab.portolan("node1")
    ours = lab.portolans["node1"]
    docker("node1", "run -d --name guest --network container:box counter:latest sleep 100000")
    box, guest, asker = (pid("node1", it) for it in ("box", "guest", "asker"))
    wait(lambda: our_port(guest), "portolan in the shared namespace")
    ask = lambda process, name: sh("nsenter", f"--net=/proc/{process}/ns/net", "dig", "@127.0.0.11", "+short", "+time=2", "+tries=1", name, check=False)
    one = our_port(box) == our_port(guest) and ask(guest, "asker") != "" and ask(guest, "asker") == ask(box, "asker")
    listed = ours.say("ls", "sandboxes")
    docker("node1", "rm -f guest")
    time.sleep(0.5)
    still = ask(box, "asker") != ""
    docker("node1", "run -d --name guest --network container:box counter:latest sleep 100000")
    guest = pid("node1", "guest")
    # As in a pod whose first container ends: the engine takes the network away with it.
    docker("node1", "restart -t 0 box")
    again = bool(wait(lambda: ask(pid("node1", "box"), "asker"), "the restarted container", 10))
    print(f"--network container:box: one port for both {one}, guest in the list of sandboxes {'guest' in listed}; box after guest's end {still}, after its own restart {again}")
    docker("node1", "network create live")
    docker("node1", "run -d --name far --network live counter:latest sleep 100000")
    watch = Asker(asker, "far", pause=0.002)
    up, down = [], []
    for _ in range(10):
        for verb, times, condition in (("connect", up, lambda it: it[0] == 0 and it[1]), ("disconnect", down, lambda it: not it[1])):
            docker("node1", f"network {verb} live asker")
            done = time.time()
            wait(lambda: watch.last() and condition(watch.last()), f"far after {verb}", 5)
            times.append(max(0.0, watch.changes[-1][0] - done))
    watch.end()
    print(f"network connect -> its names: {milliseconds(up)} after docker returned; disconnect -> none: {milliseconds(down)}; "
          f"asked {watch.asked}, unanswered {len(watch.unanswered)}")
    return one and still and again and not watch.unanswered
