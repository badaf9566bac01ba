"""Questions asked again and again from inside a container, without a program in between."""
import socket, struct, threading, time

from lab import enter


def question(name, serial, kind=1):
    octets = b"".join(bytes([len(it)]) + it.encode() for it in name.split("."))
    return struct.pack(">6H", serial, 0x0100, 1, 0, 0, 0) + octets + struct.pack(">BHH", 0, kind, 1)


def reply(octets):
    """(code, addresses, lowest TTL)."""
    code, answers = octets[3] & 15, struct.unpack(">H", octets[6:8])[0]
    at = octets.index(0, 12) + 5
    found, ttl = set(), None
    for _ in range(answers):
        while octets[at] and octets[at] & 0xC0 != 0xC0:
            at += 1 + octets[at]
        at += 2 if octets[at] & 0xC0 else 1
        kind, _, lives, length = struct.unpack(">HHIH", octets[at:at + 10])
        at += 10
        if kind == 1:
            found.add(socket.inet_ntoa(octets[at:at + length]))
            ttl = lives if ttl is None else min(ttl, lives)
        at += length
    return code, frozenset(found), ttl


class Asker(threading.Thread):
    """Asks one name every `pause` seconds in a process's namespace; keeps every reply that differs from the last.

    `port` may be a function, asked again when nobody answers.
    """

    def __init__(self, process, name, port=53, pause=0.1, patience=1.0):
        super().__init__(daemon=True)
        self.process, self.name_, self.port, self.pause, self.patience = process, name, port, pause, patience
        self.changes, self.asked, self.unanswered, self.worst, self.stopped = [], 0, [], 0.0, False
        self.start()

    def run(self):
        enter(self.process)
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect(("127.0.0.11", self.port() if callable(self.port) else self.port))
        while not self.stopped:
            self.asked += 1
            begun = time.time()
            said = self.once(sock, self.asked % 65536, begun + self.patience)
            self.worst = max(self.worst, time.time() - begun)
            if said is None:
                self.unanswered.append(begun)
                if callable(self.port) and (port := self.port()):
                    sock.connect(("127.0.0.11", port))
            elif not self.changes or self.changes[-1][1] != said:
                self.changes.append((time.time(), said))
            time.sleep(self.pause)

    def once(self, sock, serial, until):
        try:
            sock.send(question(self.name_, serial))
            while (left := until - time.time()) > 0:
                sock.settimeout(left)
                octets = sock.recv(4096)
                if octets[:2] == struct.pack(">H", serial):
                    return reply(octets)
        except OSError:
            # Refused: nobody listens. No sooner than the pause is it asked again.
            pass
        return None

    def last(self):
        return self.changes[-1][1] if self.changes else None

    def end(self):
        self.stopped = True
        self.join()
        return self

    def when(self, condition, since=0.0):
        """When its replies first fulfilled a condition, after `since`."""
        return next((at for at, said in self.changes if at >= since and condition(said)), None)
