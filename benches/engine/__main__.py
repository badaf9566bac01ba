"""Shows portolan on a real two-node Swarm, next to the engine's own resolver.

    sudo python3 benches/engine PORTOLAN [names]...     (LAB_ENGINE=trixie|sid for newer engines)

names   every kind of name asked with dig of the engine's own resolver and of portolan, in a container on the manager
        and on the worker, side by side: the same, or different on purpose and why

It brings up the lab of tests/lab, and takes it down again (KEEP_LAB=1: not). Exit 1 when something is not as it
should be. All load stays in the lab's namespaces; docker-compose is used where it is installed.
"""
import os, sys

from lab import Lab
from names import side_by_side

WHAT = {"names": side_by_side}


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
        finally:
            lab.down()
    sys.exit(f"not as it should be: {', '.join(failed)}" if failed else 0)


main()
