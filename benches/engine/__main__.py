"""Shows portolan on a real two-node Swarm, next to the engine's own resolver.

    sudo python3 benches/engine PORTOLAN [names|clients|draining|restarts|crash|storm|shared]...     (LAB_ENGINE=trixie|sid for newer engines)

names     every kind of name asked with dig of the engine's own resolver and of portolan, in a container on the manager
          and on the worker, side by side: the same, or different on purpose and why
clients   getent, dnspython, musl, Go and Node in containers resolve a service, its tasks and a name outside
draining  a task that takes 10 s to stop: when it leaves tasks.NAME, on either node, by either resolver
restarts  the engine restarted and killed under live containers: questions unanswered meanwhile
crash     a worker's engine killed in a Swarm, and what its containers are told until it is back
storm     100 containers (COUNT) started as fast as the engine can: served, and nothing left of them
shared    containers in one namespace; networks connected and disconnected while containers run

It brings up the lab of tests/lab, and takes it down again (KEEP_LAB=1: not). Exit 1 when something is not as it
should be. All load stays in the lab's namespaces; docker-compose is used where it is installed;
clients takes its programs from the machine: python3-dnspython, golang, nodejs, musl-tools.
"""
import os, sys

import life
from clients import clients
from lab import Lab
from names import side_by_side

WHAT = {"names": side_by_side, "clients": clients, "draining": life.draining, "restarts": life.restarts, "crash": life.crash,
        "storm": life.storm, "shared": life.shared}


def main():
    what = sys.argv[2:] or list(WHAT)
    if len(sys.argv) < 2 or os.geteuid() or not set(what) <= set(WHAT):
        sys.exit(__doc__)
    failed = []
    for name in what:
        print(f"\n== {name}", flush=True)
        lab = Lab(sys.argv[1])
        try:
            if not WHAT[name](lab):
                failed.append(name)
        except RuntimeError as error:
            print(error)
            failed.append(name)
        finally:
            lab.down()
    sys.exit(f"not as it should be: {', '.join(failed)}" if failed else 0)


main()
