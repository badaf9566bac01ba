"""The ways from a client to the four tasks of one service: who balances, where a client finds it."""
import os, shutil, subprocess

import peers
from field import PORT
from places import Process, until

LINE = "\n  "
VIP, TASKS = "10.201.0.1", [f"10.251.0.{it}" for it in range(1, 5)]
# What stands in the tables besides.
SERVICES, EACH = int(os.environ.get("SERVICES", "1000")), 5


class Way:
    """`place`: whence to call; `addresses`: whom; `processes`: whose CPU it costs besides the client's and the tasks'."""
    version, processes, datagrams = "", (), True

    def __init__(self, name, place, addresses):
        self.name, self.place, self.addresses = name, place, addresses


def direct(_run, field):
    """To each task in turns: no table, and no conntrack, in the client's namespace."""
    return Way("direct", field.host("10.250.0.1"), ",".join(TASKS))


def tracked(_run, field):
    """To each task in turns, from a namespace with rules as Docker makes them in each container of a network, for its DNS:
    they alone have connections tracked there. This is what a container has without a VIP."""
    way = Way("direct, as in a container", field.host("10.250.0.5"), ",".join(TASKS))
    way.place.run("nft", "-f", "-", text="""table ip nat {
  chain output { type nat hook output priority -100; ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:40000; }
  chain postrouting { type nat hook postrouting priority 100; ip saddr 127.0.0.11 udp sport 40000 snat to :53; }
}""")
    return way


def service(drained=()):
    """The service of the bench, for a world file; some of its tasks draining."""
    text = f'[[service]]\nname = "bench"\nmode = "vip"\nnetworks = ["net"]\nvip = {{ net = "{VIP}" }}\n'
    for number, address in enumerate(TASKS):
        state = 'state = "draining"\n' if number in drained else ""
        text += f'[[task]]\nname = "bench.{number}"\nservice = "bench"\naddresses = {{ net = "{address}" }}\n{state}'
    return text


def world(place, drained=(), others=SERVICES):
    return (peers.network("net", "10.0.0.0/8") + peers.services("net", others, EACH, "vip") + service(drained)
            + peers.sandbox("client", place, "net"))


def portolan(run, field, others=SERVICES):
    """Our table in the client's namespace."""
    place = field.host("10.250.0.2")
    ours = run.keep(peers.Portolan(run.folder, run.program))
    ours.up(world(place, others=others))
    until(lambda: field.call(place, "requests", VIP, 1, check=False), f"portolan (see {ours.folder}/log)")
    way = Way("portolan", place, VIP)
    way.portolan, way.version = ours, ours.version
    return way


def kube_table():
    """kube-proxy's layout (pkg/proxy/nftables): a chain for each service, port and endpoint, a masquerade mark on what
    comes back to its sender, rules for services without endpoints and for cluster addresses without the port."""
    services = {peers_vip(n): [peers.address(n + (task << 16)) for task in range(EACH)] for n in range(SERVICES)}
    services[VIP] = TASKS
    chains, elements, number = [], [], 0
    for vip, tasks in services.items():
        for protocol in ("tcp", "udp"):
            number += 1
            name = f"service-{number:08X}-default/s{number}/{protocol}/p"
            ends = [f"endpoint-{number:05X}{it:03X}-default/s{number}/{protocol}/p__{task}/{PORT}" for it, task in enumerate(tasks)]
            for end, task in zip(ends, tasks):
                chains.append(f'chain {end} {{ ip saddr {task} jump mark-for-masquerade; meta l4proto {protocol} dnat to {task}:{PORT}; }}')
            choices = ", ".join(f'{it} : goto {end}' for it, end in enumerate(ends))
            chains.append(f'chain {name} {{ numgen random mod {len(ends)} vmap {{ {choices} }}; }}')
            elements.append(f'{vip} . {protocol} . {PORT} : goto {name}')
    return f"""table ip kube-proxy {{
  set cluster-ips {{ type ipv4_addr; elements = {{ {", ".join(services)} }}; }}
  map no-endpoint-services {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
  map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {", ".join(elements)} }}; }}
  chain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}
  chain masquerading {{ meta mark and 0x4000 == 0 return; meta mark set meta mark xor 0x4000; masquerade fully-random; }}
  chain reject-chain {{ reject; }}
  {LINE.join(chains)}
  chain cluster-ips-check {{ ip daddr @cluster-ips reject; }}
  chain service-endpoints-check {{ ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }}
  chain services {{ ip daddr . meta l4proto . th dport vmap @service-ips; }}
  chain filter-prerouting {{ type filter hook prerouting priority -110; ct state new jump service-endpoints-check; }}
  chain filter-input {{ type filter hook input priority -110; ct state new jump service-endpoints-check; }}
  chain filter-forward {{ type filter hook forward priority -110; ct state new jump service-endpoints-check; ct state new jump cluster-ips-check; }}
  chain filter-output {{ type filter hook output priority -110; ct state new jump service-endpoints-check; }}
  chain filter-output-post-dnat {{ type filter hook output priority -90; ct state new jump cluster-ips-check; }}
  chain nat-prerouting {{ type nat hook prerouting priority -100; jump services; }}
  chain nat-output {{ type nat hook output priority -100; jump services; }}
  chain nat-postrouting {{ type nat hook postrouting priority 100; jump masquerading; }}
}}
"""


