"""Real programs' resolvers in real containers: each must find `web`, `tasks.app` and a name outside."""
import os, pathlib, shutil, subprocess, time

from lab import DIR, NODES, docker, inside, our_port, pid, sh, wait

HERE = pathlib.Path(__file__).parent / "programs"
OUTSIDE = {"192.0.2.80", "2001:db8::80"}
NODE_LOOKUP = ("require('dns').lookup(process.argv[1], {all: true}, (e, all) => "
               "{ if (e) { console.error(e.code); process.exit(1) } all.forEach(it => console.log(it.address)) })")
NODE_RESOLVE = ("require('dns').resolve4(process.argv[1], (e, all) => "
                "{ if (e) { console.error(e.code); process.exit(1) } all.forEach(it => console.log(it)) })")
DNSPYTHON = "import dns.resolver, sys\nfor it in dns.resolver.resolve(sys.argv[1], 'A'): print(it)"
LIBC = ["nsswitch.conf", "host.conf", "gai.conf", "services", "protocols"]


def image():
    """The machine's own programs, their libraries and packages, as an image of its own."""
    root = DIR / "programs"
    (root / "etc").mkdir(parents=True, exist_ok=True)
    (root / "tmp").mkdir(exist_ok=True)
    sh("cp", "-a", f"{DIR}/rootfs/.", root)
    sh("musl-gcc", "-static", "-O2", "-o", root / "bin/musl", HERE / "musl.c")
    go = {**os.environ, "GOFLAGS": "-mod=mod", "GO111MODULE": "off", "GOCACHE": f"{DIR}/go", "HOME": "/root"}
    sh("go", "build", "-o", root / "bin/lookup", HERE / "lookup.go", env=go)
    programs = ["/usr/bin/getent", os.path.realpath(shutil.which("node")), os.path.realpath("/usr/bin/python3")]
    for program in programs:
        shutil.copy(program, root / "bin" / ("node" if "node" in program else "python3" if "python" in program else "getent"))
    # What glibc loads only when it is asked for names is in no program's list.
    libraries = {"/lib/x86_64-linux-gnu/libnss_dns.so.2", "/lib/x86_64-linux-gnu/libnss_files.so.2", "/lib/x86_64-linux-gnu/libresolv.so.2"}
    python = pathlib.Path(sh("/usr/bin/python3", "-c", "import os; print(os.path.dirname(os.__file__))"))
    binaries = [*programs, root / "bin/lookup", *(str(it) for it in (python / "lib-dynload").glob("*.so"))]
    for program in binaries:
        for word in sh("ldd", program, check=False).split():
            if word.startswith("/"):
                libraries.add(word)
    for it in libraries:
        if os.path.exists(it):
            (root / it[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(it, root / it[1:])
    skip = shutil.ignore_patterns("__pycache__", "test", "tests", "idlelib", "config-*")
    shutil.copytree(python, root / str(python)[1:], dirs_exist_ok=True, ignore=skip, ignore_dangling_symlinks=True)
    packages = "usr/lib/python3/dist-packages"
    shutil.copytree(f"/{packages}/dns", root / packages / "dns", dirs_exist_ok=True, ignore=skip)
    for it in LIBC:
        if os.path.exists(f"/etc/{it}"):
            shutil.copy(f"/etc/{it}", root / "etc")
    # As distributions' images have it; the machine's own may ask other daemons.
    (root / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    sh("tar", "-C", root, "-cf", DIR / "clients.tar", ".")
    for node in NODES:
        docker(node, f"import {DIR}/clients.tar clients:latest")
    for it in (root, DIR / "go"):
        shutil.rmtree(it)
    (DIR / "clients.tar").unlink()


# (who, command, whether it asks for both families)
WAYS = [
    # It asks for families that the container has (AI_ADDRCONFIG), here IPv4 alone.
    ("glibc getent ahosts", ["getent", "ahosts", "NAME"], False),
    ("dnspython", ["python3", "-c", DNSPYTHON, "NAME"], False),
    ("musl getaddrinfo", ["musl", "NAME", "1"], True),
    ("Go, its own", ["env", "GODEBUG=netdns=go", "lookup", "NAME"], True),
    ("Go, cgo", ["env", "GODEBUG=netdns=cgo", "lookup", "NAME"], True),
    ("Node dns.lookup", ["node", "-e", NODE_LOOKUP, "NAME"], True),
    ("Node dns.resolve4", ["node", "-e", NODE_RESOLVE, "NAME"], False),
]


def call(node, command):
    begun = time.time()
    done = subprocess.run(["docker", "-H", f"unix://{DIR}/{node}/docker.sock", "exec", "programs", *command], capture_output=True, text=True)
    return {it.split()[0] for it in done.stdout.splitlines() if it}, done.returncode, done.stderr.strip(), time.time() - begun


def clients(lab):
    lab.counter()
    image()
    for node in NODES:
        docker(node, "run -d --name programs --network frontend clients:latest sleep 100000")
    lab.portolan()
    fine = True
    for node in NODES:
        process = pid(node, "programs")
        wait(lambda: our_port(process), f"portolan on {node}")
        dig = lambda name: set(inside(process, "dig", "@127.0.0.11", "+short", name).split())
        wait(lambda: len(dig("tasks.app")) == 5, "five tasks of app")
        wanted = {"web": dig("web"), "tasks.app": dig("tasks.app"), "ext.example": OUTSIDE}
        print(f"{node}: {', '.join(f'{name} is {len(all)} address(es)' for name, all in wanted.items())}; engine {lab.version}")
        for who, command, both in WAYS:
            line = []
            for name, addresses in wanted.items():
                expected = addresses if both else {it for it in addresses if ":" not in it}
                found, code, said, took = call(node, [name if it == "NAME" else it for it in command])
                right = code == 0 and found == expected
                fine = fine and right
                line.append(f"{name} {'found' if right else f'WRONG: {sorted(found)} {code} {said}'} in {took * 1000:.0f} ms")
            print(f"  {who:20} " + "; ".join(line), flush=True)
        for name in wanted:
            _, code, said, took = call(node, ["musl", name, "1000"])
            fine = fine and code == 0
            figures = dict(zip(said.split()[::2], said.split()[1::2]))
            print(f"  musl, 1,000 x {name:12} failed {figures.get('failed')}, over 1 s {figures.get('slow')}, "
                  f"worst {int(figures.get('worst', 0)) / 1000:.1f} ms, {took:.1f} s in all", flush=True)
    return fine
