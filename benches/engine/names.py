"""Each kind of name asked of the engine's own resolver and of portolan, side by side, and a verdict on each difference."""
import re
from collections import namedtuple

import world
from lab import NODES, engine_port, inside, our_port, wait

Said = namedtuple("Said", "code answers ttl micros outside")


def nothing(said):
    return said.code == "NOERROR" and not said.answers


def here(said):
    return not said.outside and {it[0] for it in said.answers}


# What portolan does otherwise on purpose: when that may be said (engine, portolan), and the sentence.
ON_PURPOSE = {
    "mine": (lambda e, p: e.outside and nothing(p) and not p.outside,
             "a name of its own is never asked outside: no data, with a SOA"),
    "vip": (lambda e, p: e.outside and here(p) == {"A"} and len(p.answers) == 1,
            "a service without tasks keeps its VIP, where calls are refused at once"),
    "tasks": (lambda e, p: e.outside and here(p) == {"A"}, "compose services have tasks.NAME too"),
    "renamed": (lambda e, p: e.outside and here(p) == {"A"} and len(p.answers) == 1,
                "a renamed container has its new name at once, and keeps the old one as the engine does"),
    "any": (lambda e, p: not e.answers and here(p) == {"HINFO"},
            "ANY of its own name stays here, and is one HINFO (RFC 8482)"),
    "srv": (lambda e, p: e.outside and here(p) == {"SRV"},
            "SRV is answered: ports of the service, one record a task"),
    "ptr": (lambda e, p: not e.answers and here(p) == {"PTR"},
            "every address has its name: VIPs too, and in any case of letters"),
    "hosts": (lambda e, p: e.outside and here(p) == {"A"},
              "what stands in the container's hosts file is answered over DNS too"),
    "local": (lambda e, p: e.outside and not p.outside and p.answers == [("A", "127.0.0.1")],
              "localhost is loopback (RFC 6761)"),
    "case": (lambda e, p: not e.answers and bool(here(p)),
             "letters' case does not matter, in links and networks as elsewhere"),
    # Not better, and known: gossip carries container names of other nodes, and no other names of theirs.
    "near": (lambda e, p: not p.outside and len(p.answers) == 1 and set(p.answers) < set(e.answers),
             "a limit: of a hostname or alias shared by plain containers of several nodes, this node's own answers alone"),
}

# (what the row shows, the name, the type, the difference that may be there)
ROWS = [
    ("container", "box", "A", None), ("container, IPv6", "box", "AAAA", None), ("container.network", "box.duo", "A", None),
    ("its name in other letters", "BoX", "A", None), ("network in other letters", "box.DUO", "A", "case"),
    ("network alias", "boxy", "A", None), ("network alias, IPv6", "boxy", "AAAA", None),
    ("short id", "{box_id}", "A", None), ("--hostname", "box-host", "A", None), ("--hostname.network", "box-host.duo", "A", None),
    ("hostname on two nodes", "asker-host", "A", "near"), ("own hostname.domain", "asker-host.lab.test", "A", "hosts"),
    ("name on two nodes", "asker", "A", None),
    ("renamed container", "after", "A", "renamed"), ("its name before", "before", "A", None), ("its alias", "kept", "A", None),
    ("link", "Crate", "A", None), ("link in other letters", "crate", "A", "case"), ("link, IPv6", "Crate", "AAAA", None),
    ("compose service x 2", "store", "A", None), ("compose alias", "shelf", "A", None), ("compose service", "till", "A", None),
    ("compose container", "shop_store_1", "A", None), ("compose.network", "store.shop_default", "A", None),
    ("tasks.COMPOSE", "tasks.store", "A", "tasks"),
    ("service, VIP", "counter_web", "A", None), ("service alias, VIP", "web", "A", None),
    ("service, dnsrr", "counter_app", "A", None), ("service alias, dnsrr", "app", "A", None),
    ("service.network", "counter_web.frontend", "A", None), ("alias.network", "web.frontend", "A", None),
    ("tasks.SERVICE", "tasks.counter_web", "A", None), ("tasks.ALIAS", "tasks.web", "A", None),
    ("tasks.ALIAS, dnsrr", "tasks.app", "A", None), ("tasks.ALIAS.network", "tasks.web.frontend", "A", None),
    ("alias of two services", "twin", "A", None), ("tasks.ALIAS of two", "tasks.twin", "A", None),
    ("task", "{plain_task}", "A", None), ("task with a hostname", "{web_task}", "A", None),
    ("task.network", "{plain_task}.frontend", "A", None),
    *[("task's hostname", f"counter_app.{it}", "A", None) for it in range(1, 6)], ("service.slot", "more_plain.1", "A", None),
    ("service, no task", "more_idle", "A", "vip"), ("alias, no task", "lazy", "A", "vip"),
    ("tasks.SERVICE, no task", "tasks.more_idle", "A", "mine"),
    ("name on ingress", "more_pub.ingress", "A", None), ("published service", "pub", "A", None),
    ("other network's service", "db", "A", None), ("other network's by name", "db.backend", "A", None),
    ("--add-host", "extra.lab", "A", "hosts"), ("host.docker.internal", "host.docker.internal", "A", "hosts"),
    ("localhost", "localhost", "A", "local"),
    ("service, AAAA", "web", "AAAA", None), ("compose, AAAA", "store", "AAAA", None),
    ("service, MX", "web", "MX", None), ("container, MX", "box", "MX", None),
    ("service, TXT", "web", "TXT", "mine"), ("container, HTTPS", "box", "TYPE65", "mine"), ("dnsrr, NS", "app", "NS", "mine"),
    ("service, ANY", "web", "ANY", "any"), ("service, SRV", "web", "SRV", "mine"),
    ("SRV by port", "_8080._tcp.more_pub", "SRV", "srv"), ("SRV by name", "_more_pub._tcp.more_pub", "SRV", "srv"),
    ("PTR, container", "{box4}", "-x", None), ("PTR, container, IPv6", "{box6}", "-x", None),
    ("PTR, asker on overlay", "{asker4}", "-x", None), ("PTR, VIP", "{vip}", "-x", "ptr"),
    ("PTR in other letters", "{box4_upper}", "PTR", "ptr"), ("PTR, nobody's", "{nobody}", "-x", None),
    ("unknown, short", "nosuch", "A", None), ("unknown, short, AAAA", "nosuch", "AAAA", None),
    ("outside", "ext.example", "A", None), ("outside, IPv6", "ext.example", "AAAA", None),
    ("outside, alias", "www.ext.example", "A", None), ("outside, TXT", "ext.example", "TXT", None),
    ("outside, MX", "ext.example", "MX", None), ("outside, no such", "nosuch.example", "A", None),
    ("outside, PTR", "192.0.2.80", "-x", None),
]


