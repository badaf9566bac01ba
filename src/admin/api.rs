//! Which question gets which answer: paths of the admin API, versioned under `/api/v1`.
//!
//! Always true here: [`answer`] changes nothing and waits for nothing; what changes something is in
//! [`act`], what has to look into namespaces in [`look`].

use std::sync::Arc;

use hyper::StatusCode;
use registry::Snapshot;
use serde::Serialize;
use serde_json::{Value, json};
use vip::explain::Target;

use super::{explain, views};
use crate::supervise::Live;
use crate::verify;

/// Answers `GET path?query` from what the parts last said.
pub fn answer(live: &Live, path: &str, query: &str) -> (StatusCode, Value) {
    let snapshot = Arc::clone(&live.world.borrow());
    match path.strip_prefix("/api/v1/").unwrap_or(path) {
        "networks" => list(views::networks(&snapshot), &[]),
        "services" => {
            let labelled = parameter(query, "labels") == "true";
            list(views::services(&snapshot, labelled), &views::diagnostics(live))
        }
        "tasks" => list(views::tasks(&snapshot), &[]),
        "sandboxes" => list(views::sandboxes(live, &snapshot), &[]),
        "nodes" => list(views::nodes(&snapshot), &[]),
        "vips" => list(views::vips(live, &snapshot), &views::vip_notes(live)),
        "routes" => list(views::routes(live), &views::route_notes(live)),
        "status" | "/readyz" => {
            let status = views::status(live);
            let code = if status.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            // The command line prints the status of a part that fails too.
            let code = if path == "/readyz" { code } else { StatusCode::OK };
            (code, encode(status))
        }
        "/healthz" => (StatusCode::OK, json!({ "ok": true })),
        "sandbox" => sandbox(live, &snapshot, query),
        "explain/dns" => explain_dns(live, &snapshot, query),
        _ => (StatusCode::NOT_FOUND, error(&format!("there is no {path} here"))),
    }
}

/// Whether `path` is for [`look`].
pub fn is_look(path: &str) -> bool {
    [VERIFY, EXPLAIN_VIP].contains(&path)
}

/// Answers `GET path?query` where that takes entering namespaces or asking the engine.
pub async fn look(live: &Live, path: &str, query: &str) -> (StatusCode, Value) {
    match path {
        VERIFY => (StatusCode::OK, encode(verify::verify(live).await)),
        _ => explain_vip(live, query).await,
    }
}

/// Where everything is compared with everything.
pub const VERIFY: &str = "/api/v1/verify";
/// Where it is said whither a connection goes.
pub const EXPLAIN_VIP: &str = "/api/v1/explain/vip";

/// Does what `POST path` asks for; `None`: nothing is done there.
pub fn act(live: &Live, path: &str) -> Option<(StatusCode, Value)> {
    (path == FLUSH).then(|| flush(live))
}

/// Where what servers outside said is forgotten.
pub const FLUSH: &str = "/api/v1/dns/flush";

fn flush(live: &Live) -> (StatusCode, Value) {
    if !live.parts.resolver {
        let text = "the resolver does not run in this process; start `up` without `--only`";
        return (StatusCode::NOT_FOUND, error(text));
    }
    let resolver::Flushed { entries, bytes } = live.dns.flush();
    let text = format!("forgot {entries} answers and failures from outside, {bytes} octets\n");
    (StatusCode::OK, json!({ "ok": true, "text": text, "entries": entries, "bytes": bytes }))
}

/// What a refusal looks like.
pub fn error(text: &str) -> Value {
    json!({ "error": text })
}

/// A value in the form that a query may hold.
pub fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).into() } else { format!("%{byte:02X}") })
        .collect()
}

fn list<T: Serialize>(rows: Vec<T>, notes: &[String]) -> (StatusCode, Value) {
    (StatusCode::OK, json!({ "rows": encode(rows), "notes": notes }))
}

fn encode(value: impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_else(|failure| error(&failure.to_string()))
}

