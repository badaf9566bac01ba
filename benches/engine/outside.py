"""A name server: outside.py FILE ADDRESS...; every question that it gets becomes a line in FILE.

It has ext.example (A, AAAA, TXT, MX), www.ext.example (an alias of it), and nothing else.
"""
import socket, struct, sys, threading

A, CNAME, SOA, MX, TXT, AAAA, ANY = 1, 5, 6, 15, 16, 28, 255


def octets(name):
    return b"".join(bytes([len(it)]) + it.encode() for it in name.split(".") if it) + b"\0"


RECORDS = {
    "ext.example": [(A, socket.inet_aton("192.0.2.80")), (AAAA, socket.inet_pton(socket.AF_INET6, "2001:db8::80")),
                    (TXT, b"\x05hello"), (MX, struct.pack(">H", 10) + octets("mail.ext.example"))],
    "www.ext.example": [(CNAME, octets("ext.example"))],
}


def reply(query, log):
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode("latin-1"))
        at += 1 + query[at]
    kind, = struct.unpack(">H", query[at + 1:at + 3])
    question = query[12:at + 5]
    name = ".".join(labels).lower()
    log.write(f"{name} {kind}\n")
    log.flush()
    found = []
    if name in RECORDS:
        records = RECORDS[name]
        if records[0][0] == CNAME and kind != CNAME:
            found.append((name, *records[0]))
            name = "ext.example"
        found += [(name, *it) for it in RECORDS[name] if it[0] == kind or kind == ANY]
    body = b"".join(octets(owner) + struct.pack(">HHIH", kind, 1, 300, len(data)) + data for owner, kind, data in found)
    authority = b""
    if not found:
        data = octets("ns.example") + octets("root.example") + struct.pack(">5I", 1, 3600, 600, 86400, 60)
        authority = octets("example") + struct.pack(">HHIH", SOA, 1, 60, len(data)) + data
    code = 0 if name in RECORDS else 3
    flags = 0x8080 | (query[2] & 1) << 8 | code
    return query[:2] + struct.pack(">5H", flags, 1, len(found), bool(authority), 0) + question + body + authority


def datagrams(address, log):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 53))
    while True:
        query, client = sock.recvfrom(4096)
        sock.sendto(reply(query, log), client)


def streams(address, log):
    listener = socket.create_server((address, 53))
    while True:
        stream, _ = listener.accept()
        with stream:
            octets = b""
            while len(octets) < 2 or len(octets) < 2 + struct.unpack(">H", octets[:2])[0]:
                if not (more := stream.recv(4096)):
                    break
                octets += more
            if len(octets) > 18:
                answer = reply(octets[2:], log)
                stream.sendall(struct.pack(">H", len(answer)) + answer)


log = open(sys.argv[1], "a")
for address in sys.argv[2:]:
    for work in (datagrams, streams):
        threading.Thread(target=work, args=(address, log)).start()