def ask(lab, process, port, name, kind):
    before = lab.asked.stat().st_size
    words = ["-x", name] if kind == "-x" else ["-t", kind, "-q", name]
    said = inside(process, "dig", "@127.0.0.11", "-p", port, "-u", "+time=5", "+tries=1", "+notcp", "+nocookie", *words, check=False)
    outside = lab.asked.open()
    outside.seek(before)
    asked = {it.split()[0] for it in outside}
    code, owner = re.search(r"status: (\w+)", said), re.search(r"(?m)^;(\S+)\s+(?:IN|CLASS)", said)
    if not code:
        return Said("silence", [], None, None, name.lower() in asked)
    section = re.search(r"(?s);; ANSWER SECTION:\n(.*?)\n\n", said + "\n\n")
    records = [it.split(None, 4) for it in section[1].splitlines()] if section else []
    micros = int(re.search(r"Query time: (\d+) usec", said)[1])
    return Said(code[1], sorted((it[3], it[4]) for it in records), min((int(it[1]) for it in records), default=None),
                micros, owner and owner[1].rstrip(".").lower() in asked)


def verdict(engine, portolan, reason):
    same = engine.code == portolan.code and engine.answers == portolan.answers
    if not portolan.outside and portolan.ttl is not None and portolan.ttl > 30 and engine.ttl == 600:
        return "UNEXPLAINED: a local answer that lives longer than 30 s"
    if same:
        return "same"
    if reason and ON_PURPOSE[reason][0](engine, portolan):
        return f"differs: {reason}"
    return "UNEXPLAINED"


def shown(said):
    if said.answers and len({it[0] for it in said.answers}) == 1:
        values = [it[1] for it in said.answers]
        text = values[0] if len(values) == 1 else f"{len(values)} x {values[0]} .."
    else:
        text = ", ".join(" ".join(it) for it in said.answers) or "-"
    text = text if len(text) < 34 else f"{text[:31]}..."
    ttl = "" if said.ttl is None else said.ttl
    time = "" if said.micros is None else f"{said.micros / 1000:.1f}"
    return f"{said.code:8} {text:34} {ttl:>4} {time:>6} {'yes' if said.outside else '':3}"


def default_bridge(node):
    """The engine leaves the default bridge without a resolver, and so do we."""
    process = world.pid(node, "lone")
    said = inside(process, "dig", "@127.0.0.11", "+time=1", "+tries=1", "box", check=False)
    nobody = "no servers could be reached" in said or "connection refused" in said
    return nobody and our_port(process) is None


def side_by_side(lab):
    askers = world.build(lab)
    lab.portolan()
    for node, process in askers.items():
        wait(lambda: our_port(process), f"portolan in the asker of {node}")
    world.settle(askers)
    print(f"engine {lab.version}; asked in a container on each node; time in ms; out: the server outside was asked\n")
    counts = {}
    for node in NODES:
        process, facts = askers[node], world.facts(node)
        facts["box4_upper"] = ".".join(facts["box4"].split(".")[::-1]) + ".IN-ADDR.ARPA"
        facts["nobody"] = facts["box4"].rsplit(".", 1)[0] + ".250"
        print(f"{node} ({'manager' if node == 'node1' else 'worker'})")
        print(f"{'what':24} {'name':34} {'type':6} | {'engine':8} {'answers':34} {'ttl':>4} {'time':>6} out | "
              f"{'portolan':8} {'answers':34} {'ttl':>4} {'time':>6} out | verdict")
        for what, name, kind, reason in ROWS:
            name = name.format(**facts)
            engine = ask(lab, process, engine_port(process), name, kind)
            portolan = ask(lab, process, 53, name, kind)
            said = verdict(engine, portolan, reason)
            counts[said] = counts.get(said, 0) + 1
            print(f"{what:24} {name[:34]:34} {'PTR' if kind == '-x' else kind:6} | {shown(engine)} | {shown(portolan)} | {said}", flush=True)
            if said.startswith("UNEXPLAINED"):
                print(f"    engine   {engine}\n    portolan {portolan}")
        fine = default_bridge(node)
        counts["same" if fine else "UNEXPLAINED"] = counts.get("same" if fine else "UNEXPLAINED", 0) + 1
        print(f"{'on the default bridge':24} {'box':34} {'A':6} | nobody answers, of either | {'same' if fine else 'UNEXPLAINED'}\n")
    for reason, (_, sentence) in ON_PURPOSE.items():
        if f"differs: {reason}" in counts:
            print(f"{reason:8} {counts[f'differs: {reason}']:3} rows: {sentence}")
    print(f"same: {counts.get('same', 0)} rows")
    return not any(it.startswith("UNEXPLAINED") for it in counts)
