//! An explanation as the admin API shows it: the text that people read, and the same in fields.
//!
//! Always true here: the text says all that the fields say.

use registry::Outcome;
use registry::model::Dial;
use resolver::explain::Route;
use resolver::{Explanation, KeptAnswer, KeptAs, Server, Standing};
use serde_json::{Value, json};

/// `explanation`, what keeps it from being true in its sandbox, and why it is not of the present.
pub(super) fn row(explanation: &Explanation, trouble: &[String], stale: Option<&str>) -> Value {
    let Explanation { sandbox, name, answer, steps, route, advice, .. } = explanation;
    let text = told(explanation, trouble, stale);
    let steps: Vec<Value> = steps
        .iter()
        .map(|it| json!({ "place": it.place, "name": it.name, "holders": it.holders }))
        .collect();
    let names =
        |servers: &[Server]| servers.iter().map(ToString::to_string).collect::<Vec<String>>();
    let route = route.as_ref().map(|it| {
        json!({
            "suffix": it.suffix,
            "servers": it.servers.iter().map(|one| server(it, one)).collect::<Vec<Value>>(),
            "origin": it.origin,
            "kept": it.outlook.kept.iter().map(kept).collect::<Vec<Value>>(),
            "not_asked": names(&[it.passed_over.as_slice(), &it.beyond].concat()),
        })
    });
    json!({
        "ok": !explanation.is_negative() && trouble.is_empty(),
        "text": text,
        "sandbox": sandbox,
        "name": name,
        "answer": answer,
        "searched": steps,
        "asked": route,
        "advice": advice,
        "trouble": trouble,
        "stale": stale,
    })
}

/// The same for where a connection goes.
pub(super) fn vip_row(
    explanation: &vip::explain::Explanation,
    trouble: &[String],
    stale: Option<&str>,
) -> Value {
    let vip::explain::Explanation { sandbox, target, what, tasks, kernel, probe, advice, .. } =
        explanation;
    json!({
        "ok": explanation.is_reached() && trouble.is_empty(),
        "text": told(explanation, trouble, stale),
        "sandbox": sandbox,
        "target": target,
        "what": what,
        "tasks": tasks,
        "kernel": kernel,
        "probe": probe,
        "advice": advice,
        "trouble": trouble,
        "stale": stale,
    })
}

fn told(explanation: &impl ToString, trouble: &[String], stale: Option<&str>) -> String {
    let mut text = explanation.to_string();
    for line in trouble {
        text.extend(["this does not hold now: ", line, "\n"]);
    }
    if let Some(reason) = stale {
        text.extend(["this is of what was last known: ", reason, "\n"]);
    }
    text
}

fn server(route: &Route, server: &Server) -> Value {
    let known = route.outlook.servers.iter().find(|it| it.server == *server);
    json!({
        "server": server.to_string(),
        "dial": dial(server.dial),
        "standing": standing(known.map_or(Standing::Unknown, |it| it.standing)),
        "rtt_ms": known.and_then(|it| it.rtt).map(|it| it.as_secs_f64() * 1e3),
    })
}

fn kept(answer: &KeptAnswer) -> Value {
    let says = match answer.says {
        KeptAs::Records(_) => "records",
        KeptAs::NoData => "no data",
        KeptAs::NoName => "no name",
        KeptAs::Failure => "failure",
        KeptAs::Blocked => "blocked",
    };
    json!({
        "type": answer.kind.0,
        "says": says,
        "stale": answer.stale,
        "seconds": answer.seconds,
    })
}

/// From where a server is asked.
pub(super) fn dial(dial: Dial) -> &'static str {
    match dial {
        Dial::Host => "host",
        Dial::Sandbox => "sandbox",
    }
}

/// How a server is, in one word.
pub(super) fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Unknown => "unknown",
        Standing::Up => "up",
        Standing::Failing => "failing",
        Standing::Down => "down",
    }
}

/// What a part could not do in the sandbox of that name.
pub(super) fn trouble(outcome: &Outcome, sandbox: &str) -> Vec<String> {
    let subject = format!("sandbox {sandbox}");
    let own = outcome.failures.iter().filter(|it| it.subject == subject);
    own.map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_that_does_not_hold_is_not_fine_and_one_of_yesterday_is() {
        let mut told = Explanation::default();
        (told.sandbox, told.name) = ("box".to_owned(), "web".to_owned());
        told.answer = "10.0.0.2 (for 30 s)".to_owned();
        let stale = row(&told, &[], Some("the engine does not answer"));
        assert_eq!(stale["ok"], true);
        let said = "web from box: 10.0.0.2 (for 30 s)\n";
        let last = "this is of what was last known: the engine does not answer\n";
        assert_eq!(stale["text"], format!("{said}{last}"));
        let taken =
            row(&told, &["error: sandbox box: still uses the engine's DNS".to_owned()], None);
        assert_eq!(taken["ok"], false);
        let last = "this does not hold now: error: sandbox box: still uses the engine's DNS\n";
        assert_eq!(taken["text"], format!("{said}{last}"));
    }
}
