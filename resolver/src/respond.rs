//! From a client's octets to a reply or to somebody who must be asked: the whole path of a
//! question but for sockets.
//!
//! Invariants
//! - *total*: any octets give a step, and no reply is longer than the client can take;
//! - *one view*: a question is answered from one view, whatever changes meanwhile.

use crate::answer::{Verdict, answer, answer_host};
use crate::metrics::{Metrics, Source};
use crate::plan::{HostView, View};
use crate::wire::{self, Inbound, Query, Rcode, Recursion, Transport};

/// What is done next about what a client sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Nothing.
    Silence,
    /// This is sent back.
    Reply(Vec<u8>),
    /// Somebody else is asked first.
    Ask(Query, Whom),
}

/// Who is asked about a name that the registry does not know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Whom {
    /// The sandbox's upstream servers.
    Upstream,
    /// The engine's own resolver in that sandbox.
    Engine,
}

/// What is done about `octets` from inside the sandbox that `view` is of.
pub fn respond(view: &View, octets: &[u8], transport: Transport, seed: u64) -> Step {
    respond_counted(view, octets, transport, seed, &Metrics::default())
}

pub(crate) fn respond_counted(
    view: &View,
    octets: &[u8],
    transport: Transport,
    seed: u64,
    metrics: &Metrics,
) -> Step {
    let decide = |query: &Query| answer(view, query, seed);
    step(octets, transport, Recursion::Offered, metrics, decide)
}

/// What is done about `octets` from the host; never [`Step::Ask`].
pub(crate) fn respond_host(
    view: &HostView,
    octets: &[u8],
    transport: Transport,
    seed: u64,
    metrics: &Metrics,
) -> Step {
    let decide = |query: &Query| answer_host(view, query, seed);
    step(octets, transport, Recursion::No, metrics, decide)
}

fn step(
    octets: &[u8],
    transport: Transport,
    recursion: Recursion,
    metrics: &Metrics,
    decide: impl Fn(&Query) -> Verdict,
) -> Step {
    Metrics::count(match transport {
        Transport::Udp => &metrics.udp_queries,
        Transport::Tcp => &metrics.tcp_queries,
    });
    let query = match wire::read(octets) {
        Inbound::Query(query) => query,
        Inbound::Silence => {
            Metrics::count(&metrics.silenced);
            return Step::Silence;
        }
        Inbound::Refused(code, reply) => {
            Metrics::count(&metrics.malformed);
            metrics.answered(Source::Refused, code);
            return Step::Reply(reply);
        }
    };
    match decide(&query) {
        Verdict::Answer(answer) => {
            let code = if answer.exists { Rcode::NOERROR } else { Rcode::NXDOMAIN };
            metrics.answered(Source::Local, code);
            Step::Reply(wire::answer(&query, &answer, transport, recursion))
        }
        Verdict::Refuse(code, reason) => {
            Metrics::count(&metrics.refused);
            metrics.answered(Source::Refused, code);
            Step::Reply(wire::refusal(&query, code, reason, recursion))
        }
        Verdict::Forward => Step::Ask(query, Whom::Upstream),
        Verdict::AskEngine => Step::Ask(query, Whom::Engine),
    }
}
