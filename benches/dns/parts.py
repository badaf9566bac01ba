"""The measurements. Each prints its own table."""
import calendar, os, re, statistics, subprocess, sys, time

import load, peers
from peers import InSandbox, Portolan
from places import Place, Process, ask, cpu, memory, until


class Run:
    """Whatever was started, so that it is ended."""

    def __init__(self, program, echo, folder, rounds, seconds):
        self.program, self.echo, self.folder, self.rounds, self.seconds = program, echo, folder, rounds, seconds
        self.started = []

    def keep(self, it):
        self.started.append(it)
        return it

    def end(self):
        while self.started:
            self.started.pop().end()


def spread(values, form="{:.2f}"):
    low, high = (form.format(it) for it in (min(values), max(values)))
    return f"{form.format(statistics.median(values))} ({low}-{high})"


def compare(run, servers, ours, targets=None):
    """CPU per answer of each server, round by round; `ours` is what the others are divided by."""
    files = {it.name: load.questions(it.folder, [name + it.domain for name in it.names]) for it in servers}
    spent = {it.name: [] for it in servers}
    rates = {it.name: [] for it in servers}
    for server in servers:
        server.ready()
        load.dnsperf(server.place, server.server, files[server.name], 1, *server.more)
    for number in range(run.rounds):
        # The order turns, so that nobody always follows the same neighbour.
        for server in servers[number % len(servers):] + servers[:number % len(servers)]:
            before = server.cpu()
            result = load.dnsperf(server.place, server.server, files[server.name], run.seconds, *server.more)
            spent[server.name].append((server.cpu() - before) / result.answered * 1e6)
            rates[server.name].append(result.rate / 1000)
    print(f"{'':30} {'version':>24} {'CPU us/answer':>22} {'k answers/s':>12} {'portolan is x':>20} {'target':>7}")
    for server in servers:
        ratio = [it / own for it, own in zip(spent[server.name], spent[ours])]
        target = (targets or {}).get(server.name)
        verdict = f"{target}" + (" ok" if statistics.median(ratio) >= target else " NO") if target else ""
        print(f"{server.name:30} {server.version:>24} {spread(spent[server.name]):>22} "
              f"{statistics.median(rates[server.name]):12.0f} {spread(ratio):>20} {verdict:>7}", flush=True)
    return spent


def sandboxes(run):
    """One portolan with two sandboxes: 1,000 names with a task each, and 1,000 names with a VIP each."""
    portolan = run.keep(Portolan(run.folder, run.program))
    plain, vips = Place(), Place()
    portolan.up(peers.network("net", "10.0.0.0/8") + peers.services("net") + peers.sandbox("plain", plain, "net")
                + peers.network("vip", "10.0.0.0/8") + peers.services("vip", mode="vip", first="v")
                + peers.sandbox("vips", vips, "vip"))
    return InSandbox("portolan", portolan, plain), InSandbox("portolan, 1,000 VIPs there", portolan, vips, "v")


def table(run):
    ours, vips = sandboxes(run)
    servers = [
        ours,
        vips,
        run.keep(peers.echo(run.folder, "echo, tokio", run.echo, "tokio")),
        run.keep(peers.echo(run.folder, "echo, tokio, behind our table", run.echo, "tokio", peers.TABLE)),
        run.keep(peers.echo(run.folder, "echo, recvmmsg", run.echo, "batch")),
        run.keep(peers.echo(run.folder, "echo, recvmmsg, behind table", run.echo, "batch", peers.TABLE)),
        *[run.keep(it(run.folder)) for it in (peers.knot, peers.dnsmasq, peers.unbound, peers.aardvark)],
        run.keep(peers.aardvark(run.folder, "aardvark-dns, NAME.dns.podman", ".dns.podman")),
    ]
    only = os.environ.get("ONLY", "")
    servers = [it for it in servers if it is ours or re.search(only, it.name)]
    if re.search(only, "Docker's own") and os.environ.get("ENGINE", "1") != "0":
        servers.append(run.keep(peers.Engine(run.program)))
    compare(run, servers, "portolan", {
        "echo, tokio": 0.95, "Knot DNS": 0.9, "dnsmasq": 1.3, "Docker's own": 2.5, "aardvark-dns, NAME.dns.podman": 15})


