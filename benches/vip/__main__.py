"""Measures VIPs next to none and to others, and shows them on a real two-node Swarm.

    sudo python3 benches/vip PORTOLAN [SECTION]...     (ROUNDS=9 SECONDS=2)

Between namespaces of this machine, rounds interleaved, ratios of one run:
table    TCP octets, new connections, UDP packets: direct, portolan, kube-proxy's nftables layout, HAProxy in tcp mode,
         and IPVS where the kernel has it and ipvsadm is there
         (ONLY=connections|streams|datagrams)
relay    the userspace plane next to HAProxy in tcp mode: CPU per octet and per connection of the one in the middle
swaps    10,000 changes of a service's tasks (SWAPS) under a load of connects: none may fail
many     100 sandboxes (SANDBOXES) x 1,000 services: memory of the process and of the kernel (what else runs moves the latter)

On the Swarm of tests/lab (LAB_ENGINE=trixie|sid for newer engines):
even     400 connections from each node to a service of four tasks, alone and in turns with another; UDP, ICMP, no task
rolling  a service updated (stop-first, start-first) and scaled at 200 connections a second: none may fail. LATE=1: tasks
         listen on after SIGTERM for a second, when nobody new may come
outside  the same from outside through the routing mesh
killed   a task that hangs, a node unplugged, its engine killed: how long its tasks are still called, with health checks and without
download 200 MB through a VIP while its service scales and portolan is killed, restarted, upgraded; nft flush ruleset
moved    a UDP client with a fixed port: its task is killed, who answers when
published TCP and UDP ports from everywhere, IPv6 too; rp_filter=1 before; bind by label; ports moved at 50 connections a second
mesh     octets through a published port of a remote node, next to the overlay's own path
churn    30 minutes (MINUTES) of chance under load: wrong answers, growth, and what `portolan verify` finds at the end

Exit 1 when something is not as it should be. PORTOLAN is a release build; wants cc, nft, conntrack, haproxy.
"""
import importlib, os, pathlib, shutil, sys, tempfile

HERE = pathlib.Path(__file__).resolve().parent
# Namespaces and peers are the DNS bench's, the Swarm's lab is the engine bench's.
sys.path += [str(HERE.parent / "dns"), str(HERE.parent / "engine")]
import field, parts

# Each is a function of its own name, or of the name behind the colon, in the file before it.
SECTIONS = {"table": "table", "relay": "relay", "swaps": "swaps", "many": "many",
            "even": "even", "rolling": "rolling", "outside": "rolling:through_mesh", "killed": "killed",
            "download": "download", "moved": "moved", "churn": "churn", "mesh": "mesh", "published": "published"}
DEFAULT = ["table", "swaps"]


def main():
    what = sys.argv[2:] or DEFAULT
    if len(sys.argv) < 2 or os.geteuid() or not set(what) <= set(SECTIONS):
        sys.exit(__doc__)
    folder = field.build(tempfile.mkdtemp(prefix="vip-bench-"))
    run = parts.Run(os.path.abspath(sys.argv[1]), None, folder, int(os.environ.get("ROUNDS", "9")), float(os.environ.get("SECONDS", "2")))
    failed = []
    try:
        for name in what:
            print(f"\n== {name}", flush=True)
            module, _, function = SECTIONS[name].partition(":")
            if getattr(importlib.import_module(module), function or module)(run) is False:
                failed.append(name)
            run.end()
    finally:
        run.end()
        if not os.environ.get("KEEP"):
            shutil.rmtree(folder)
    sys.exit(f"not as it should be: {', '.join(failed)}" if failed else 0)


main()
