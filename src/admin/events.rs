//! What happened lately, and what happens next for whoever waits: `GET /api/v1/events`.
//!
//! Invariants
//! - *bounded*: an answer is what is kept at most, and a wait is [`LONGEST`] at most; of those who
//!   wait there are [`FOLLOWERS`], and who comes beyond them is answered at once;
//! - *nothing skipped unseen*: an answer says how many events went by that were not kept.
//!
//! `since=NUMBER` (with `run=RUN`, from the answer before) asks for what came after it,
//! `wait=MILLISECONDS` for patience where there is nothing yet.

use std::time::Duration;

use registry::event::{self, Event};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::api::parameter;
use crate::supervise::Live;

/// Where it is asked.
pub const EVENTS: &str = "/api/v1/events";

/// How long an asker waits at most; less than any asker's patience.
pub const LONGEST: Duration = Duration::from_secs(5);

/// Those who may wait at a time: a part of those who may ask.
pub(super) const FOLLOWERS: usize = 8;

/// Answers `GET /api/v1/events?query`.
pub(super) async fn answer(live: &Live, followers: &Semaphore, query: &str) -> Value {
    let number = |key| parameter(query, key).parse::<u64>().ok();
    let run = live.events.run();
    // Numbers of another process say nothing about this one's.
    let known = number("run").is_none_or(|it| it == run);
    let since = number("since").filter(|_| known).unwrap_or_default();
    let wait = Duration::from_millis(number("wait").unwrap_or_default()).min(LONGEST);
    let mut events = live.events.since(since);
    if events.is_empty()
        && !wait.is_zero()
        && let Ok(_place) = followers.try_acquire()
    {
        timeout(wait, live.events.after(since)).await.ok();
        events = live.events.since(since);
    }
    let newest = events.last().map_or(since, |it| it.number);
    let missed = events.first().map_or(0, |it| it.number.saturating_sub(since + 1));
    let rows: Vec<Value> = events.iter().map(row).collect();
    json!({ "run": run, "newest": newest, "missed": missed, "events": rows })
}

fn row(event: &Event) -> Value {
    let Event { number, at, kind, subject, text } = event;
    json!({
        "number": number,
        "at": event::rfc3339(*at),
        "kind": kind.to_string(),
        "subject": subject,
        "text": text,
    })
}