def cache(run):
    """Names of a scripted upstream whose answers last an hour, asked until all are cached."""
    portolan = run.keep(Portolan(run.folder, run.program))
    upstream = run.keep(Process(portolan.place, os.path.join(run.folder, "upstream"), run.echo, "upstream", "127.0.0.1:53"))
    inside = Place()
    portolan.up(peers.network("net", "10.0.0.0/8") + peers.services("net")
                + peers.sandbox("asker", inside, "net", ["127.0.0.1:53"]))
    ours = InSandbox("portolan", portolan, inside)
    ours.ready()
    own = load.questions(run.folder, peers.names())
    foreign = load.questions(run.folder, [f"n{it}.example.com" for it in range(load.NAMES)], "foreign")
    load.dnsperf(inside, ours.server, foreign, 5, "-q", "20", "-n", "1")
    spent = {"local": [], "cached": []}
    before, upstream_before = portolan.cpu(), cpu(upstream.pid)
    for number in range(run.rounds):
        both = [("local", own), ("cached", foreign)]
        for what, file in both if number % 2 else both[::-1]:
            before = portolan.cpu()
            result = load.dnsperf(inside, ours.server, file, run.seconds)
            spent[what].append((portolan.cpu() - before) / result.answered * 1e6)
    ratio = [a / b for a, b in zip(spent["local"], spent["cached"])]
    print(f"local {spread(spent['local'])} us, cached {spread(spent['cached'])} us of CPU an answer: "
          f"cached is x {spread(ratio)} of local, target 0.8; upstream used {cpu(upstream.pid) - upstream_before:.2f} s of CPU")


