//! A download of 200 MB through a VIP, and all that may happen meanwhile without its end: a portolan
//! over a world file, namespaces with real servers, real tables.
//!
//! Needs the right to make network namespaces (root, or `unshare -Urnm`), ip, nft, curl, python3.

#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use support::said_in_demo;

/// Sandboxes `client` and `other`, and a service of up to four tasks behind the VIP 10.98.0.2, on a
/// bridge. `world N STATE` says that there are N tasks, the first three in STATE; `there PLACE`
/// waits until the table there has the VIP.
const SCENE: &str = "mkdir -p /run/two; cd /run/two
    switch() { ip link add br0 type bridge; ip link set br0 up; }
    place() { ip netns add $1; ip link add v$2 type veth peer name eth0 netns $1
        ip link set v$2 master br0 up; ip -n $1 address add 10.98.0.$2/24 dev eth0
        ip -n $1 link set eth0 up; ip -n $1 link set lo up; }
    cat > serve.py <<END
import socket, sys, threading
listener = socket.create_server(('', 8080))
def serve(peer):
    peer.recv(4096)
    peer.sendall(b'HTTP/1.0 200 OK\\r\\nContent-Length: 200000000\\r\\n\\r\\n')
    for _ in range(2000):
        peer.sendall(bytes(100000))
    peer.close()
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
END
    world() {
        echo '[[network]]'; echo \"name = 'x'\"; echo \"subnet = '10.98.0.0/24'\"
        echo '[[service]]'; echo \"name = 'web'\"; echo \"networks = ['x']\"
        echo \"vip = { x = '10.98.0.2' }\"
        for n in $(seq $1); do
            echo '[[task]]'; echo \"name = 'web.$n'\"; echo \"service = 'web'\"
            echo \"addresses = { x = '10.98.0.1$n' }\"
            [ $n = 4 ] || echo \"state = '$2'\"; done
        for it in client:100 other:101; do
            echo '[[sandbox]]'; echo \"name = '${it%:*}'\"; echo \"netns = '/run/netns/${it%:*}'\"
            echo \"networks = ['x']\"; echo \"addresses = { x = '10.98.0.${it#*:}' }\"; done; }
    scale() { world $1 $2 > next; mv next world.toml; sleep 1; }
    there() { for i in $(seq 100); do
        ip netns exec $1 nft list table ip portolan_vip 2>/dev/null | grep -q 10.98.0.2 && return
        sleep 0.01; done; echo \"no table in $1\"; cat log; }
    export PORTOLAN_CONFIG=\"
    state_dir = '/run/two'
    sources.world.path = '/run/two/world.toml'
    dns.host_listen = 'off'
    admin.socket = '/run/two.sock'\"
    export PORTOLAN_SOCKET=/run/two.sock
    up() { portolan up --only vip 2>>log & up=$!; disown
        for i in $(seq 100); do portolan status >/dev/null 2>&1 && return; sleep 0.1; done; }
    switch; place client 100; place other 101; servers=
    for n in 1 2 3 4; do place web$n 1$n
        ip netns exec web$n python3 serve.py & servers=\"$servers $!\"; done
    scale 4 serving; up; there client; there other";

#[test]
fn a_download_goes_on_while_its_service_scales_and_portolan_is_killed_and_others_are_flushed() {
    let said = said_in_demo(&format!(
        "bash -c '{}'",
        format!(
            "{SCENE}
    # The fourth alone serves, so the download goes to it, and it stays while the others are scaled.
    scale 4 draining
    ip netns exec client curl -sS --limit-rate 20M -o /dev/null -w '%{{size_download}}\\n' \\
        http://10.98.0.2:8080/ > got 2>&1 & curl=$!
    goes_on() {{ kill -0 $curl 2>/dev/null && echo \"$1: goes on\" || echo \"$1: $(cat got)\"; }}
    sleep 1; goes_on begun
    scale 4 serving; scale 4 draining; scale 4 serving; goes_on scaled
    kill -9 $up; sleep 0.5; goes_on killed
    up; goes_on restarted
    ip netns exec other nft flush ruleset; there other; goes_on flushed
    scale 4 draining; scale 4 serving; goes_on scaled-again
    wait $curl; cat got
    kill $up $servers"
        )
        .replace('\'', "'\\''")
    ));
    let said: Vec<_> = said.lines().collect();
    assert_eq!(
        said,
        [
            "begun: goes on",
            "scaled: goes on",
            "killed: goes on",
            "restarted: goes on",
            "flushed: goes on",
            "scaled-again: goes on",
            "200000000"
        ]
    );
}
