"""Octets a second through a published port: by a remote node, next to the overlay's own path between the same two nodes."""
import statistics, subprocess, sys

from lab import DIR, docker, pid, sh, wait
from scene import Scene

PUBLISHED, TARGET = 8100, 9000
SERVE = ("import socket,threading\n"
         "s=socket.socket(); s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1); s.bind(('0.0.0.0',%d)); s.listen(64)\n"
         "def feed(c):\n"
         "    try:\n"
         "        while True: c.sendall(bytes(1<<20))\n"
         "    except OSError: c.close()\n"
         "while True: threading.Thread(target=feed,args=(s.accept()[0],),daemon=True).start()\n" % TARGET)
READ = ("import socket,sys,time\n"
        "s=socket.create_connection((sys.argv[1],int(sys.argv[2])),5); b=bytearray(1<<20); n=0; t=time.time()\n"
        "while time.time()<t+float(sys.argv[3]): n+=s.recv_into(b)\n"
        "print(n/(time.time()-t)/1e6)\n")


def mesh(run):
    """One task, on node1. Direct: from the engine's doorway on node2. Through the mesh: from node2's host, by node2's own address."""
    scene = Scene(run)
    docker("node1", f"service create -d --no-resolve-image --name bulk --replicas 1 --constraint node.role==manager "
                    f"--publish {PUBLISHED}:{TARGET} counter:latest sleep 1000000")
    wait(lambda: scene.containers("node1", "bulk"), "the task", 60)
    space = f"/proc/{pid('node1', scene.containers('node1', 'bulk')[0])}/ns/net"
    server = subprocess.Popen(["nsenter", f"--net={space}", sys.executable, "-c", SERVE])
    try:
        ingress = docker("node1", "network inspect -f '{{(index .IPAM.Config 0).Subnet}}' ingress").strip("'").rsplit(".", 1)[0]
        own = sh("nsenter", f"--net={space}", "ip", "-4", "-o", "address").split()
        task = next(it.split("/")[0] for it in own if it.startswith(ingress + ".") and "/" in it)
        doorway = DIR / "node2/exec/netns/ingress_sbox"
        ask = lambda place, address, port, seconds: sh("nsenter", f"--net={place}", sys.executable, "-c", READ, address, str(port), str(seconds), check=False)
        read = lambda *where: float(ask(*where, run.seconds))
        far = ("/run/netns/plab-node2", "10.214.0.2", PUBLISHED)
        wait(lambda: ask(*far, 0.1).strip(), "the mesh", 20)
        direct, through = [], []
        for _ in range(run.rounds):
            direct.append(read(doorway, task, TARGET))
            through.append(read(*far))
            print(f"  direct {direct[-1]:7.0f} MB/s   through the mesh {through[-1]:7.0f} MB/s", flush=True)
        ratio = statistics.median(through) / statistics.median(direct)
        print(f"through a remote node {ratio:.2f} of the overlay's own path (target 0.9)")
        return ratio >= 0.9
    finally:
        server.kill()
        server.wait()
