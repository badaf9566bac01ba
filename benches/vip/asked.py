"""A published port asked from anywhere, by TCP and UDP, over IPv4 and IPv6: who answers, whom he sees, what else happens."""
import ctypes, socket, time

from lab import CLONE_NEWNET, libc
from places import elsewhere

KINDS = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM}
# More than a task needs, fewer than a lost packet's second times the calls that are made.
PATIENCE = 2.0


class Asked:
    """What came of so many questions."""

    def __init__(self):
        self.hosts, self.peers, self.refused, self.others, self.worst = {}, set(), 0, {}, 0.0

    def nodes(self):
        return {it.rsplit(".", 1)[-1] for it in self.hosts}

    def answered(self):
        return sum(self.hosts.values())

    def __str__(self):
        said = " ".join(f"{host}={count}" for host, count in sorted(self.hosts.items()))
        said += f" see {' '.join(sorted(self.peers))}" if self.peers else ""
        said += f" refused {self.refused}" if self.refused else ""
        return " ".join([said.strip(), *(f"{what} {count}" for what, count in self.others.items())]) + f", worst {self.worst * 1000:.0f} ms"


def once(kind, address, port):
    """The words of an answer: name, host, peer, state."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, KINDS[kind]) as sock:
        sock.settimeout(PATIENCE)
        sock.connect((address, port))
        if kind == "UDP":
            sock.send(b"who")
            return sock.recv(512).decode().split()
        sock.sendall(b"GET / HTTP/1.1\r\nHost: show\r\n\r\n")
        text = b""
        while more := sock.recv(4096):
            text += more
        return text.partition(b"\r\n\r\n")[2].decode().split()


def asked(place, kind, address, port, name, count=40):
    """Asks from the namespace with that path; whoever answers must be of `name`."""
    def ask():
        with open(place) as netns:
            if libc.setns(netns.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        found = Asked()
        for _ in range(count):
            begun = time.perf_counter()
            try:
                words = once(kind, address, port)
                who, host, peer, *_ = words if len(words) > 2 else ["nobody", "-", "-"]
                if who != name:
                    found.others["wrong"] = found.others.get("wrong", 0) + 1
                found.hosts[host] = found.hosts.get(host, 0) + 1
                found.peers.add(peer.rpartition(":")[0])
            except ConnectionRefusedError:
                found.refused += 1
            except OSError as error:
                what = str(error).replace(" ", "_")
                found.others[what] = found.others.get(what, 0) + 1
            found.worst = max(found.worst, time.perf_counter() - begun)
            if found.others and sum(found.others.values()) > 4:
                break
        return found
    return elsewhere(ask)
