"""The servers that are compared: each with the same 1,000 names, in a fresh namespace, in one thread."""
import json, os, pathlib, re, signal, subprocess, sys, tempfile

from load import NAMES
from places import Place, Process, ask, cpu, until

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
LAB = ROOT / "tests/lab/swarm-lab"
LAB_DIR = pathlib.Path(os.environ.get("LAB_DIR", "/tmp/portolan-lab"))
# What portolan makes in a sandbox, here in front of an echo at port 5300.
TABLE = """
table ip portolan_dns {
    set alive { type ipv4_addr; elements = { 127.0.0.11 } }
    chain output {
        type filter hook output priority -300; policy accept;
        meta l4proto udp udp sport 5300 ip saddr 127.0.0.11 notrack udp sport set 53 accept
        meta l4proto udp udp dport 53 ip daddr @alive notrack udp dport set 5300 accept
        meta l4proto tcp tcp sport 5300 ip saddr 127.0.0.11 notrack tcp sport set 53 accept
        meta l4proto tcp tcp dport 53 ip daddr @alive notrack tcp dport set 5300 accept
    }
}
"""


def names(first="s"):
    return [f"{first}{it}" for it in range(NAMES)]


def address(number):
    return f"10.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def version(*words):
    done = subprocess.run([str(it) for it in words], capture_output=True, text=True)
    found = re.search(r"\d+\.\d+[\w.~+-]*", done.stdout + done.stderr)
    return found[0] if found else "?"


