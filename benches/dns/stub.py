"""A client that asks as glibc does by default: a socket for each name, five seconds, two attempts (resolv.conf(5)).

    python3 stub.py SERVER FILE RATE    asks FILE's names round and round until standard input ends, then prints JSON
"""
import collections, json, random, select, socket, struct, sys, time

TIMEOUT, ATTEMPTS = 5.0, 2


class Question:
    __slots__ = ("octets", "begun", "sent", "attempt", "socket", "answered")

    def __init__(self, octets, now):
        self.octets, self.begun, self.sent, self.attempt, self.answered = octets, now, now, 0, False


class Stub:
    def __init__(self, server, names):
        self.server = (server, 53)
        self.tails = [b"".join(bytes([len(it)]) + it.encode() for it in name.split(".")) + b"\0\0\1\0\1" for name in names]
        self.poll, self.open, self.waiting = select.epoll(), {}, collections.deque()
        self.count = collections.Counter()
        self.ttls = collections.Counter()
        self.slowest = 0.0  # of those that were answered at the first attempt, in seconds

    def ask(self, now):
        tail = self.tails[self.count["asked"] % len(self.tails)]
        self.count["asked"] += 1
        question = Question(struct.pack(">6H", random.getrandbits(16), 0x0100, 1, 0, 0, 0) + tail, now)
        self.connect(question)
        self.send(question, now)

    def connect(self, question):
        question.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        question.socket.connect(self.server)
        self.open[question.socket.fileno()] = question
        self.poll.register(question.socket, select.EPOLLIN)

    def close(self, question):
        del self.open[question.socket.fileno()]
        question.socket.close()

    def send(self, question, now):
        """Once more; the last attempt's failure is the name's."""
        question.attempt, question.sent = question.attempt + 1, now
        try:
            question.socket.send(question.octets)
        except ConnectionRefusedError:
            return self.refused(question, now)
        self.waiting.append((now, question.attempt, question))

    def refused(self, question, now):
        """The next attempt begins at once, with another socket."""
        self.count["refused"] += 1
        self.close(question)
        if question.attempt < ATTEMPTS:
            self.connect(question)
            self.send(question, now)
        else:
            self.fail(question)

    def fail(self, question):
        question.answered = True
        self.count["failed"] += 1

    def receive(self, seconds):
        for fd, _ in self.poll.poll(seconds, 256):
            question = self.open.get(fd)
            try:
                reply = question.socket.recv(4096)
            except BlockingIOError:
                continue
            except ConnectionRefusedError:
                self.refused(question, time.monotonic())
                continue
            if reply[:2] != question.octets[:2] or not reply[2] & 0x80:
                continue
            if reply[3] & 15 or not reply[7]:
                self.count["wrong"] += 1
            else:
                self.ttls[ttl(reply, len(question.octets))] += 1
            took = time.monotonic() - question.begun
            self.count["answered at once" if question.attempt == 1 else "answered after a retry"] += 1
            if question.attempt == 1:
                self.slowest = max(self.slowest, took)
            question.answered = True
            self.close(question)

    def expire(self, now):
        while self.waiting and self.waiting[0][0] + TIMEOUT <= now:
            _, attempt, question = self.waiting.popleft()
            if question.answered or question.attempt != attempt:
                continue
            if question.attempt < ATTEMPTS:
                self.send(question, now)
            else:
                self.close(question)
                self.fail(question)


def ttl(reply, at):
    """What the record at `at` holds; its owner may be written out, as the engine does."""
    while 0 < reply[at] < 0xc0:
        at += 1 + reply[at]
    return struct.unpack_from(">I", reply, at + (2 if reply[at] else 1) + 4)[0]


def main(server, file, rate):
    stub = Stub(server, [line.split()[0] for line in open(file)])
    stop = select.poll()
    stop.register(sys.stdin, select.POLLIN | select.POLLHUP)
    begun, rate = time.monotonic(), float(rate)
    while not stop.poll(0):
        now = time.monotonic()
        # After a pause of this machine's it goes on at its rate: a burst would be a load of its own.
        due = min(int((now - begun) * rate) - stub.count["asked"], int(rate / 50))
        begun += max(0, (int((now - begun) * rate) - stub.count["asked"] - due) / rate)
        for _ in range(due):
            stub.ask(now)
        stub.receive(0.001)
        stub.expire(now)
    seconds = time.monotonic() - begun
    end = time.monotonic() + TIMEOUT * ATTEMPTS + 1
    while stub.open and time.monotonic() < end:
        stub.receive(0.05)
        stub.expire(time.monotonic())
    print(json.dumps({**stub.count, "seconds": seconds, "slowest": stub.slowest, "ttls": stub.ttls}))


if __name__ == "__main__":
    main(*sys.argv[1:])
