//! Where the host's ports lead, and which of them others have. Pure.
//!
//! Invariants
//! - *no theft*: a port that a program of the host listens on stays that program's, on the
//!   addresses where it does; the engine's own holder of a published port is none;
//! - *who came first*: a port that leads here is not given to a program that comes later. Where it
//!   is not to be had, because it is bound elsewhere, it is: nobody else wants it there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;
use registry::Notes;
use registry::balance_spec::{Affinity, Bind};

use super::balance::Wanted;
use super::gate::Host;
use super::ground::{Doorway, Occupied};
use super::plan::{Bridge, Ingress, Plan, Port};

/// Where the host's ports lead: to the engine's doorway, or straight to tasks.
pub(crate) struct Leading<'a> {
    ports: BTreeMap<Port, Led<'a>>,
    bridges: BTreeSet<Bridge>,
    /// Clients in the first network are, for who is on the second, on the ingress network.
    mistaken: BTreeSet<(Ipv4Net, Ipv4Net)>,
}

struct Led<'a> {
    service: &'a str,
    slots: Vec<SocketAddrV4>,
    affinity: Affinity,
    binds: &'a [Bind],
}

/// What others have of published ports.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Others {
    /// Ports that a program has on all addresses, and had before they led anywhere.
    pub(crate) held: BTreeSet<Port>,
    /// Ports that a program has on one address.
    pub(crate) kept: BTreeSet<(Port, Ipv4Addr)>,
    /// Ports that lead where they are bound, and that a program has everywhere else.
    pub(crate) shared: BTreeSet<Port>,
}

impl<'a> Leading<'a> {
    pub(crate) fn of(plan: &'a Plan, inside: Option<&'a (&'a Ingress, Doorway)>) -> Self {
        let (mut bridges, mut mistaken) = (plan.bridges.clone(), BTreeSet::new());
        let direct = plan.direct.iter().map(|(port, it)| {
            let (slots, affinity) = (it.led(*port).to_vec(), it.affinity);
            (*port, Led { service: &it.service, slots, affinity, binds: &it.bind })
        });
        let mut ports: BTreeMap<Port, Led<'a>> = direct.collect();
        if let Some((ingress, Doorway { own, bridge, .. })) = inside {
            bridges.insert(Bridge { subnet: *bridge, internal: false });
            mistaken.extend(ingress.subnets.iter().map(|it| (*it, *bridge)));
            ports.extend(ingress.ports.iter().map(|(port, it)| {
                let through = SocketAddrV4::new(*own, port.number);
                let slots = if it.is_proxied(*port) { vec![] } else { vec![through] };
                let affinity = Affinity::None;
                (*port, Led { service: &it.service, slots, affinity, binds: &it.bind })
            }));
        }
        Self { ports, bridges, mistaken }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// The ports that lead somewhere.
    pub(crate) fn ports(&self) -> BTreeSet<Port> {
        self.ports.keys().copied().collect()
    }

    /// Whether this port leads somewhere.
    pub(crate) fn leads(&self, port: Port) -> bool {
        self.ports.contains_key(&port)
    }

    /// Whether the port is to be had at some places only.
    pub(crate) fn is_bound(&self, port: Port) -> bool {
        self.ports.get(&port).is_some_and(|it| !it.binds.is_empty())
    }

    /// The networks that ports lead to.
    pub(crate) fn networks(&self) -> BTreeSet<Ipv4Net> {
        self.bridges.iter().map(|it| it.subnet).collect()
    }

    /// Leaves to programs of the host what is theirs, and says so; `led` are the ports that lead
    /// already.
    pub(crate) fn leave(
        &mut self,
        occupied: &Occupied,
        led: &BTreeSet<Port>,
        notes: &mut Notes,
    ) -> Others {
        let (shared, held) = occupied
            .whole
            .keys()
            .filter(|it| self.leads(**it))
            .partition(|it| led.contains(it) && self.is_bound(**it));
        let kept = occupied.addresses.keys().copied().collect();
        let others = Others { held, kept, shared };
        self.tell(occupied, &others, notes);
        self.ports.retain(|port, _| !others.held.contains(port));
        others
    }

    /// What the host's table depends on besides where ports lead.
    pub(crate) fn frame(&self, others: &Others, devices: BTreeSet<String>) -> Host {
        Host {
            binds: self.ports.iter().map(|(port, it)| (*port, it.binds.to_vec())).collect(),
            others: others.clone(),
            bridges: self.bridges.clone(),
            mistaken: self.mistaken.clone(),
            devices,
            ..Host::default()
        }
    }

    /// Where ports lead.
    pub(crate) fn wanted(&self) -> Vec<Wanted<'_>> {
        let wanted = self.ports.iter();
        wanted.map(|(port, it)| (*port, it.slots.as_slice(), it.affinity)).collect()
    }

    fn tell(&self, occupied: &Occupied, others: &Others, notes: &mut Notes) {
        let mut say = |port: &Port, name: &str, place: String| {
            let Some(led) = self.ports.get(port) else { return };
            notes.warning(
                format!("service {}", led.service),
                format!("port {port}"),
                format!("{name} listens on this port of this node{place} and keeps it"),
                "publish another port, or stop that program",
            );
        };
        for (port, name) in occupied.whole.iter().filter(|it| others.held.contains(it.0)) {
            say(port, name, String::new());
        }
        for ((port, address), name) in &occupied.addresses {
            if self.ports.get(port).is_some_and(|it| it.is_wanted_at(*address)) {
                say(port, name, format!(" at {address}"));
            }
        }
    }
}

impl Led<'_> {
    /// Whether the port may be meant to be had at this address of the node.
    fn is_wanted_at(&self, address: Ipv4Addr) -> bool {
        let may = |it: &Bind| match it {
            Bind::Address(IpAddr::V4(bound)) => *bound == address || bound.is_unspecified(),
            Bind::Address(IpAddr::V6(_)) | Bind::Nowhere => false,
            Bind::Interface(_) => true,
        };
        self.binds.is_empty() || self.binds.iter().any(may)
    }
}
