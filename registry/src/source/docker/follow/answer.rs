//! Does one job: asks the engine, the host or the kernel, and gives the answer.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use crate::id::NetworkId;
use crate::source::docker::agenda::Job;
use crate::source::docker::command_line::CommandLine;
use crate::source::docker::container::Container;
use crate::source::docker::draining::Question;
use crate::source::docker::engine::{Engine, EngineNetwork};
use crate::source::docker::error::EngineError;
use crate::source::docker::folder::Folder;
use crate::source::docker::gossip::Gossip;
use crate::source::docker::host::Host;
use crate::source::docker::read::{Client, Containers, Place};
use crate::source::docker::swarm::Swarm;
use crate::source::docker::upstream::HostServers;

/// A job that ended.
pub(super) struct Finished {
    /// Which.
    pub(super) job: Job,
    /// When it began, in the follower's count.
    pub(super) sequence: u64,
    /// When it began.
    pub(super) begun: Instant,
    /// What came of it.
    pub(super) answer: Result<Answer, EngineError>,
}

/// What a job found out.
pub(super) enum Answer {
    Info(Engine),
    Host(HostServers, Option<u64>),
    Networks(Vec<EngineNetwork>),
    Containers(Containers),
    Container(Option<Box<Container>>),
    Place(Option<Place>),
    Folder(Folder),
    /// The namespace's cookie and addresses; `None`: it is not one, yet or any more.
    Namespace(Option<(u64, Vec<IpAddr>)>),
    Gossip(NetworkId, Option<(Gossip, Vec<String>)>),
    Swarm(Swarm),
    Draining(Vec<(Question, Vec<Ipv4Addr>)>),
}

/// What a job has to know besides its name.
pub(super) enum Context {
    None,
    /// The tasks that were alive at the last reading, or the containers that are stopped.
    Known(BTreeSet<String>),
    /// The folder to list.
    Folder(PathBuf),
    /// What the host's files said last.
    Servers(HostServers),
    /// What to ask the engine's resolver.
    Questions(Vec<Question>),
    /// The ingress network's own namespace, and those of local tasks on it.
    Mesh(Option<PathBuf>, Vec<PathBuf>),
}

/// Does `job`.
pub(super) async fn answer<H: Host>(
    client: Arc<Client>,
    host: Arc<H>,
    job: Job,
    context: Context,
) -> Result<Answer, EngineError> {
    Ok(match (job, context) {
        (Job::Info, _) => Answer::Info(client.info().await?.0),
        (Job::Host, Context::Servers(last)) => {
            let servers = host_servers(Arc::clone(&host), client.socket(), last).await;
            Answer::Host(servers, host_cookie(host).await)
        }
        (Job::Host, _) => Answer::Host(HostServers::default(), host_cookie(host).await),
        (Job::Networks, _) => Answer::Networks(client.networks().await?),
        (Job::Containers, Context::Known(known)) => {
            Answer::Containers(client.containers(&host, &known).await?)
        }
        (Job::Containers, _) => {
            Answer::Containers(client.containers(&host, &BTreeSet::new()).await?)
        }
        (Job::Container(id), _) => {
            Answer::Container(client.container(&id, &host).await?.map(Box::new))
        }
        (Job::Place(network, container), _) => {
            Answer::Place(client.place(&network, &container).await?)
        }
        (Job::Namespace(path), _) => Answer::Namespace(namespace(host, path).await),
        (Job::Gossip(network), context) => {
            let mut gossip = client.gossip(&network).await?;
            if let (Some((gossip, _)), Context::Mesh(overlay, tasks)) = (&mut gossip, context) {
                look_at_mesh(host, gossip, overlay, tasks).await;
            }
            Answer::Gossip(network, gossip)
        }
        (Job::Swarm, Context::Known(known)) => Answer::Swarm(client.swarm(known).await?),
        (Job::Swarm, _) => Answer::Swarm(client.swarm(BTreeSet::new()).await?),
        (Job::Folder, Context::Folder(path)) => Answer::Folder(list(path).await),
        (Job::Folder, _) => Answer::Folder(Folder::default()),
        (Job::Draining, Context::Questions(questions)) => {
            Answer::Draining(ask(&*host, questions).await)
        }
        (Job::Draining, _) => Answer::Draining(Vec::new()),
    })
}

/// Adds what the kernel says of the ingress network. What cannot be read now is not known.
async fn look_at_mesh<H: Host>(
    host: Arc<H>,
    gossip: &mut Gossip,
    overlay: Option<PathBuf>,
    tasks: Vec<PathBuf>,
) {
    let wanted = gossip.published();
    let look = move || {
        let neighbours = overlay.and_then(|it| host.neighbours(&it).ok()).unwrap_or_default();
        let mut ports = BTreeSet::new();
        // Tasks of one service tell the same.
        for task in tasks.iter().take(TASKS_ASKED) {
            if wanted.iter().all(|port| ports.iter().any(|(known, _, _)| known == port)) {
                break;
            }
            ports.extend(host.redirected_ports(task).ok().into_iter().flatten());
        }
        (neighbours.into_iter().collect(), ports)
    };
    (gossip.neighbours, gossip.protocols) = blocking(look).await.unwrap_or_default();
}

/// How many local tasks are asked about published ports: each costs the run of a program.
const TASKS_ASKED: usize = 32;

/// How many questions are under way at a time: the engine's resolver answers one at a time.
const ASKED_AT_ONCE: usize = 8;

async fn ask<H: Host>(host: &H, questions: Vec<Question>) -> Vec<(Question, Vec<Ipv4Addr>)> {
    let asked = stream::iter(questions).map(|it| async move {
        let answer = host.engine_tasks(&it.netns, &it.name).await?;
        Some((it, answer))
    });
    asked.buffer_unordered(ASKED_AT_ONCE).filter_map(std::future::ready).collect().await
}

/// Lists the folder; one that does not exist is empty.
async fn list(path: PathBuf) -> Folder {
    let of = path.clone();
    let names = blocking(move || {
        let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
        entries.filter_map(|it| it.file_name().into_string().ok()).collect::<Vec<_>>()
    });
    Folder::new(of, names.await.unwrap_or_default())
}

/// What this host's files say of name servers; what cannot be read now says what it said `last`.
async fn host_servers<H: Host>(
    host: Arc<H>,
    socket: Option<PathBuf>,
    last: HostServers,
) -> HostServers {
    let kept = last.clone();
    let read = move || {
        let command = socket.and_then(|it| CommandLine::of_engine(Path::new("/proc"), &it));
        let index = |name: &str| host.interface_index(name);
        host.files().read(command.unwrap_or_default(), last, index)
    };
    blocking(read).await.unwrap_or(kept)
}

async fn namespace<H: Host>(host: Arc<H>, path: PathBuf) -> Option<(u64, Vec<IpAddr>)> {
    let read = move || Some((host.netns_cookie(&path).ok()?, host.netns_addresses(&path).ok()?));
    blocking(read).await.flatten()
}

async fn host_cookie<H: Host>(host: Arc<H>) -> Option<u64> {
    blocking(move || host.host_cookie().ok()).await.flatten()
}

/// Files and namespaces are read off the runtime's workers.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}
