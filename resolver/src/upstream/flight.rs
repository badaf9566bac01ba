//! Questions that servers are being asked now: each once, however many wait for its answer.
//!
//! Invariants
//! - *one in flight*: who asks what is being asked already waits for the same answer; names that
//!   differ in case alone are the same, questions with and without DO or CD are not;
//! - *nobody's departure ends it*: it is flown by whoever holds the [`Pilot`], not by who asked;
//! - *never stuck*: a flight leaves the table when its pilot is dropped, whatever the reason.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tokio::time::Instant;

use super::cache::Folded;
use super::locked;
use crate::wire::reply::asked::Asked;
use crate::wire::{Class, Kind, Query, Transport};

/// The questions in flight, each with an answer of type `T` to come. Bounded by how many may be
/// asked at once in all.
#[derive(Debug)]
pub(crate) struct Flights<T>(Arc<Table<T>>);

type Table<T> = Mutex<BTreeMap<Question, Flight<T>>>;

/// What makes two questions one.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Question {
    /// In lower case.
    name: Box<[u8]>,
    kind: Kind,
    class: Class,
    dnssec_ok: bool,
    checking_disabled: bool,
}

/// An answer that will come.
#[derive(Debug)]
pub(crate) struct Flight<T> {
    /// Since when it is asked.
    pub(crate) begun: Instant,
    answer: watch::Receiver<Option<Arc<T>>>,
}

/// Who must bring the answer.
#[derive(Debug)]
pub(crate) struct Pilot<T> {
    table: Arc<Table<T>>,
    question: Question,
    answer: watch::Sender<Option<Arc<T>>>,
}

/// A place in a flight.
#[derive(Debug)]
pub(crate) enum Boarded<T, P> {
    /// It was under way.
    Joined(Flight<T>),
    /// It begins, with what it was let go with.
    Begins(Flight<T>, Pilot<T>, P),
}

impl<T> Flights<T> {
    /// Waits with the others who ask `query`; where nobody does, begins if `admit` lets it.
    pub(crate) fn board<P, E>(
        &self,
        query: &Query,
        now: Instant,
        admit: impl FnOnce() -> Result<P, E>,
    ) -> Result<Boarded<T, P>, E> {
        let question = Question::of(query);
        match locked(&self.0).entry(question.clone()) {
            Entry::Occupied(under_way) => Ok(Boarded::Joined(under_way.get().clone())),
            Entry::Vacant(vacant) => {
                let passage = admit()?;
                let (answer, coming) = watch::channel(None);
                let flight = vacant.insert(Flight { begun: now, answer: coming }).clone();
                let pilot = Pilot { table: Arc::clone(&self.0), question, answer };
                Ok(Boarded::Begins(flight, pilot, passage))
            }
        }
    }
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl Question {
    fn of(query: &Query) -> Self {
        let asked = Asked::of(query, Transport::Tcp);
        let folded = Folded::new(asked.name);
        let key = folded.key(&asked);
        Self {
            name: key.name.into(),
            kind: key.kind,
            class: query.class,
            dnssec_ok: key.dnssec_ok,
            checking_disabled: key.checking_disabled,
        }
    }
}

impl<T> Flight<T> {
    /// The answer; `None`: its pilot is no more. Waits for as long as it is polled.
    pub(crate) async fn landed(mut self) -> Option<Arc<T>> {
        self.answer.wait_for(Option::is_some).await.ok().and_then(|it| it.clone())
    }
}

impl<T> Clone for Flight<T> {
    fn clone(&self) -> Self {
        Self { begun: self.begun, answer: self.answer.clone() }
    }
}

impl<T> Pilot<T> {
    /// Brings the answer to all who wait.
    pub(crate) fn land(self, answer: T) {
        self.answer.send_replace(Some(Arc::new(answer)));
    }
}

impl<T> Drop for Pilot<T> {
    fn drop(&mut self) {
        locked(&self.table).remove(&self.question);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::cache::replies::query;
    use crate::wire::Edns;

    fn begins(flights: &Flights<u8>, query: &Query) -> Option<(Flight<u8>, Pilot<u8>)> {
        let admit = || Ok::<_, ()>(());
        match flights.board(query, Instant::now(), admit).unwrap() {
            Boarded::Begins(flight, pilot, ()) => Some((flight, pilot)),
            Boarded::Joined(_) => None,
        }
    }

    #[test]
    fn names_of_another_case_and_other_ids_are_the_same_question_and_do_or_cd_are_not() {
        let flights = Flights::default();
        let first = query("www.example", Kind::A);
        let held = begins(&flights, &first);
        assert!(held.is_some());
        let other_case = Query { id: 77, ..query("WWW.Example", Kind::A) };
        assert!(begins(&flights, &other_case).is_none());
        let no_do = Query { edns: Some(Edns { size: 4096, dnssec_ok: false }), ..first.clone() };
        assert!(begins(&flights, &no_do).is_none());
        let with_do = Query { edns: Some(Edns { size: 1232, dnssec_ok: true }), ..first.clone() };
        let unchecked = Query { checking_disabled: true, ..first };
        let others = [with_do, unchecked, query("www.example", Kind::AAAA), query("w", Kind::A)];
        assert!(others.iter().all(|it| begins(&flights, it).is_some()));
    }

    #[tokio::test]
    async fn an_answer_comes_to_all_who_wait_and_the_next_question_begins_anew() {
        let flights = Flights::default();
        let asked = query("a.example", Kind::A);
        let (flight, pilot) = begins(&flights, &asked).unwrap();
        let waiting = [flight.clone(), flight];
        pilot.land(7);
        for flight in waiting {
            assert_eq!(flight.landed().await.as_deref(), Some(&7));
        }
        assert!(begins(&flights, &asked).is_some());
    }

    #[tokio::test]
    async fn a_flight_whose_pilot_is_gone_keeps_nobody_waiting_and_blocks_nobody() {
        let flights = Flights::default();
        let asked = query("a.example", Kind::A);
        let (flight, pilot) = begins(&flights, &asked).unwrap();
        drop(pilot);
        assert_eq!(flight.landed().await, None);
        assert!(begins(&flights, &asked).is_some());
    }

    #[test]
    fn who_is_not_admitted_leaves_nothing_behind() {
        let flights = Flights::<u8>::default();
        let asked = query("a.example", Kind::A);
        assert!(flights.board(&asked, Instant::now(), || Err::<(), _>("full")).is_err());
        assert!(begins(&flights, &asked).is_some());
    }
}
