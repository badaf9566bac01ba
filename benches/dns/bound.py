"""What the cache takes of the machine's memory, next to what it is allowed to hold."""
import os, threading

import load, peers
from peers import InSandbox, Portolan
from places import Place, Process, memory

QUESTIONS = 160_000
# Of each sandbox: below what one may ask outside.
RATE = 1900


def bound(run):
    """More names than fit, asked once each, from two sandboxes with servers of their own."""
    for megabytes in (0, 4, 16):
        portolan = run.keep(Portolan(run.folder, run.program, f"portolan-{megabytes}"))
        portolan.env["PORTOLAN_CONFIG"] += f"cache_bytes = {megabytes << 20}\n"
        inside = [Place(), Place()]
        text = peers.network("net", "10.0.0.0/8") + peers.services("net", 2)
        for number, place in enumerate(inside):
            server = f"127.0.0.{number + 1}:53"
            run.keep(Process(portolan.place, os.path.join(run.folder, "upstream"), run.echo, "upstream", server))
            text += peers.sandbox(f"b{number}", place, "net", [server])
        portolan.up(text)
        for place in inside:
            InSandbox("portolan", portolan, place).ready()
        before, _ = memory(portolan.pid)
        answered = [0, 0]

        def ask(number):
            names = (f"n{it}.of.a.name.as.long.as.usual.{number}.example.com" for it in range(QUESTIONS // 2))
            file = load.questions(run.folder, names, f"unique{number}")
            result = load.dnsperf(inside[number], "127.0.0.11", file, 120, "-n", "1", "-q", "50", "-Q", str(RATE), strict=False)
            answered[number] = result.good

        askers = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
        for it in askers:
            it.start()
        for it in askers:
            it.join()
        now, peak = memory(portolan.pid)
        print(f"cache_bytes = {megabytes} MiB: {sum(answered)} answers, {now - before:.1f} MiB more resident than before "
              f"({before:.1f}), {peak - before:.1f} at most", flush=True)
        run.end()
