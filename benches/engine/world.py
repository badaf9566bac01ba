"""What stands on each node to ask from and about: plain containers, a compose project, a dual-stack bridge, more services."""
import json, shutil, tempfile

from lab import DIR, NODES, docker, engine_port, pid, sh, wait

SERVICES = """
version: "3.8"
services:
  plain:
    image: counter:latest
    command: ["/bin/sleep", "100000"]
    networks: [frontend]
    deploy: {replicas: 2}
  idle:
    image: counter:latest
    networks: {frontend: {aliases: [lazy]}}
    deploy: {replicas: 0}
  one: &twin
    image: counter:latest
    command: ["/bin/sleep", "100000"]
    networks: {frontend: {aliases: [twin]}}
  two: *twin
  pub:
    image: counter:latest
    command: ["/bin/portolan", "demo-app", "web"]
    networks: [frontend]
    ports: ["8000:8080"]
networks:
  frontend: {external: true, name: frontend}
"""
COMPOSE = """
version: "3.8"
services:
  store: {image: "counter:latest", command: sleep 100000, networks: {default: {aliases: [shelf]}}}
  till: {image: "counter:latest", command: sleep 100000}
"""


def compose(node):
    """The project by compose, where the machine has it; else by the labels and aliases that compose sets."""
    if shutil.which("docker-compose"):
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
            file.write(COMPOSE)
            file.flush()
            sh("docker-compose", "-H", f"unix://{DIR}/{node}/docker.sock", "-p", "shop", "-f", file.name,
               "up", "-d", "--scale", "store=2")
        return
    docker(node, "network create --label com.docker.compose.project=shop shop_default")
    for service, number in (("store", 1), ("store", 2), ("till", 1)):
        docker(node, f"run -d --name shop_{service}_{number} --network shop_default --network-alias {service}"
                     f"{' --network-alias shelf' if service == 'store' else ''} --label com.docker.compose.project=shop"
                     f" --label com.docker.compose.service={service} counter:latest sleep 100000")


def populate_plain(node):
    """Containers of one node without a Swarm; `asker` is the one to ask from."""
    docker(node, f"network create --ipv6 --subnet 172.2{node[-1]}0.0.0/24 --subnet fd00:d{node[-1]}::/64 duo")
    docker(node, "run -d --name box --network duo --network-alias boxy --hostname box-host counter:latest sleep 100000")
    docker(node, "run -d --name before --network duo --network-alias kept counter:latest sleep 100000")
    docker(node, "rename before after")
    docker(node, "run -d --name lone counter:latest sleep 100000")
    docker(node, "run -d --name asker --network duo --link box:Crate --hostname asker-host --domainname lab.test"
                 " --add-host extra.lab:192.0.2.9 --add-host host.docker.internal:192.0.2.10 counter:latest sleep 100000")
    compose(node)
    docker(node, "network connect shop_default asker")


def populate(node):
    """The same, and on the Swarm's network."""
    populate_plain(node)
    docker(node, "network connect frontend asker")


def facts(node):
    """Addresses and names that the rows speak of, as the engine tells them."""
    networks = lambda it: json.loads(docker(node, f"inspect -f '{{{{json .NetworkSettings.Networks}}}}' {it}"))
    box = networks("box")["duo"]
    web = docker("node1", "service ps counter_web -f desired-state=running --format {{.Name}}.{{.ID}} --no-trunc").split()[0]
    plain = docker("node1", "service ps more_plain -f desired-state=running --format {{.Name}}.{{.ID}} --no-trunc").split()[0]
    vips = json.loads(docker("node1", "service inspect -f '{{json .Endpoint.VirtualIPs}}' counter_web"))
    return {
        "box_id": docker(node, "inspect -f {{.Id}} box")[:12],
        "box4": box["IPAddress"], "box6": box["GlobalIPv6Address"],
        "web_task": web, "plain_task": plain, "vip": vips[0]["Addr"].split("/")[0],
        "asker4": networks("asker")["frontend"]["IPAddress"],
    }


def build(lab):
    """All of it; gives each node's process to ask from."""
    lab.counter()
    lab.deploy("more", SERVICES)
    for node in NODES:
        populate(node)
    return {node: pid(node, "asker") for node in NODES}


def settle(askers):
    """Until both resolvers of both nodes know all five tasks of app."""
    for node, process in askers.items():
        ask = lambda *more: sh("nsenter", f"--net=/proc/{process}/ns/net", "dig", "@127.0.0.11", "+short", "+time=2", *more,
                               "tasks.app", check=False).split()
        wait(lambda: len(ask()) == 5, f"five tasks of app by portolan on {node}")
        wait(lambda: len(ask("-p", str(engine_port(process)))) == 5, f"five tasks of app by the engine on {node}")
