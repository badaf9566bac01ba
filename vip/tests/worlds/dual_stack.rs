//! VIPs of both families on one network.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::support::{Host, PORT, World, call};

/// Answers with its name, on IPv6 only.
fn serve6(host: &Host) {
    let here = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
    let listener = kernel::socket::tcp_listener(&host.netns, here).unwrap();
    listener.set_nonblocking(false).unwrap();
    let name = format!("{}, IPv6", host.name);
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            drop(stream.write_all(name.as_bytes()));
        }
    });
}

fn six(host: &Host, last: u16) {
    let address = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, last);
    let address = format!("{address}/64").parse().unwrap();
    kernel::link::add_address(&host.netns, "eth0", address).unwrap();
}

#[tokio::test]
async fn a_service_has_a_vip_of_each_family_and_each_leads_to_its_tasks() {
    let mut world = World::new();
    let hosts = [11, 12].map(|last: u8| world.host(&format!("web.{}", last - 10), last));
    for (host, last) in hosts.iter().zip([0x11, 0x12]) {
        six(host, last);
        serve6(host);
    }
    let client = world.host("client", 100);
    six(&client, 0x100);
    let path = world.path("client");
    let text = |count: usize| {
        let mut text =
            "[[network]]\nname = \"both\"\nsubnets = [\"10.20.1.0/24\", \"fd00:1::/64\"]\n\
            [[service]]\nname = \"web\"\nnetworks = [\"both\"]\n"
                .to_owned();
        for nth in 1..=2 {
            let state = if nth <= count { "serving" } else { "draining" };
            write!(
                text,
                "[[task]]\nname = \"web.{nth}\"\nservice = \"web\"\nstate = \"{state}\"\n\
                 addresses = {{ both = [\"10.20.1.1{nth}\", \"fd00:1::1{nth}\"] }}\n"
            )
            .unwrap();
        }
        let path = path.display();
        text + &format!(
            "[[sandbox]]\nname = \"client\"\nnetns = \"{path}\"\nnetworks = [\"both\"]\n\
             addresses = {{ both = [\"10.20.1.100\", \"fd00:1::100\"] }}\n"
        )
    };
    let mut manager = world.manager();
    assert_eq!(manager.make(&text(2)).await, 4, "two VIPs and a route to each");
    let vip = IpAddr::from(Ipv6Addr::new(0xfd70, 0x6f72, 0x746f, 0x6c61, 0, 0, 0, 1));
    let published = manager.addresses.borrow().clone();
    let pair = published.values().next().unwrap();
    let vips: Vec<_> = pair.iter().collect();
    assert_eq!(vips, [Ipv4Addr::new(240, 240, 0, 1).into(), vip]);
    let names = |count| client.calls(vip, count).into_iter().collect::<BTreeSet<_>>();
    assert_eq!(names(40), ["web.1, IPv6".to_owned(), "web.2, IPv6".to_owned()].into());

    assert_eq!(manager.make(&text(1)).await, 4, "of each the slots, and a task that rests");
    assert_eq!(names(10), ["web.1, IPv6".to_owned()].into());
    assert_eq!(manager.make(&text(0)).await, 4);
    let refused = client.netns.run(|| call(vip)).unwrap().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    drop(manager);
    assert_eq!(world.manager().make(&text(0)).await, 0, "all of it is read back");
}
