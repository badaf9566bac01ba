//! `portolan verify`: engine, registry, kernel tables, DNS answers and conntrack compared, each
//! looked at anew.
//!
//! Invariants
//! - *twice*: the world moves while it is looked at, so what differs is looked at again after
//!   [`SETTLE`], and only what differs both times is told;
//! - *read only*: nothing is put right here; that is what the parts do all the time;
//! - *bounded*: in time by [`LONGEST`], in lines by what each comparison tells.

mod source;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use registry::Snapshot;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use vip::plan::SandboxPlan;

use crate::supervise::Live;

/// How long what differs gets to become the same.
const SETTLE: Duration = Duration::from_secs(1);
/// How long all of it may take.
pub const LONGEST: Duration = Duration::from_secs(100);
/// As many namespaces are looked into at the same time.
const AT_ONCE: usize = 4;

/// What came of comparing.
#[derive(Debug, Default, Serialize)]
pub struct Verified {
    /// Whether nothing differs.
    pub ok: bool,
    /// The same for people.
    pub text: String,
    /// What was compared.
    pub sections: Vec<Section>,
}

/// One comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Section {
    /// What with what.
    pub name: &'static str,
    /// What was looked at, in words.
    pub looked_at: String,
    /// What differs, a line each.
    pub differences: Vec<String>,
}

/// Compares everything that the parts of this process look after.
pub async fn verify(live: &Live) -> Verified {
    let sections = match timeout(LONGEST, settled(live)).await {
        Ok(sections) => sections,
        Err(_elapsed) => vec![Section {
            name: "verify",
            looked_at: String::new(),
            differences: vec![format!("it is not finished after {} s", LONGEST.as_secs())],
        }],
    };
    let ok = sections.iter().all(|it| it.differences.is_empty());
    let mut text = String::new();
    for Section { name, looked_at, differences } in &sections {
        let verdict = match differences.len() {
            0 => "the same".to_owned(),
            1 => "1 difference".to_owned(),
            more => format!("{more} differences"),
        };
        // Writing to a `String` does not fail.
        writeln!(text, "{name}: {verdict} ({looked_at})").ok();
        for difference in differences {
            writeln!(text, "  {difference}").ok();
        }
    }
    Verified { ok, text, sections }
}

async fn settled(live: &Live) -> Vec<Section> {
    let first = once(live).await;
    if first.iter().all(|it| it.differences.is_empty()) {
        return first;
    }
    sleep(SETTLE).await;
    let mut second = once(live).await;
    for section in &mut second {
        let before = first.iter().filter(|it| it.name == section.name);
        let before: BTreeSet<_> = before.flat_map(|it| &it.differences).collect();
        section.differences.retain(|it| before.contains(it));
        shorten(&mut section.differences);
    }
    second
}

fn shorten(lines: &mut Vec<String>) {
    let more = lines.len().saturating_sub(MOST);
    if more > 0 {
        lines.truncate(MOST);
        lines.push(format!("and {more} more"));
    }
}

/// As many differences of a section are told.
const MOST: usize = 100;

async fn once(live: &Live) -> Vec<Section> {
    let mut sections = vec![registry(live).await];
    if live.parts.vip {
        sections.extend(kernel(live).await);
        sections.push(mesh(live).await);
    }
    if live.parts.resolver {
        sections.push(dns(live).await);
    }
    sections
}

async fn registry(live: &Live) -> Section {
    let looked_at = |it: &Snapshot| {
        format!(
            "{} networks, {} services, {} tasks, {} sandboxes",
            it.networks().len(),
            it.services().len(),
            it.tasks().len(),
            it.sandboxes().len()
        )
    };
    let read = source::read_anew(&live.source).await;
    let known = Arc::clone(&live.told.borrow());
    let differences = match &read {
        Ok(read) => source::differences(&known, read),
        Err(reason) => vec![reason.clone()],
    };
    Section { name: live.source.called(), looked_at: looked_at(&known), differences }
}

