//! The way out of containers on the engine's gateway bridge, where the engine keeps no rules for
//! it: Swarm with the engine's firewall switched off (`"iptables": false`, which Swarm asks for
//! beside `"firewall-backend": "nftables"`).
//!
//! Invariants
//! - *in the engine's place only*: where it has rules for that bridge, by iptables or nftables,
//!   none are supplied;
//! - *last*: whom somebody else gives a source keeps that one; `mesh.outbound = false` leaves it all
//!   to the operator;
//! - *as the engine*: what leaves the bridge leaves as the host; what comes back to it by the host
//!   and not through the mesh is dropped, because the bridge is no network between containers;
//! - *nobody is overruled*: what a chain of somebody else drops no other table can accept. That is
//!   a note, which goes when a rule there has a comment that begins with `portolan`.

use std::collections::BTreeSet;

use ipnet::{IpNet, Ipv4Net};
use kernel::netns::Netns;
use kernel::nft::{
    ChainKind, CmpOp, CtKey, Expr, Family, Hook, HookPoint, MetaKey, Socket, Table, Verdict,
};
use kernel::route;
use registry::Notes;
use tokio::time::Instant;

use super::balance::FLAG;
use super::error::MeshError;
use super::firewall;
use super::gate::{interface, source_network};
use super::laid::LOOK;
use super::plan::Plan;
use super::table::Ruleset;

/// The engine's bridge by which containers of overlay networks reach the world.
pub(crate) const GATEWAY_BRIDGE: &str = "docker_gwbridge";

/// Who keeps rules for the gateway bridge.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Keeper {
    /// The engine, by iptables.
    #[default]
    Iptables,
    /// The engine, by its nftables backend, whose last word about packets to the bridge is "drop".
    Nftables {
        /// It lets those pass that have a mark.
        accepts_marks: bool,
    },
    /// Nobody.
    Nobody,
}

/// What is known of the host's rules.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    keeper: Keeper,
    /// Chains of others that drop what they do not know.
    dropping: Vec<String>,
    looked: Option<Instant>,
}

/// A bridge whose containers go out as the host.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Exit {
    pub(crate) subnet: Ipv4Net,
    pub(crate) device: String,
}

impl Outbound {
    /// Looks at the host's rules, if that was long ago or somebody changed them since; gives the
    /// bridges that portolan is to stand in for.
    pub(crate) fn exits(
        &mut self,
        host: &Netns,
        plan: &Plan,
        doubted: bool,
        now: Instant,
    ) -> Result<BTreeSet<Exit>, MeshError> {
        let subnets = &plan.gateway;
        if subnets.is_empty() {
            *self = Self::default();
            return Ok(BTreeSet::new());
        }
        let due = |it: Instant| now.saturating_duration_since(it) >= LOOK;
        if doubted || self.looked.is_none_or(due) {
            let keeper = keeper(host)?;
            if keeper != self.keeper {
                tracing::info!(?keeper, "the rules for {GATEWAY_BRIDGE} have another keeper");
            }
            let dropping = if keeper == Keeper::Nobody { dropping(host)? } else { Vec::new() };
            *self = Self { keeper, dropping, looked: Some(now) };
        }
        if self.keeper != Keeper::Nobody || !plan.outbound {
            return Ok(BTreeSet::new());
        }
        let mut exits = BTreeSet::new();
        for (device, net) in route::addresses(host)? {
            let IpNet::V4(net) = net else { continue };
            let subnet = subnets.iter().find(|it| it.contains(&net.addr()));
            exits.extend(subnet.map(|it| Exit { subnet: *it, device: device.clone() }));
        }
        Ok(exits)
    }

    /// Whether packets of the mesh have to be marked for the engine to let them pass.
    pub(crate) fn marks(&self) -> bool {
        matches!(self.keeper, Keeper::Nftables { .. })
    }

    /// What users should know; `leads`: published ports lead to the bridge.
    pub(crate) fn tell(&self, exits: &BTreeSet<Exit>, leads: bool, notes: &mut Notes) {
        if leads && self.keeper == (Keeper::Nftables { accepts_marks: false }) {
            notes.error(
                "mesh",
                GATEWAY_BRIDGE,
                "the engine's nftables rules drop connections to published ports",
                "set `\"bridge-accept-fwmark\": \"0x20000000/0x20000000\"` in daemon.json and \
                 restart the engine",
            );
        }
        if exits.is_empty() {
            return;
        }
        notes.warning(
            "mesh",
            GATEWAY_BRIDGE,
            "the engine keeps no rules for it, so portolan masquerades what its containers send",
            "none needed",
        );
        for chain in &self.dropping {
            notes.warning(
                "mesh",
                GATEWAY_BRIDGE,
                format!("{chain} drops what none of its rules accepts, and portolan cannot accept for it"),
                "have it accept what comes by docker_gwbridge, and what goes there of connections \
                 that are established or marked 0x20000000/0x20000000; a rule with a comment that \
                 begins with `portolan` ends this note",
            );
        }
    }
}

