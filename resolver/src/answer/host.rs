//! Answers operators on the host, who are on no network: `NAME.NETWORK` and addresses only.
//!
//! Always true here: nothing is forwarded, and a name outside portolan's networks is refused, so
//! that nobody takes this for a resolver.

use super::{
    Answer, Reason, Verdict, addresses, find, is_above_names, refuse_kind, reverse, reverse_answer,
    service_record, special,
};
use crate::plan::{HostView, Zone};
use crate::wire::{Class, Query, Rcode};

/// What the host's view has to say to `query`; never [`Verdict::Forward`] or
/// [`Verdict::AskEngine`].
pub fn answer_host(view: &HostView, query: &Query, seed: u64) -> Verdict {
    let refused = Verdict::Refuse(Rcode::REFUSED, Reason::Plain);
    if query.class != Class::IN {
        return refused;
    }
    if let Some(refusal) = refuse_kind(query.kind) {
        return refusal;
    }
    let key = query.name.key();
    if let Some(answer) = special::fixed(&key, query.kind, view.ttl) {
        return Verdict::Answer(answer);
    }
    let qualified = |zone: &Zone| {
        key.strip_suffix(zone.key.as_str()).is_some_and(|it| it.is_empty() || it.ends_with('.'))
    };
    if let Some(asked) = reverse(&key) {
        return match reverse_answer(&view.zones, &view.subnets, &asked, query.kind, view.ttl) {
            Some(answer) => Verdict::Answer(answer),
            None => refused,
        };
    }
    if let Some(entry) = find::candidates(&key).find_map(|(name, network)| {
        let network = network?; // a name alone means nothing here: there is no network to be on
        view.zones.iter().filter(|it| it.key == network).find_map(|it| it.names.get(name))
    }) {
        return Verdict::Answer(addresses(entry, query.kind, seed));
    }
    let below: Vec<_> = view.zones.iter().filter(|it| qualified(it)).cloned().collect();
    if let Some(answer) = service_record(&below, &key, query.kind, seed, view.ttl) {
        return Verdict::Answer(answer);
    }
    if is_above_names(&view.zones, &key) {
        return Verdict::Answer(Answer::no_data(view.ttl));
    }
    let nowhere = special::is_nowhere(&key);
    if nowhere || !below.is_empty() || !key.is_empty() && !key.contains('.') {
        return Verdict::Answer(Answer::no_name(view.ttl));
    }
    refused
}
