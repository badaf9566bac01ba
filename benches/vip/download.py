"""A download of 200 MB through a VIP, and all that may happen meanwhile without its end."""
import shutil, signal, subprocess, time

from lab import DIR, docker, inside, wait
from scene import PORT, Scene

SIZE, RATE = 200_000_000, "2M"


class Download:
    def __init__(self, process, vip):
        self.begun = time.time()
        self.child = subprocess.Popen(
            ["nsenter", f"--net=/proc/{process}/ns/net", "curl", "-s", "-S", "--limit-rate", RATE, "-o", "/dev/null", "-w",
             "%{size_download} octets in %{time_total} s", f"http://{vip}:{PORT}/bytes/{SIZE}"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def goes_on(self):
        return self.child.poll() is None

    def end(self):
        said, wrong = self.child.communicate(timeout=200)
        return said.startswith(f"{SIZE} "), f"{said} {wrong.strip()}"


def table(process):
    return inside(process, "nft", "list", "table", "ip", "portolan_vip", check=False)


def complete(process, vip):
    """The table is there and has the VIP's tasks."""
    return f"{vip}" in table(process)


def flushed(process, vip):
    """Seconds from `nft flush ruleset` there until the VIP is back in its table; None if that takes more than 30."""
    inside(process, "nft", "flush", "ruleset")
    begun = time.time()
    while not complete(process, vip):
        if time.time() > begun + 30:
            return None
        time.sleep(0.01)
    return time.time() - begun


def download(run):
    scene = Scene(run)
    vip = scene.service("shown", 4, "--replicas-max-per-node 8", "--stop-grace-period 120s")
    other = scene.asker("node1", "other")
    wait(lambda: complete(other, vip), "a table for the other container")
    upgrade = str(DIR / "portolan-upgraded")
    shutil.copy(run.program, upgrade)
    asker = scene.askers["node1"]
    running, fine = Download(asker, vip), True

    def step(what, act):
        nonlocal fine
        said = act()
        time.sleep(1)
        # Its last step may come after its end: it must have gone on until then.
        alive = running.goes_on()
        fine &= alive
        print(f"{time.time() - running.begun:6.1f} s {what}{f': {said}' if said else ''}; the download {'goes on' if alive else 'ENDED'}", flush=True)

    def scaled(replicas, waits):
        docker("node1", f"service scale -d shown={replicas}")
        # Who waits until fewer are left waits for the download, if its task is one of those that drain.
        return scene.settled("shown", replicas) and None if waits else time.sleep(3)

    for replicas, waits in ((8, True), (2, False), (4, False)):
        step(f"scaled to {replicas}", lambda: scaled(replicas, waits))
    for node in ("node1", "node2"):
        step(f"portolan of {node} killed with -9 and started", lambda: scene.replace(node, run.program))
    step("portolan of node1 restarted", lambda: scene.replace("node1", run.program, signal.SIGTERM))
    step("portolan of node1 replaced by another program", lambda: scene.replace("node1", upgrade, signal.SIGTERM))
    step("nft flush ruleset in another container", lambda: f"its table was back after {flushed(other, vip) or 99:.3f} s")
    good, said = running.end()
    print(f"{said} {'ok' if good else 'NO'}")
    # Who does it again and again is answered more and more slowly, up to 5 s, on purpose: seen from the fourth in four seconds.
    back = []
    for _ in range(2):
        back.append(flushed(other, vip))
        time.sleep(1)
    print("nft flush ruleset: the namespace's own table was back after " + ", ".join("never" if it is None else f"{it * 1000:.0f} ms" for it in back))
    after = subprocess.run(["nsenter", f"--net=/proc/{other}/ns/net", "curl", "-s", "-m", "5", f"http://{vip}:{PORT}/"], capture_output=True, text=True)
    fine &= good and all(it is not None and it < 1 for it in back) and after.stdout.startswith("shown ")
    return fine
