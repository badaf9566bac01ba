//! Which tasks drain, on nodes that only hear gossip. Pure; who asks is [`follow`].
//!
//! Gossip lists a task until it is gone, but two seconds before Swarm stops it each engine takes
//! it out of its own names. So the engine's own resolver is asked for the tasks of each service on
//! each network: whom it leaves out drains.
//!
//! Invariants
//! - *asked where no container is*: in the namespace of the engine's own load balancer on that
//!   network, where it answers as it does in containers. What is heard counts for everybody on the
//!   node, and in a container's namespace any of its programs could take the engine's place;
//! - *no evidence without agreement*: an answer that shares no address with gossip says nothing:
//!   the engine may be starting. So a service never loses its last task here.
//!
//! [`follow`]: crate::source::docker::follow

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use crate::id::NetworkId;
use crate::source::docker::view::{Teller, View};

/// How many questions are asked in a round.
pub(crate) const ROUND: usize = 50;
/// How many of them those of each kind get while others want more: that of many services which
/// nothing was heard of, each is asked now and then, because a task that drains gives no sign.
const SHARE: usize = 10;

/// One question, and what to make of its answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Question {
    /// The network that it is about.
    pub(crate) network: NetworkId,
    /// The service that it is about.
    pub(crate) service: String,
    /// What is asked: `tasks.SERVICE.NETWORK`.
    pub(crate) name: String,
    /// From where: a namespace of the engine's own.
    pub(crate) netns: PathBuf,
}

impl Question {
    fn asked(&self) -> Asked {
        (self.network.clone(), self.service.clone())
    }
}

/// What an answer says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Verdict {
    /// The endpoints that drain.
    pub(crate) draining: BTreeSet<String>,
    /// It names an address that gossip did not: gossip is to be read again.
    pub(crate) is_news: bool,
}

/// Where something happened lately, so that a task may be about to drain there.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Hot {
    /// Services whose gossip changed.
    pub(crate) services: BTreeSet<Asked>,
    /// Networks with any sign of change.
    pub(crate) networks: BTreeSet<NetworkId>,
}

/// What a question is about: network and service.
pub(crate) type Asked = (NetworkId, String);

/// What was asked last: of the hot services, of the others of hot networks, of all others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turns([Option<Asked>; 3]);

/// The questions of the next round: services on networks that this node is on, the hot ones
/// first. Those of each kind take turns, and no kind waits until another has none left.
pub(crate) fn round(view: &View, hot: &Hot, turns: &mut Turns) -> Vec<Question> {
    if !matches!(view.teller(), Teller::Gossip) {
        return Vec::new();
    }
    let (hottest, others): (Vec<_>, Vec<_>) =
        questions(view).into_iter().partition(|it| hot.services.contains(&it.asked()));
    let (near, far): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|it| hot.networks.contains(&it.network));
    let kinds = [hottest, near, far];
    let mut kept: usize = kinds.iter().map(|it| it.len().min(SHARE)).sum();
    let mut round = Vec::new();
    for (kind, last) in kinds.into_iter().zip(&mut turns.0) {
        kept -= kind.len().min(SHARE);
        let room = ROUND - kept - round.len();
        round.extend(turn(kind, room, last));
    }
    round
}

/// As many of `all`, which is in order, as there is room for, beginning after `last`.
fn turn(all: Vec<Question>, room: usize, last: &mut Option<Asked>) -> Vec<Question> {
    let (before, after): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|it| last.as_ref().is_some_and(|last| it.asked() <= *last));
    let turn: Vec<Question> = after.into_iter().chain(before).take(room).collect();
    if let Some(question) = turn.last() {
        *last = Some(question.asked());
    }
    turn
}

fn questions(view: &View) -> Vec<Question> {
    let mut all = Vec::new();
    for (network, gossip) in &view.gossip {
        let known = view.networks.get(network).filter(|it| !it.ingress);
        let place = view.folder.load_balancer(network);
        let (Some(known), Some(place)) = (known, place) else { continue };
        let services = gossip.services.iter().filter(|(_, it)| !it.tasks.is_empty());
        all.extend(services.map(|(service, _)| Question {
            network: network.clone(),
            service: service.clone(),
            name: format!("tasks.{service}.{}", known.name),
            netns: place.clone(),
        }));
    }
    all
}