fn sandbox(live: &Live, snapshot: &Snapshot, query: &str) -> (StatusCode, Value) {
    let name = parameter(query, "name");
    match snapshot.sandbox_named(&name) {
        Some(found) => (StatusCode::OK, encode(views::sandbox(live, snapshot, found))),
        None => (StatusCode::NOT_FOUND, error(&views::no_such_sandbox(snapshot, &name))),
    }
}

fn explain_dns(live: &Live, snapshot: &Snapshot, query: &str) -> (StatusCode, Value) {
    let (name, from) = (parameter(query, "name"), parameter(query, "from"));
    let Some(sandbox) = snapshot.sandbox_named(&from) else {
        return (StatusCode::NOT_FOUND, error(&views::no_such_sandbox(snapshot, &from)));
    };
    let report = live.resolver.borrow().clone();
    let Some(report) = report else {
        let text = "the resolver does not run in this process; start `up` without `--only`";
        return (StatusCode::NOT_FOUND, error(text));
    };
    let known = resolver::Known {
        snapshot,
        plan: &report.plan,
        config: &live.upstream,
        outlook: &|view, questions| live.dns.outlook(view, questions),
    };
    let explanation = resolver::explain(&known, &sandbox.id, &name);
    let trouble = explain::trouble(&report.outcome, &sandbox.name);
    (StatusCode::OK, explain::row(&explanation, &trouble, snapshot.stale()))
}

async fn explain_vip(live: &Live, query: &str) -> (StatusCode, Value) {
    let (address, from) = (parameter(query, "address"), parameter(query, "from"));
    let refuse = |text: &str| (StatusCode::NOT_FOUND, error(text));
    let Some(target) = Target::parse(&address) else {
        return refuse(&format!(
            "`{address}` is no ADDRESS, no ADDRESS:PORT and no ADDRESS:PORT/udp"
        ));
    };
    let snapshot = Arc::clone(&live.world.borrow());
    let report = live.vip.borrow().clone();
    let Some(report) = report else {
        let text = "the VIP manager does not run in this process; start `up` without `--only`";
        return refuse(text);
    };
    let known = snapshot.sandbox_named(&from).map(|it| it.id.clone());
    let host = || report.plan.host().filter(|_| from == "host").cloned();
    let Some(id) = known.or_else(host) else {
        return refuse(&views::no_such_sandbox(&snapshot, &from));
    };
    let mesh = live.mesh.borrow().as_ref().map(|it| Arc::clone(&it.plan));
    let explain = move || {
        let explanation = vip::explain(&snapshot, &report.plan, mesh.as_deref(), &id, target);
        let trouble = explain::trouble(&report.outcome, &explanation.sandbox);
        explain::vip_row(&explanation, &trouble, snapshot.stale())
    };
    match tokio::task::spawn_blocking(explain).await {
        Ok(row) => (StatusCode::OK, row),
        Err(failure) => (StatusCode::INTERNAL_SERVER_ERROR, error(&failure.to_string())),
    }
}

/// The value of `key` in a query, percent-decoded; empty where there is none.
pub(super) fn parameter(query: &str, key: &str) -> String {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .filter(|(name, _)| *name == key)
        .map(|(_, value)| unescape(value))
        .next()
        .unwrap_or_default()
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = match tail {
            [high, low, ..] if *first == b'%' => std::str::from_utf8(&[*high, *low])
                .ok()
                .and_then(|it| u8::from_str_radix(it, 16).ok()),
            _ => None,
        };
        bytes.push(hex.unwrap_or(*first));
        rest = if hex.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_comes_back_as_it_was_escaped() {
        let query = format!("name={}&from={}", escape("a b/ü%&="), escape("web.1"));
        assert_eq!(parameter(&query, "name"), "a b/ü%&=");
        assert_eq!(parameter(&query, "from"), "web.1");
        assert_eq!(parameter(&query, "other"), "");
    }

    #[test]
    fn a_broken_escape_is_taken_as_it_stands() {
        assert_eq!(unescape("100%"), "100%");
        assert_eq!(unescape("%zz%4"), "%zz%4");
    }
}
