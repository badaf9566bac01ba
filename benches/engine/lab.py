"""The lab of tests/lab with a portolan on each node, containers to ask from, and a name server outside."""
import ctypes, os, pathlib, re, shlex, signal, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
LAB = ROOT / "tests/lab/swarm-lab"
DIR = pathlib.Path(os.environ.setdefault("LAB_DIR", "/tmp/portolan-lab"))
NODES = ("node1", "node2")
CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def sh(*words, check=True, **more):
    done = subprocess.run([str(it) for it in words], capture_output=True, text=True, **more)
    if check and done.returncode:
        raise RuntimeError(f"{shlex.join(map(str, words))}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def docker(node, line, check=True):
    return sh("docker", "-H", f"unix://{DIR}/{node}/docker.sock", *shlex.split(line), check=check)


def on(node, *words, check=True, **more):
    """Runs a program of this machine in a node's own network namespace."""
    return sh("nsenter", f"--net=/run/netns/plab-{node}", *words, check=check, **more)


def wait(condition, what, seconds=60):
    end = time.time() + seconds
    while not (it := condition()):
        if time.time() > end:
            raise RuntimeError(f"{what}: not within {seconds} s")
        time.sleep(0.1)
    return it


def pid(node, container):
    return int(docker(node, f"inspect -f {{{{.State.Pid}}}} {container}"))


def enter(process):
    """Moves the calling thread into a process's network namespace."""
    with open(f"/proc/{process}/ns/net") as netns:
        if libc.setns(netns.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


def inside(process, *words, check=True, **more):
    """Runs a program of this machine in a process's network namespace."""
    return sh("nsenter", f"--net=/proc/{process}/ns/net", *words, check=check, **more)


def our_port(process):
    """The port that portolan's rules in that namespace lead to; None before it took over."""
    table = inside(process, "nft", "list", "table", "ip", "portolan_dns", check=False)
    found = re.search(r"udp dport set (\d+)", table)
    return int(found[1]) if found else None


def engine_port(process):
    """The port on 127.0.0.11 behind the engine's own redirection."""
    lines = open(f"/proc/{process}/net/udp").read().splitlines()[1:]
    local = [it.split()[1] for it in lines]
    ports = {int(it.split(":")[1], 16) for it in local if it.startswith("0B00007F")}
    return next(iter(ports - {our_port(process)}), None)


class Portolan:
    def __init__(self, program, node):
        home = DIR / node
        config = (f'state_dir = "{home}/portolan"\n[sources.docker]\nendpoint = "unix://{home}/docker.sock"\n'
                  f'[admin]\nsocket = "{home}/portolan.sock"\n')
        self.node, self.log = node, home / "portolan.log"
        self.env = {**os.environ, "PORTOLAN_CONFIG": config}
        self.base = ["nsenter", f"--net=/run/netns/plab-{node}", program]
        self.process = subprocess.Popen([*self.base, "up"], env=self.env, stderr=open(self.log, "a"))
        wait(lambda: subprocess.run([*self.base, "status"], env=self.env, capture_output=True).returncode == 0,
             f"portolan on {node} (its log: {self.log})", 30)

    def say(self, *words):
        return sh(*self.base, *words, env=self.env, check=False)

    def family(self):
        """Its process and its children's."""
        children = open(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read().split()
        others = [it.name for it in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir()]
        for thread in others:
            children += open(f"/proc/{self.process.pid}/task/{thread}/children").read().split()
        return [self.process.pid, *sorted({int(it) for it in children})]

    def holds(self):
        """(descriptors, threads, resident MiB) of it and its children."""
        descriptors = threads = resident = 0
        for it in self.family():
            descriptors += len(os.listdir(f"/proc/{it}/fd"))
            threads += len(os.listdir(f"/proc/{it}/task"))
            resident += int(open(f"/proc/{it}/statm").read().split()[1]) * 4 / 1024
        return descriptors, threads, round(resident, 1)


class Lab:
    """Two engines that form a Swarm, the counter application, a portolan on each node, a name server outside."""

    def __init__(self, program):
        self.program, self.portolans, self.children = os.path.abspath(program), {}, []
        sh(LAB, "down", check=False)
        sh(LAB, "up", 2, self.program)
        self.version = docker("node1", "version -f {{.Server.Version}}")
        self.asked = self.name_server()

    def name_server(self):
        """The servers of the machine's resolv.conf, as the nodes see them: one that answers for ext.example."""
        servers = re.findall(r"(?m)^nameserver\s+(\d\S+)", open("/etc/resolv.conf").read())
        # Where it names none that a container can reach, the engine asks Google's.
        servers = [it for it in servers if not it.startswith("127.")] or ["8.8.8.8", "8.8.4.4"]
        asked = DIR / "asked.txt"
        asked.touch()
        for server in servers:
            on("client", "ip", "addr", "add", f"{server}/32", "dev", "lo")
            for node in NODES:
                on(node, "ip", "route", "add", server, "via", "10.214.0.100")
        for node in NODES:
            on("client", "ip", "route", "add", f"172.3{node[-1]}.0.0/16", "via", f"10.214.0.{node[-1]}", check=False)
        self.children.append(subprocess.Popen(
            ["nsenter", "--net=/run/netns/plab-client", sys.executable, pathlib.Path(__file__).parent / "outside.py", asked, *servers]))
        self.servers = servers
        return asked

    def portolan(self, *nodes):
        for node in nodes or NODES:
            self.portolans[node] = Portolan(self.program, node)

    def deploy(self, name, text):
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
            file.write(text)
            file.flush()
            docker("node1", f"stack deploy -c {file.name} {name}")
        wait(lambda: all(a == b for a, b in (it.split()[0].split("/") for it in docker(
            "node1", "service ls --format {{.Replicas}}").splitlines())), f"the stack {name}", 120)

    def counter(self):
        self.deploy("counter", (ROOT / "fixtures/stack/counter.yml").read_text())

    def down(self):
        for it in self.portolans.values():
            it.process.send_signal(signal.SIGTERM)
            it.process.wait()
        for it in self.children:
            it.kill()
            it.wait()
        if not os.environ.get("KEEP_LAB"):
            sh(LAB, "down", check=False)