def flood(run):
    """Three arms, interleaved: alone; somebody else is flooded; portolan is flooded through another sandbox."""
    portolan = run.keep(Portolan(run.folder, run.program))
    other = run.keep(peers.echo(run.folder, "somebody else", run.echo, "batch"))
    quiet, loud = Place(), Place()
    # Datagrams to this upstream are taken, and nobody reads them.
    portolan.place.run("ip", "address", "add", "192.0.2.53/32", "dev", "lo")
    hole = portolan.place.bound("192.0.2.53", 53)
    portolan.up(peers.network("net", "10.0.0.0/8") + peers.services("net")
                + peers.sandbox("quiet", quiet, "net") + peers.sandbox("loud", loud, "net", ["192.0.2.53:53"]))
    InSandbox("portolan", portolan, quiet).ready()
    InSandbox("portolan", portolan, loud).ready()
    own = load.questions(run.folder, peers.names())
    unknown = load.questions(run.folder, [f"n{it}.unknown.test" for it in range(100_000)], "unknown")
    arms = {"alone": None, "somebody else flooded": other.place, "portolan flooded": loud}
    seen = {it: {"p50": [], "p99": [], "p99.9": [], "lost": 0, "flood": []} for it in arms}
    for number in range(run.rounds):
        names = list(arms)
        for arm in names[number % 3:] + names[:number % 3]:
            noise = arms[arm] and subprocess.Popen(
                arms[arm].words("dnsperf", "-s", "127.0.0.11", "-d", unknown, "-l", str(run.seconds + 1.5), "-T", "1", "-c", "2",
                                "-q", "60000", "-Q", "100000", "-t", "1"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            time.sleep(0.7)
            result = load.dnsperf(quiet, "127.0.0.11", own, run.seconds, "-Q", "10000", "-v", strict=False)
            times = sorted(it * 1000 for it in result.latencies)
            for what, share in (("p50", .5), ("p99", .99), ("p99.9", .999)):
                seen[arm][what].append(times[int(len(times) * share)])
            seen[arm]["lost"] += result.lost
            if noise:
                seen[arm]["flood"].append(load.Result(noise.communicate()[0]).sent / (run.seconds + 1.5) / 1000)
    hole.close()
    for arm, what in seen.items():
        rate = f"{statistics.median(what['flood']):.0f}k q/s of flood" if what["flood"] else ""
        print(f"{arm:24} p50 {spread(what['p50'], '{:.3f}')} ms, p99 {spread(what['p99'], '{:.3f}')} ms, "
              f"p99.9 {spread(what['p99.9'], '{:.3f}')} ms, lost {what['lost']:.0f} {rate}", flush=True)


def change(run):
    """From the rename of a changed world file to the first changed answer."""
    portolan = run.keep(Portolan(run.folder, run.program))
    places = [Place() for _ in range(100)]
    base = peers.network("net", "10.0.0.0/8") + peers.services("net", tasks=5) + "".join(
        peers.sandbox(f"b{n}", it, "net") for n, it in enumerate(places))
    portolan.up(base)
    ours = InSandbox("portolan", portolan, places[0])
    ours.ready()
    sock = places[0].client()
    until(lambda: portolan.logged().count("took over DNS") == len(places), "100 sandboxes")
    whole, after = [], []
    for number in range(run.rounds * 4):
        wanted = bytes([10, 250, 0, number])
        portolan.file("world.new", base + f'[[task]]\nname = "new"\naddresses = {{ net = "10.250.0.{number}" }}\n')
        begun, read = time.time(), len(moments(portolan, "world file read"))
        os.rename(os.path.join(portolan.folder, "world.new"), portolan.world)
        while ask(sock, "new", number) != wanted:
            if time.time() > begun + 10:
                sys.exit("the change did not come")
        seen = time.time()
        whole.append((seen - begun) * 1000)
        # Said right after the snapshot was given to the consumers.
        stamps = until(lambda: (found := moments(portolan, "world file read"))[read:] and found, "the log's line")
        after.append((seen - stamps[-1]) * 1000)
        time.sleep(0.3)
    print(f"5,000 tasks, 100 sandboxes, one task's address changed {len(whole)} times: {spread(whole)} ms from the file to "
          f"the answer, of it {spread(after)} ms after the snapshot (target 5)")


def moments(portolan, what):
    """When the log says so, in seconds of the epoch."""
    found = re.findall(rf"^\W*(?:\x1b\[\d+m)?([\d-]+T[\d:]+)\.(\d+)Z.*{what}", portolan.logged(), re.M)
    return [calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + float(f"0.{part}") for whole, part in found]


def many(run):
    """500 sandboxes, small and large worlds, set up at once."""
    for count, tasks in ((100, 1), (1000, 5)):
        portolan = run.keep(Portolan(run.folder, run.program, f"portolan-{count}"))
        places = [Place() for _ in range(500)]
        begun = time.monotonic()
        portolan.up(peers.network("net", "10.0.0.0/8") + peers.services("net", count, tasks)
                    + "".join(peers.sandbox(f"b{n}", it, "net") for n, it in enumerate(places)))
        until(lambda: portolan.logged().count("took over DNS") == len(places), "500 sandboxes", 120)
        until(lambda: ask(places[-1].client(), "s1") is not None, "the last sandbox")
        total = time.monotonic() - begun
        stamps = moments(portolan, "took over DNS")
        each = (max(stamps) - min(stamps)) / (len(stamps) - 1) * 1000
        busy = portolan.cpu()
        time.sleep(5)
        idle = (portolan.cpu() - busy) / 5 * 100
        now, peak = memory(portolan.pid)
        print(f"500 sandboxes, {count} services x {tasks}: {now:.1f} MiB resident, {peak:.1f} at most (target 64); "
              f"{each:.2f} ms a sandbox (target 1), {total:.1f} s and {busy:.1f} s of CPU from the start; idle {idle:.1f} % of a core",
              flush=True)
        run.end()
        for it in places:
            os.close(it.fd)


def where(run):
    """Where the time of a busy resolver goes: its system calls, and its CPU samples by function."""
    file = load.questions(run.folder, peers.names())
    ours, _vips = sandboxes(run)
    ours.ready()
    busy = subprocess.Popen(ours.place.words(*load.words(ours.server, file, 12)), stdout=subprocess.DEVNULL)
    time.sleep(1)
    traced = subprocess.run(["timeout", "-s", "INT", "3", "strace", "-c", "-f", "-p", str(ours.pid)], capture_output=True, text=True)
    print("\n".join(it for it in traced.stderr.splitlines() if not it.startswith("strace:")))
    data = os.path.join(run.folder, "perf.data")
    recorded = subprocess.run(["perf", "record", "-q", "-e", "cpu-clock", "-F", "2999", "-g", "-o", data, "-p", str(ours.pid), "--", "sleep", "4"],
                              capture_output=True, text=True)
    busy.wait()
    if recorded.returncode:
        sys.exit(recorded.stderr)
    for what, more in (("by itself", ["--no-children"]), ("with what it calls", ["--children"])):
        said = subprocess.run(["perf", "report", "-i", data, "--stdio", "-g", "none", "--percent-limit", "0.8", *more],
                              capture_output=True, text=True).stdout
        lines = [it for it in said.splitlines() if it.strip() and not it.startswith("#")]
        print(f"-- samples, each function {what}", *lines[:45], sep="\n")
    if keep := os.environ.get("KEEP_PERF"):
        os.rename(data, keep)


def ways():
    """Ways to write the table in front of an echo at port 5300."""
    query = "meta l4proto {0} {0} dport 53 ip daddr @alive notrack {0} dport set 5300"
    reply = "meta l4proto {0} {0} sport 5300 ip saddr 127.0.0.11 notrack {0} sport set 53"
    both = [it.format(of) for of in ("udp", "tcp") for it in (query, reply)]
    none = "meta oif != 1 accept"
    table = lambda rules: ("table ip portolan_dns { set alive { type ipv4_addr; elements = { 127.0.0.11 } }\n"
                           "chain output { type filter hook output priority -300;\n" + "\n".join(rules) + "\n}\n}\n")
    return {
        "no table": None,
        "query, reply; UDP, TCP": table(both),
        "reply, query; UDP, TCP": table([both[1], both[0], both[3], both[2]]),
        "reply, query, each accepts": table([it + " accept" for it in (both[1], both[0], both[3], both[2])]),
        "not loopback: leave; as above": table([none, both[1], both[0], both[3], both[2]]),
        "port map to chains": (
            "table ip portolan_dns { set alive { type ipv4_addr; elements = { 127.0.0.11 } }\n"
            "chain q { ip daddr @alive notrack udp dport set 5300; }\n"
            "chain r { ip saddr 127.0.0.11 notrack udp sport set 53; }\n"
            "chain output { type filter hook output priority -300;\n"
            "ip daddr 127.0.0.11 meta l4proto . th dport vmap { udp . 53 : goto q };\n"
            "ip saddr 127.0.0.11 meta l4proto . th sport vmap { udp . 5300 : goto r }\n}\n}\n"),
        # What packets pay that are none of ours.
        "others' packets, no table": "",
        "others' packets, four rules": table([it.replace("53", "63") for it in both]),
        "others' packets, first rule leaves": table(["meta oif 1 accept", *both]),
    }


def order(run):
    file = load.questions(run.folder, peers.names())
    servers = []
    for name, text in ways().items():
        if name.startswith("others"):
            server = run.keep(peers.echo(run.folder, name, run.echo, "batch"))
            server.place.run("nft", "-f", "-", text=text)
        else:
            server = run.keep(peers.echo(run.folder, name, run.echo, "batch", text))
        servers.append(server)
    spent = {it.name: ([], []) for it in servers}
    for number in range(run.rounds):
        for server in servers[number % len(servers):] + servers[:number % len(servers)]:
            before, clients = server.cpu(), os.times()
            result = load.dnsperf(server.place, server.server, file, run.seconds)
            after = os.times()
            client = after.children_user + after.children_system - clients.children_user - clients.children_system
            for to, seconds in zip(spent[server.name], (server.cpu() - before, client)):
                to.append(seconds / result.answered * 1e6)
    print(f"{'':34} {'server us/answer':>22} {'client us/answer':>22}")
    for name, (server, client) in spent.items():
        print(f"{name:34} {spread(server):>22} {spread(client):>22}")
