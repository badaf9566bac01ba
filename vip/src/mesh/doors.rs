//! The namespaces that published ports lead through on this node: the host, and the engine's
//! doorway to the ingress network.
//!
//! Invariants
//! - *inside first*: the doorway leads on before the host leads to it, and the other way round
//!   when ports go;
//! - *nothing published, nothing there*: without a port, tables, firewall rule and sysctls go, but
//!   for the way out of containers where the engine keeps no rules.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use ipnet::Ipv4Net;
use kernel::netns::Netns;
use registry::Notes;
use tokio::time::Instant;

use super::balance::Balancing;
use super::compile::Enabled;
use super::error::MeshError;
use super::gate;
use super::ground::{self, Doorway};
use super::laid::{self, LOOK, Laid, Layout, Sphere};
use super::leading::{Leading, Others};
use super::outbound::{Exit, Outbound};
use super::path::clear;
use super::plan::{Ingress, Plan, Port};
use super::rival::{Leader, Rival, Scene};
use super::sysctls::{Need, Sysctls};
use super::{Goal, cut, firewall};
use crate::sandbox::open;

/// What is known of them since the last time.
#[derive(Debug, Default)]
pub(crate) struct Doors {
    host: Option<Laid>,
    doorway: Option<Inside>,
    /// Ports that lead through the host now.
    ports: BTreeSet<Port>,
    /// What programs of the host have.
    others: Others,
    /// When it was asked last who has ports that are bound to some places.
    asked: Option<Instant>,
    /// Ports that somebody listened on whom nobody can see.
    unseen: BTreeSet<Port>,
    /// Where nothing of ours is, for sure: neither a portolan before this one left something, nor
    /// did an attempt to remove it fail.
    bare: Bare,
    /// Whether the engine's own mesh leads.
    rival: Rival,
    /// Whether the engine's firewall lets the mesh pass, and when it was looked at: that runs
    /// programs, which wait for whoever else changes rules.
    firewall: Option<(bool, Instant)>,
    outbound: Outbound,
    /// The bridges whose containers go out by rules of ours.
    exits: BTreeSet<Exit>,
}

#[derive(Debug, Default)]
struct Bare {
    host: bool,
    doorway: bool,
}

#[derive(Debug)]
struct Inside {
    laid: Laid,
    inode: u64,
}

/// What a visit came to.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) changes: usize,
    pub(crate) failures: Vec<(&'static str, MeshError)>,
    pub(crate) notes: Notes,
    /// Clients that were told that their task is gone.
    pub(crate) told: usize,
}

impl Doors {
    /// The ports that lead through the host now.
    pub(crate) fn leading(&self) -> &BTreeSet<Port> {
        &self.ports
    }

    /// The host's table.
    pub(crate) fn host(&mut self) -> Option<&mut Laid> {
        self.host.as_mut()
    }

    /// The doorway's table.
    pub(crate) fn doorway(&mut self) -> Option<&mut Laid> {
        self.doorway.as_mut().map(|it| &mut it.laid)
    }

    /// Makes `goal` true. `last` is what was made true before.
    pub(crate) fn settle(
        &mut self,
        goal: &Goal,
        last: &Goal,
        leader: Leader,
        sysctls: &Sysctls,
        now: Instant,
    ) -> Report {
        let plan = &*goal.plan;
        let mut report = Report::default();
        let due = |it: Instant| now.saturating_duration_since(it) >= LOOK;
        // Whoever changed our table may have flushed all.
        let foreign = self.host.as_ref().is_some_and(Laid::is_doubted)
            || self.firewall.is_some_and(|(_, looked)| due(looked));
        let published = plan.ingress.as_ref().filter(|it| !it.ports.is_empty());
        if published.is_some() && leader == Leader::Engine {
            engine_has_it(&mut report.notes);
        }
        let led = published.filter(|_| leader == Leader::Portolan);
        let inside = match led.map(|it| self.inside(it, sysctls, now)) {
            Some(Ok((doorway, changes))) => {
                report.changes += changes;
                led.zip(Some(doorway))
            }
            Some(Err(error)) => {
                report.failures.push(("engine's doorway", error));
                // What leads there now goes on.
                return report;
            }
            None => None,
        };
        self.look_out(plan, inside.is_some(), foreign, now, &mut report);
        match self.outside(plan, inside.as_ref(), sysctls, now, &mut report.notes) {
            Ok(changes) => report.changes += changes,
            Err(error) => report.failures.push(("host", error)),
        }
        let undecided = published.is_some() && leader == Leader::Nobody;
        if inside.is_none()
            && !undecided
            && let Some(ingress) = plan.ingress.as_ref().or(last.plan.ingress.as_ref())
        {
            match self.leave_doorway(&ingress.netns, sysctls) {
                Ok(changes) => report.changes += changes,
                Err(error) => report.failures.push(("engine's doorway", error)),
            }
        }
        let swarm = plan.ingress.is_some();
        self.firewall(inside.is_some(), swarm && foreign, now, &mut report);
        let doorway = inside.as_ref().map(|(ingress, it)| (*ingress, it.own));
        match cut::cut(goal, last, doorway) {
            Ok(told) => report.told = told,
            Err(error) => report.failures.push(("connections", error)),
        }
        report
    }