/// The tables and routes of each sandbox, and the flows through them.
async fn kernel(live: &Live) -> Vec<Section> {
    let plan = live.vip.borrow().as_ref().map(|it| Arc::clone(&it.plan));
    let Some(plan) = plan else {
        let differences = vec!["no plan was made yet".to_owned()];
        return vec![Section { name: "plan and kernel", looked_at: String::new(), differences }];
    };
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut looking = JoinSet::new();
    for place in plan.sandboxes.values() {
        let (place, places) = (place.clone(), Arc::clone(&places));
        looking.spawn(async move {
            let _place = places.acquire_owned().await;
            tokio::task::spawn_blocking(move || look(&place)).await
        });
    }
    let (mut held, mut flows) = (Vec::new(), Vec::new());
    while let Some(ended) = looking.join_next().await {
        match ended {
            Ok(Ok((differences, astray))) => {
                held.extend(differences);
                flows.extend(astray);
            }
            Ok(Err(error)) | Err(error) => held.push(format!("a look failed: {error}")),
        }
    }
    held.sort();
    flows.sort();
    let sandboxes = plan.sandboxes.len();
    let vips: usize = plan.addresses.len();
    vec![
        Section {
            name: "plan and kernel",
            looked_at: format!("{vips} VIPs, tables and routes of {sandboxes} namespaces"),
            differences: held,
        },
        Section {
            name: "tasks and conntrack",
            looked_at: format!("flows in {sandboxes} namespaces"),
            differences: flows,
        },
    ]
}

fn look(place: &SandboxPlan) -> (Vec<String>, Vec<String>) {
    let name = &place.name;
    let line = |it: String| format!("sandbox {name}: {it}");
    match vip::inspect(place) {
        // Gone meanwhile: the second look will not find it in the plan.
        Ok(None) => (vec![line("its network namespace is gone".to_owned())], Vec::new()),
        Ok(Some(seen)) => {
            let astray = seen.astray.iter().map(|it| {
                let (client, vip) = (it.original_source, it.original_destination);
                let (port, task) = (it.original_port, it.reply_source);
                line(format!("{client} to {vip}:{port} still leads to {task}, which is gone"))
            });
            let astray = astray.collect();
            (seen.differences.into_iter().map(line).collect(), astray)
        }
        Err(error) => (vec![line(error.to_string())], Vec::new()),
    }
}

/// Where published ports lead.
async fn mesh(live: &Live) -> Section {
    let name = "published ports and kernel";
    let plan = live.mesh.borrow().as_ref().map(|it| Arc::clone(&it.plan));
    let Some(plan) = plan else {
        let differences = vec!["no plan was made yet".to_owned()];
        return Section { name, looked_at: String::new(), differences };
    };
    let looked_at = format!("{} ports", plan.ports().count());
    let enabled = live.meshed;
    let looked = tokio::task::spawn_blocking(move || vip::mesh::inspect(&plan, enabled)).await;
    let differences = match looked {
        Ok(Ok(differences)) => differences,
        Ok(Err(error)) => vec![error.to_string()],
        Err(error) => vec![format!("a look failed: {error}")],
    };
    Section { name, looked_at, differences }
}

async fn dns(live: &Live) -> Section {
    let name = "plan and DNS answers";
    let plan = live.resolver.borrow().as_ref().map(|it| Arc::clone(&it.plan));
    let Some(plan) = plan else {
        let differences = vec!["no plan was made yet".to_owned()];
        return Section { name, looked_at: String::new(), differences };
    };
    match resolver::verify(&plan).await {
        Ok(resolver::Verified { answered, differences }) => {
            let sandboxes = plan.views.len();
            let looked_at = format!("{answered} answers in {sandboxes} sandboxes");
            Section { name, looked_at, differences }
        }
        Err(error) => {
            Section { name, looked_at: String::new(), differences: vec![error.to_string()] }
        }
    }
}