def peers_vip(number):
    """As peers.services gives them."""
    return f"10.200.{number >> 8}.{number & 255}"


def kube(_run, field):
    """kube-proxy's layout, in the client's own namespace: there is no hop to a host's namespace in between."""
    way = Way("kube-proxy's layout", field.host("10.250.0.3"), VIP)
    way.place.run("nft", "-f", "-", text=kube_table())
    return way


def haproxy(run, field):
    """HAProxy in tcp mode at the VIP, in the client's namespace; splice wherever it can."""
    way = Way("HAProxy, tcp", field.host("10.250.0.4"), VIP)
    way.place.run("ip", "address", "add", f"{VIP}/32", "dev", "lo")
    conf, servers = os.path.join(run.folder, "haproxy.cfg"), "".join(f"  server t{n} {it}:{PORT}\n" for n, it in enumerate(TASKS))
    with open(conf, "w") as out:
        out.write("global\n  nbthread 1\n  maxconn 4000\ndefaults\n  mode tcp\n  option splice-auto\n  timeout connect 5s\n"
                  f"  timeout client 1h\n  timeout server 1h\nlisten bench\n  bind {VIP}:{PORT}\n  balance roundrobin\n{servers}")
    way.version, way.datagrams = peers.version("haproxy", "-v"), False
    way.processes = [run.keep(Process(way.place, os.path.join(run.folder, "haproxy.log"), "haproxy", "-db", "-f", conf)).pid]
    until(lambda: field.call(way.place, "requests", VIP, 1, check=False), "HAProxy")
    return way


def ipvs_table():
    """Each service of the table by TCP and by UDP, its tasks in turns, their addresses in place of the VIP's."""
    services = {peers_vip(n): [peers.address(n + (task << 16)) for task in range(EACH)] for n in range(SERVICES)}
    lines = []
    for vip, tasks in {**services, VIP: TASKS}.items():
        for flag in ("-t", "-u"):
            lines.append(f"-A {flag} {vip}:{PORT} -s rr")
            lines += [f"-a {flag} {vip}:{PORT} -r {it}:{PORT} -m" for it in tasks]
    return "\n".join(lines) + "\n"


def ipvs(_run, field):
    """The kernel's own balancer, as keepalived and Swarm set it up, in the client's own namespace. The VIP is no address
    there, or it would be the client's; what is sent to it is led away before it leaves."""
    way = Way("IPVS", field.host("10.250.0.6"), VIP)
    way.version = peers.version("ipvsadm", "--version")
    way.place.run("ipvsadm", "-R", text=ipvs_table())
    until(lambda: field.call(way.place, "requests", VIP, 1, check=False), "IPVS")
    return way


def has_ipvs():
    """Whether this kernel has it; modules are asked for, where there are any. Without `ipvsadm` nobody can set it up."""
    if not os.path.exists("/proc/net/ip_vs") and shutil.which("modprobe"):
        subprocess.run(["modprobe", "ip_vs"], capture_output=True)
    return os.path.exists("/proc/net/ip_vs") and shutil.which("ipvsadm") is not None