/// Writes the rules of `exits` into the host's table.
pub(crate) fn write(exits: &BTreeSet<Exit>, ruleset: &mut Ruleset) {
    if exits.is_empty() {
        return;
    }
    let hook = |kind, point, priority| Hook { kind, point, priority };
    ruleset.base(OUT, hook(ChainKind::Nat, HookPoint::Postrouting, AFTER_OTHERS));
    ruleset.base(BETWEEN, hook(ChainKind::Filter, HookPoint::Forward, 0));
    for Exit { subnet, device } in exits {
        let mut rule = source_network(CmpOp::Eq, *subnet);
        rule.extend(by(MetaKey::OifName, CmpOp::Ne, device));
        rule.push(Expr::Masquerade);
        ruleset.rule(OUT, rule);
        let mut rule = by(MetaKey::IifName, CmpOp::Eq, device);
        rule.extend(by(MetaKey::OifName, CmpOp::Eq, device));
        rule.extend(is_of_the_mesh(CmpOp::Eq));
        rule.push(Expr::Verdict(Verdict::Drop));
        ruleset.rule(BETWEEN, rule);
    }
}

/// Writes the rule that gives packets of the mesh the mark that the engine's nftables rules look
/// at, before these do.
pub(crate) fn write_marks(ruleset: &mut Ruleset) {
    let hook =
        Hook { kind: ChainKind::Filter, point: HookPoint::Forward, priority: BEFORE_FILTERS };
    ruleset.base(MARK, hook);
    let mut rule = is_of_the_mesh(CmpOp::Ne);
    let (mask, xor) = ((!FLAG).to_ne_bytes().to_vec(), FLAG.to_ne_bytes().to_vec());
    rule.extend([
        Expr::Meta { key: MetaKey::Mark, to: 0 },
        Expr::Bitwise { from: 0, to: 0, mask, xor },
        Expr::MetaSet { key: MetaKey::Mark, from: 0 },
    ]);
    ruleset.rule(MARK, rule);
}

/// Whether the mesh's flag in the mark of the connection compares so with none.
fn is_of_the_mesh(op: CmpOp) -> Vec<Expr> {
    let (mask, none) = (FLAG.to_ne_bytes().to_vec(), vec![0; 4]);
    vec![
        Expr::Ct { key: CtKey::Mark, to: 0 },
        Expr::Bitwise { from: 0, to: 0, mask, xor: none.clone() },
        Expr::Cmp { op, from: 0, data: none },
    ]
}

fn by(key: MetaKey, op: CmpOp, device: &str) -> Vec<Expr> {
    vec![Expr::Meta { key, to: 0 }, Expr::Cmp { op, from: 0, data: interface(device) }]
}

fn keeper(host: &Netns) -> Result<Keeper, MeshError> {
    let mut socket = Socket::open(host)?;
    let chains = socket.chains(ENGINES_TABLE)?;
    if chains.iter().any(|it| it.name == ENGINES_CHAIN) {
        let rules = socket.rules(ENGINES_TABLE)?;
        let mut rules = rules.iter().filter(|it| it.chain == ENGINES_CHAIN);
        let accepts_marks = rules.any(|it| is_in(ENGINES_COMMENT, &it.userdata));
        return Ok(Keeper::Nftables { accepts_marks });
    }
    let by_iptables = host.run(|| firewall::engine_keeps(GATEWAY_BRIDGE))??;
    Ok(if by_iptables { Keeper::Iptables } else { Keeper::Nobody })
}

/// Chains that drop what is passed on unless one of their rules accepts it, and that nobody has
/// told about portolan.
fn dropping(host: &Netns) -> Result<Vec<String>, MeshError> {
    let mut found = host.run(firewall::dropping)??;
    let mut socket = Socket::open(host)?;
    for table in socket.tables()? {
        let name = table.name;
        let of = Table { family: table.family, name: &name };
        // Its rules were listed by iptables, whose comments are no comments of nftables.
        let is_listed = table.family == Family::Ip && name == "filter" && firewall::is_there();
        if table.family == Family::Ip6 || is_listed {
            continue;
        }
        let drops = |hook: Option<Hook>| hook.is_some_and(|it| it.point == HookPoint::Forward);
        let chains = socket.chains(of)?;
        let chains: Vec<_> = chains.into_iter().filter(|it| it.drops && drops(it.hook)).collect();
        if chains.is_empty() {
            continue;
        }
        let rules = socket.rules(of)?;
        let told = |chain: &str| {
            rules.iter().any(|it| it.chain == chain && is_in("portolan", &it.userdata))
        };
        let chains = chains.into_iter().filter(|it| !told(&it.name));
        let family = if table.family == Family::Inet { "inet" } else { "ip" };
        found.extend(chains.map(|it| format!("chain {} of table {family} {name}", it.name)));
    }
    Ok(found)
}

fn is_in(text: &str, userdata: &[u8]) -> bool {
    userdata.windows(text.len()).any(|it| it == text.as_bytes())
}

/// The chains that stand in for the engine's.
pub(crate) const CHAINS: &[&str] = &[OUT, BETWEEN];
const OUT: &str = "out";
const BETWEEN: &str = "between";
const MARK: &str = "mark";
/// Source translation of others stands at 100, and what has a source by then keeps it.
const AFTER_OTHERS: i32 = 110;
/// The engine's filter stands at 0.
const BEFORE_FILTERS: i32 = -10;

/// Where the engine's nftables backend keeps its rules, since version 29.
const ENGINES_TABLE: Table<'static> = Table { family: Family::Ip, name: "docker-bridges" };
/// Its chain for what goes to the gateway bridge.
const ENGINES_CHAIN: &str = "filter-forward-in__docker_gwbridge";
/// The comment of its rule for `bridge-accept-fwmark`.
const ENGINES_COMMENT: &str = "ALLOW FW MARK";