/// What `answer` says about the tasks that gossip lists for the question's service.
pub(crate) fn judge(view: &View, question: &Question, answer: &[Ipv4Addr]) -> Verdict {
    let gossip = view.gossip.get(&question.network);
    let service = gossip.and_then(|it| it.services.get(&question.service));
    let Some(service) = service else { return Verdict::default() };
    let answered: BTreeSet<IpAddr> = answer.iter().copied().map(IpAddr::V4).collect();
    let listed: BTreeSet<IpAddr> = service.tasks.iter().map(|it| it.address).collect();
    if listed.is_disjoint(&answered) {
        return Verdict { is_news: !answered.is_empty(), ..Verdict::default() };
    }
    let missing = service.tasks.iter().filter(|it| !answered.contains(&it.address));
    Verdict {
        draining: missing.map(|it| it.endpoint.clone()).collect(),
        is_news: !answered.is_subset(&listed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::docker::container::{Attached, Container};
    use crate::source::docker::engine::{Engine, EngineNetwork, Role};
    use crate::source::docker::folder::Folder;
    use crate::source::docker::gossip::{Gossip, GossipService, GossipTask};
    use crate::source::docker::swarm::Swarm;

    fn view(services: usize, tasks: u8) -> View {
        let network = NetworkId::from("n1");
        let task = |it: u8| GossipTask {
            name: format!("s.{it}.t{it}"),
            endpoint: format!("e{it}"),
            address: IpAddr::from([10, 0, 1, it]),
            host: None,
        };
        let service =
            GossipService { tasks: (1..=tasks).map(task).collect(), ..GossipService::default() };
        let services = (0..services).map(|it| (format!("s{it:03}"), service.clone())).collect();
        let gossip = Gossip { services, ..Gossip::default() };
        let container = Container {
            id: "c".to_owned(),
            running: true,
            cookie: Some(7),
            netns: Some(PathBuf::from("/ns")),
            attachments: vec![Attached { network: "n1".to_owned(), ..Attached::default() }],
            ..Container::default()
        };
        let on = EngineNetwork::from_list(bollard::models::Network {
            id: Some("n1".to_owned()),
            name: Some("front".to_owned()),
            driver: Some("overlay".to_owned()),
            scope: Some("swarm".to_owned()),
            ..Default::default()
        });
        View {
            engine: Engine { role: Role::Worker, ..Engine::default() },
            networks: [(network.clone(), on.unwrap())].into(),
            gossip: [(network, gossip)].into(),
            containers: [("c".to_owned(), container)].into(),
            folder: Folder::new(PathBuf::from("/netns"), ["lb_n1".to_owned()]),
            ..View::default()
        }
    }

    fn first(view: &View) -> Question {
        round(view, &Hot::default(), &mut Turns::default()).remove(0)
    }

    fn answer(last: &[u8]) -> Vec<Ipv4Addr> {
        last.iter().map(|it| Ipv4Addr::new(10, 0, 1, *it)).collect()
    }

    #[test]
    fn the_whole_name_is_asked_in_the_engines_own_namespace_on_that_network() {
        let question = first(&view(1, 2));
        assert_eq!(question.name, "tasks.s000.front");
        assert_eq!(question.netns, PathBuf::from("/netns/lb_n1"));
    }

    #[test]
    fn no_container_is_asked_who_drains() {
        let mut view = view(1, 2);
        view.folder = Folder::new(PathBuf::from("/netns"), ["lb_n2".to_owned()]);
        assert_eq!(round(&view, &Hot::default(), &mut Turns::default()), []);
    }

    #[test]
    fn whom_the_engine_leaves_out_drains() {
        let view = view(1, 3);
        let verdict = judge(&view, &first(&view), &answer(&[1, 3]));
        assert_eq!(verdict, Verdict { draining: ["e2".to_owned()].into(), is_news: false });
    }

    #[test]
    fn a_service_never_loses_its_last_task() {
        let view = view(1, 3);
        assert_eq!(judge(&view, &first(&view), &[]), Verdict::default());
        let elsewhere = judge(&view, &first(&view), &answer(&[99]));
        assert_eq!(elsewhere, Verdict { draining: BTreeSet::new(), is_news: true });
    }

    #[test]
    fn an_address_that_gossip_lacks_is_news() {
        let view = view(1, 1);
        let verdict = judge(&view, &first(&view), &answer(&[1, 2]));
        assert_eq!(verdict, Verdict { draining: BTreeSet::new(), is_news: true });
    }

    fn services(questions: &[Question]) -> BTreeSet<String> {
        questions.iter().map(|it| it.service.clone()).collect()
    }

    #[test]
    fn every_service_gets_its_turn_and_no_round_is_longer_than_allowed() {
        let view = view(120, 1);
        let few = ["s003", "s110"].map(|it| (NetworkId::from("n1"), it.to_owned()));
        let many = (0..60).map(|it| (NetworkId::from("n1"), format!("s{it:03}")));
        let n1 = BTreeSet::from([NetworkId::from("n1")]);
        for (hot, rounds) in [
            (Hot::default(), 3),
            (Hot { networks: n1.clone(), services: BTreeSet::new() }, 3),
            (Hot { networks: n1, services: few.into() }, 3),
            (Hot { networks: BTreeSet::new(), services: many.collect() }, 6),
        ] {
            let mut turns = Turns::default();
            let mut asked = BTreeSet::new();
            for _ in 0..rounds {
                let questions = round(&view, &hot, &mut turns);
                assert_eq!(questions.len(), ROUND);
                asked.extend(services(&questions));
            }
            assert_eq!(asked.len(), 120, "{hot:?}");
        }
    }

    #[test]
    fn services_whose_gossip_changed_are_asked_about_in_every_round() {
        let view = view(120, 1);
        let moved = ["s003", "s110"].map(|it| (NetworkId::from("n1"), it.to_owned()));
        let hot = Hot { networks: [NetworkId::from("n1")].into(), services: moved.into() };
        let mut turns = Turns::default();
        for _ in 0..3 {
            let asked = services(&round(&view, &hot, &mut turns));
            assert!(asked.contains("s003") && asked.contains("s110"), "{asked:?}");
        }
    }

    #[test]
    fn managers_need_not_ask() {
        let mut view = view(1, 2);
        view.engine.role = Role::Manager;
        view.swarm = Some(Swarm::default());
        assert_eq!(round(&view, &Hot::default(), &mut Turns::default()), []);
    }
}