    /// Who leads the published ports of `plan` through the doorway.
    pub(crate) fn leader(&mut self, plan: &Plan, enabled: Enabled, now: Instant) -> Leader {
        let published = plan.ingress.as_ref().filter(|it| !it.ports.is_empty());
        let Some(ingress) = published.filter(|_| enabled == Enabled::Auto) else {
            return Leader::Portolan;
        };
        // Who cannot look into it cannot lead either, and then says why.
        self.look_for_rival(ingress, now).unwrap_or(Leader::Portolan)
    }

    fn look_for_rival(&mut self, ingress: &Ingress, now: Instant) -> Result<Leader, MeshError> {
        let Some(netns) = open(&ingress.netns, None)? else { return Err(MeshError::NotConnected) };
        let doorway = netns.cookie()?;
        if let Some(leader) = self.rival.decided(doorway) {
            return Ok(leader);
        }
        let ours = laid::is_there(&netns)?;
        let tasks = ingress.ports.values().any(|it| !it.slots.is_empty());
        let scene = Scene { doorway, ipvs: ground::ipvs(&netns)?, ours, tasks };
        Ok(self.rival.decide(scene, now))
    }

    /// Lets what is there go on as it is, also what a portolan before this one left.
    pub(crate) fn keep(ingress: &Ingress) -> Result<(), MeshError> {
        laid::revive(&Netns::this()?)?;
        if let Some(netns) = open(&ingress.netns, None)? {
            laid::revive(&netns)?;
        }
        Ok(())
    }

