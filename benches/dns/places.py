"""Network namespaces without names, and processes in them. All of it ends with this process."""
import ctypes, fcntl, os, re, select, signal, socket, struct, subprocess, sys, threading, time

libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET, PR_SET_PDEATHSIG, SIOCSIFFLAGS, IFF_UP = 0x40000000, 1, 0x8914, 0x1
TICK = os.sysconf("SC_CLK_TCK")


def elsewhere(what):
    """Runs `what` in a thread of its own, which may stand in any namespace."""
    result = []
    thread = threading.Thread(target=lambda: result.append(what()))
    thread.start()
    thread.join()
    if not result:
        sys.exit("a thread in another namespace failed")
    return result[0]


class Place:
    """A namespace: a fresh one with its loopback up, or that of a process."""

    def __init__(self, of=None):
        self.fd = os.open(f"/proc/{of}/ns/net", os.O_RDONLY) if of else elsewhere(self._fresh)
        self.path = f"/proc/{os.getpid()}/fd/{self.fd}"

    @staticmethod
    def _fresh():
        if libc.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY)

    def enter(self):
        if libc.setns(self.fd, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")

    def words(self, *words):
        return ["nsenter", f"--net={self.path}", *[str(it) for it in words]]

    def run(self, *words, text=None):
        done = subprocess.run(self.words(*words), input=text, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{words}: {done.stdout}{done.stderr}")
        return done.stdout

    def client(self, address="127.0.0.11", port=53):
        """A connected UDP socket inside, that waits a second."""
        sock = self._socket()
        sock.settimeout(1)
        sock.connect((address, port))
        return sock

    def bound(self, address, port):
        """A UDP socket inside that others can send to."""
        sock = self._socket()
        sock.bind((address, port))
        return sock

    def _socket(self):
        def make():
            self.enter()
            return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        return elsewhere(make)


class Process:
    """A server in a place. Its output goes to a file; it dies with us."""

    def __init__(self, place, log, *words, env=None):
        self.log = log
        mortal = lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # nsenter becomes the server: the pid is the server's own.
        self.child = subprocess.Popen(place.words(*words), stdin=subprocess.DEVNULL, stdout=open(log, "a"),
                                      stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}, preexec_fn=mortal)
        self.pid = self.child.pid

    def end(self):
        self.child.terminate()
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


def cpu(pid):
    """CPU seconds of a process so far, user and system, all its threads, ended ones too (proc(5), stat)."""
    fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def memory(pid):
    """Resident now, and at most so far, in MiB."""
    status = open(f"/proc/{pid}/status").read()
    return [int(re.search(rf"{it}:\s+(\d+) kB", status)[1]) / 1024 for it in ("VmRSS", "VmHWM")]


def ask(sock, name, serial=1):
    """The answer's last four octets, or None after the socket's limit."""
    question = b"".join(bytes([len(it)]) + it.encode() for it in name.split(".")) + b"\0\0\1\0\1"
    sock.send(struct.pack(">6H", serial, 0x0100, 1, 0, 0, 0) + question)
    try:
        while True:
            reply = sock.recv(4096)
            if reply[:2] == struct.pack(">H", serial):
                return reply[-4:] if reply[7] else b""
    except (socket.timeout, ConnectionRefusedError):
        return None


def until(condition, what, seconds=30):
    end = time.time() + seconds
    while not (got := condition()):
        if time.time() > end:
            sys.exit(f"{what}: not within {seconds} s")
        time.sleep(0.02)
    return got