class Peer:
    """A server that runs: who, of which version, asked where, with whose CPU."""
    names = names()
    server, more, version, process, domain = "127.0.0.11", (), "", None, ""

    def __init__(self, name, folder):
        self.name, self.folder = name, tempfile.mkdtemp(prefix=re.sub(r"\W+", "-", name), dir=folder)
        self.place = Place()

    def file(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w") as out:
            out.write(text)
        return path

    def start(self, *words, env=None):
        self.process = Process(self.place, os.path.join(self.folder, "log"), *words, env=env)
        self.pid = self.process.pid
        return self

    def cpu(self):
        return cpu(self.pid)

    def ready(self):
        sock = self.place.client(self.server)
        until(lambda: ask(sock, self.names[1]) is not None, f"{self.name} (see {self.folder}/log)")

    def end(self):
        if self.process:
            self.process.end()


def echo(folder, name, program, how, table=None):
    """With a table: at port 5300, behind it."""
    peer = Peer(name, folder)
    if table:
        peer.place.run("nft", "-f", "-", text=table)
    return peer.start(program, how, f"127.0.0.11:{5300 if table else 53}")


def knot(folder):
    peer = Peer("Knot DNS", folder)
    peer.version = version("knotd", "-V")
    records = "".join(f"{it}. 5 A {address(n)}\n" for n, it in enumerate(names()))
    zone = peer.file("zone", f". 5 SOA . . 1 5 5 5 5\n. 5 NS s0.\n{records}")
    conf = peer.file("conf", f"""
server:
    rundir: {peer.folder}
    user: root
    listen: 127.0.0.11@53
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
database:
    storage: {peer.folder}
log:
  - target: stderr
    any: warning
zone:
  - domain: .
    file: {zone}
""")
    return peer.start("knotd", "-c", conf)


def dnsmasq(folder, ttl=5):
    peer = Peer("dnsmasq", folder)
    peer.version = version("dnsmasq", "--version")
    hosts = peer.file("hosts", "".join(f"{address(n)} {it}\n" for n, it in enumerate(names())))
    return peer.start("dnsmasq", "-k", "-C", "/dev/null", "-a", "127.0.0.11", "-z", "-R", "-h", "-H", hosts, "-u", "root",
                      "-x", "", f"--local-ttl={ttl}")


def unbound(folder):
    peer = Peer("unbound", folder)
    peer.version = version("unbound", "-V")
    data = "".join(f'    local-data: "{it}. 5 A {address(n)}"\n' for n, it in enumerate(names()))
    conf = peer.file("conf", f"""
server:
    num-threads: 1
    interface: 127.0.0.11
    access-control: 127.0.0.0/8 allow
    username: ""
    chroot: ""
    directory: "{peer.folder}"
    pidfile: ""
    do-daemonize: no
    use-syslog: no
    module-config: "iterator"
    local-zone: "." static
{data}
""")
    return peer.start("unbound", "-d", "-c", conf)


def aardvark(folder, name="aardvark-dns", domain=""):
    """Podman gives containers the search domain `dns.podman`, so that this is how it is asked for plain names."""
    peer = Peer(name, folder)
    peer.domain = domain
    program = next((it for it in ("/usr/lib/podman/aardvark-dns", "/usr/libexec/podman/aardvark-dns") if os.path.exists(it)), "aardvark-dns")
    peer.version = version(program, "--version")
    peer.server, peer.more = "10.89.0.1", ("-a", "10.89.0.2")
    for it in ("10.89.0.1/24", "10.89.0.2/24"):
        peer.place.run("ip", "address", "add", it, "dev", "lo")
    os.makedirs(os.path.join(peer.folder, "networks"))
    containers = [f"{n:064x} {address(n)}  {it}" for n, it in enumerate(names())]
    containers.append(f"{NAMES:064x} 10.89.0.2  asker")
    peer.file("networks/net", "10.89.0.1\n" + "\n".join(containers) + "\n")
    peer.start(program, "-c", os.path.join(peer.folder, "networks"), "-p", "53", "run")
    # It leaves for the background; its child writes this.
    mark = pathlib.Path(peer.folder, "networks/aardvark.pid")
    peer.pid = int(until(lambda: mark.exists() and mark.read_text(), "aardvark-dns's pid"))
    peer.end = lambda: os.kill(peer.pid, signal.SIGKILL)
    return peer


class Engine(Peer):
    """A container's engine. The names are aliases of ten containers on its network."""

    def __init__(self, program):
        self.name = "Docker's own"
        self.docker = ["docker", "-H", f"unix://{LAB_DIR}/node1/docker.sock"]
        subprocess.run([LAB, "down"], capture_output=True)
        done = subprocess.run([LAB, "up", "1", program], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open("/tmp/dns-bench-lab.log", "w"))
        if done.returncode:
            sys.exit("no engine; see /tmp/dns-bench-lab.log")
        self.version = self.run("version", "-f", "{{.Server.Version}}")
        self.run("network", "create", "bench")
        every = names()
        for first in range(0, NAMES, 100):
            aliases = [word for it in every[first:first + 100] for word in ("--network-alias", it)]
            self.run("run", "-d", "--network", "bench", *aliases, "counter:latest", "sleep", "3600")
        asker = self.run("run", "-d", "--network", "bench", "counter:latest", "sleep", "3600")
        self.place = Place(of=self.run("inspect", "-f", "{{.State.Pid}}", asker))
        self.pid = int(open(LAB_DIR / "node1/dockerd.pid").read())
        self.folder = tempfile.mkdtemp(dir=LAB_DIR)

    def run(self, *words):
        done = subprocess.run([*self.docker, *words], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"docker {words}: {done.stderr}")
        return done.stdout.strip()

    def end(self):
        subprocess.run([LAB, "down"], capture_output=True)


class Portolan(Peer):
    """The program itself over a world file; its sandboxes are places of their own."""

    def __init__(self, folder, program, name="portolan"):
        super().__init__(name, folder)
        self.program, self.version = program, version(program, "--version")
        self.world = os.path.join(self.folder, "world.toml")
        self.env = {"PORTOLAN_CONFIG": f'state_dir = "{self.folder}/state"\n[sources.world]\npath = "{self.world}"\n'
                                       f'[admin]\nsocket = "{self.folder}/socket"\n[dns]\nhost_listen = "off"\n'}

    def up(self, world):
        self.rewrite(world)
        return self.start(self.program, "up", env=self.env)

    def rewrite(self, world):
        self.file("world.new", world)
        os.rename(os.path.join(self.folder, "world.new"), self.world)

    def logged(self):
        return open(os.path.join(self.folder, "log")).read()


class InSandbox(Peer):
    """A portolan as one of its sandboxes sees it."""

    def __init__(self, name, portolan, place, first="s"):
        self.name, self.portolan, self.place, self.names = name, portolan, place, names(first)
        self.version, self.folder = portolan.version, tempfile.mkdtemp(dir=portolan.folder)

    @property
    def pid(self):
        return self.portolan.pid

    def end(self):
        pass


def network(name, subnet):
    return f'[[network]]\nname = "{name}"\nsubnet = "{subnet}"\n'


def services(net, count=NAMES, tasks=1, mode="dnsrr", first="s"):
    """As many services, each with as many tasks, on one network: the first task of the n-th has address(n)."""
    text = []
    for n in range(count):
        vip = f'vip = {{ {net} = "10.200.{n >> 8}.{n & 255}" }}\n' if mode == "vip" else ""
        text.append(f'[[service]]\nname = "{first}{n}"\nmode = "{mode}"\nnetworks = ["{net}"]\n{vip}')
        for task in range(tasks):
            at = address(n + (task << 16))
            text.append(f'[[task]]\nname = "{first}{n}.{task}"\nservice = "{first}{n}"\naddresses = {{ {net} = "{at}" }}\n')
    return "".join(text)


def sandbox(name, place, net, upstreams=()):
    servers = json.dumps(list(upstreams))
    return f'[[sandbox]]\nname = "{name}"\nnetns = "{place.path}"\nnetworks = ["{net}"]\nupstreams = {servers}\n'