    /// How long until it may be clearer who leads.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.rival.next()
    }

    fn inside(
        &mut self,
        ingress: &Ingress,
        sysctls: &Sysctls,
        now: Instant,
    ) -> Result<(Doorway, usize), MeshError> {
        let Some(netns) = open(&ingress.netns, None)? else {
            return Err(MeshError::NotConnected);
        };
        let doorway = ground::doorway(&netns, &ingress.subnets)?.ok_or(MeshError::NotConnected)?;
        let [outer, inner] = doorway.devices.clone();
        let forward = Need::Value("ipv4/ip_forward".to_owned(), "1");
        let needs = [Need::Loose(outer), Need::Loose(inner), forward];
        self.bare.doorway = false;
        let mut changes = sysctls.hold(&netns, netns.cookie()?, &needs)?;
        let wanted = ingress.ports.iter();
        let wanted = wanted.map(|(port, it)| (*port, it.led(*port), it.affinity)).collect();
        let masqueraded = if ingress.masquerade { Ipv4Net::default() } else { doorway.bridge };
        let frame = |it: &Balancing| gate::doorway(doorway.own, masqueraded, it);
        let layout = Layout { wanted, frame: &frame, sphere: Sphere::Namespace };
        let inode = netns.inode();
        let known = self.doorway.take().filter(|it| it.inode == inode).map(|it| it.laid);
        let (laid, more) = Laid::lay(&netns, known, &layout, now)?;
        self.doorway = Some(Inside { laid, inode });
        changes += more;
        Ok((doorway, changes))
    }

    /// Sees which bridges have no way out but ours. What cannot be seen stays as it was.
    fn look_out(
        &mut self,
        plan: &Plan,
        leads: bool,
        doubted: bool,
        now: Instant,
        report: &mut Report,
    ) {
        let look = Netns::this().map_err(MeshError::from);
        let look = look.and_then(|it| self.outbound.exits(&it, plan, doubted, now));
        match look {
            Ok(exits) => {
                self.outbound.tell(&exits, leads, &mut report.notes);
                self.exits = exits;
            }
            Err(error) => report.failures.push(("engine's bridge", error)),
        }
    }

    /// The host's own namespace.
    fn outside(
        &mut self,
        plan: &Plan,
        inside: Option<&(&Ingress, Doorway)>,
        sysctls: &Sysctls,
        now: Instant,
        notes: &mut Notes,
    ) -> Result<usize, MeshError> {
        let host = Netns::this()?;
        let mut leading = Leading::of(plan, inside);
        if leading.is_empty() && self.exits.is_empty() {
            (self.host, self.ports) = (None, BTreeSet::new());
            self.others = Others::default();
            return bare(&mut self.bare.host, &host, sysctls);
        }
        self.bare.host = false;
        let occupied = ground::occupied(&host, &self.contested(&leading, now))?;
        self.others = leading.leave(&occupied, &self.ports, notes);
        self.unseen.extend(occupied.unseen);
        self.unseen.retain(|it| leading.leads(*it));
        unseen(&self.unseen, notes);
        let devices = ground::devices(&host, &leading.networks())?;
        let mut needs = vec![Need::Kept("ipv4/ip_forward", "1")];
        needs.extend(
            devices.iter().map(|it| Need::Value(format!("ipv4/conf/{it}/route_localnet"), "1")),
        );
        let mut frame = leading.frame(&self.others, devices);
        frame.exits.clone_from(&self.exits);
        frame.marks = self.outbound.marks();
        let ruleset = |it: &Balancing| frame.ruleset(it);
        let layout = Layout { wanted: leading.wanted(), frame: &ruleset, sphere: Sphere::Host };
        // The guard stands before loopback addresses may leave.
        let (laid, mut changes) = Laid::lay(&host, self.host.take(), &layout, now)?;
        self.host = Some(laid);
        self.ports = leading.ports();
        changes += sysctls.hold(&host, host.cookie()?, &needs)?;
        Ok(changes)
    }

    /// The ports of which it is to be asked who else has them: those that do not lead here yet, that
    /// somebody was found to have, or, now and then, that are to be had at some places only.
    fn contested(&mut self, leading: &Leading<'_>, now: Instant) -> BTreeSet<Port> {
        let again = self.asked.is_none_or(|it| now.saturating_duration_since(it) >= LOOK);
        if again {
            self.asked = Some(now);
        }
        let Others { held: _, kept, shared } = &self.others;
        let mut ports = leading.ports();
        ports.retain(|port| {
            !self.ports.contains(port)
                || shared.contains(port)
                || kept.iter().any(|it| it.0 == *port)
                || again && leading.is_bound(*port)
        });
        ports
    }

    fn leave_doorway(&mut self, netns: &Path, sysctls: &Sysctls) -> Result<usize, MeshError> {
        self.doorway = None;
        let Some(netns) = open(netns, None)? else { return Ok(0) };
        bare(&mut self.bare.doorway, &netns, sysctls)
    }

    fn firewall(&mut self, leads: bool, doubted: bool, now: Instant, report: &mut Report) {
        if self.firewall.is_some_and(|it| it.0 == leads && !doubted) {
            return;
        }
        self.firewall = None;
        match firewall::settle(leads) {
            Ok(settled) => {
                report.changes += settled.changes;
                self.firewall = Some((leads, now));
            }
            Err(error) => report.failures.push(("engine's firewall", error.into())),
        }
    }
}

/// Removes all of ours from a namespace that is not known to be `bare`, and then is.
fn bare(bare: &mut bool, netns: &Netns, sysctls: &Sysctls) -> Result<usize, MeshError> {
    if *bare {
        return Ok(0);
    }
    let changes = clear(netns, netns.cookie()?, sysctls)?;
    *bare = true;
    Ok(changes)
}

fn unseen(ports: &BTreeSet<Port>, notes: &mut Notes) {
    let Some(first) = ports.first() else { return };
    notes.warning(
        "mesh",
        "ports",
        format!(
            "it cannot be seen which program listens on port {first} and {} more: no `dockerd` \
             can be looked into; they are taken for the engine's own",
            ports.len() - 1
        ),
        "give portolan the host's PID namespace and CAP_SYS_PTRACE",
    );
}

fn engine_has_it(notes: &mut Notes) {
    notes.warning(
        "mesh",
        "mesh.enabled",
        "the engine's own routing mesh works here (IPVS), so it is left alone; tasks do not see \
         their clients' addresses",
        "set `mesh.enabled` to \"on\" to have portolan take over",
    );
}

/// Removes all of the mesh's from a namespace, also what a portolan that died left; gives whether
/// there was anything.
pub(crate) fn cleanup(netns: &Netns, sysctls: &Sysctls) -> Result<bool, MeshError> {
    Ok(clear(netns, netns.cookie()?, sysctls)? > 0)
}
