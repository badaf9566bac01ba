//! A board of one service's tasks, on made-up time.

use proptest::prelude::*;
use registry::balance_spec::{HealthCheck, Probe};

use super::*;
use crate::health::targets::Place;

fn plan(tasks: &[&str], new: &[&str], port: u16) -> Plan {
    let target = |id: &&str| {
        let target = Target {
            service: "web".into(),
            service_name: "web".to_owned(),
            address: ([10, 0, 0, 1], port).into(),
            place: Place::Host,
            check: HealthCheck::new(Probe::Tcp { port }),
        };
        (TaskId::from(*id), target)
    };
    Plan {
        generation: 1,
        targets: tasks.iter().map(target).collect(),
        new: new.iter().map(|id| TaskId::from(*id)).collect(),
    }
}

struct Rig {
    board: Board,
    now: Instant,
}

impl Rig {
    #[expect(clippy::disallowed_methods, reason = "any moment will do")]
    fn new(seed: u64) -> Self {
        Self { board: Board::new(seed), now: Instant::now() }
    }

    /// Makes the probes that come due within `time`, finding failures in `failing`; who was
    /// probed.
    fn probe(&mut self, time: Duration, failing: &[&str]) -> Vec<String> {
        let end = self.now + time;
        let mut probed = Vec::new();
        while let Some(at) = self.board.next_due().filter(|at| *at <= end) {
            self.now = at;
            let due = self.board.take_due(at).unwrap();
            let finding = if failing.contains(&due.id.as_str()) {
                Finding::Failed("connection refused".to_owned())
            } else {
                Finding::Passed
            };
            self.board.record(&due.id, due.epoch, finding, at);
            probed.push(due.id.to_string());
        }
        self.now = end;
        probed
    }

    fn verdicts(&self) -> String {
        let letter = |verdict: &Verdict| match verdict {
            Verdict::Up => 'U',
            Verdict::Unproven => 'N',
            Verdict::Down(_) => 'D',
        };
        self.board.judge().0.values().map(letter).collect()
    }
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn who_fails_is_taken_out_unless_more_than_half_of_them_do() {
    let mut rig = Rig::new(1);
    rig.board.follow(&plan(&["a", "b", "c", "d"], &[], 80), rig.now);
    rig.probe(MINUTE, &["a", "b"]);
    assert_eq!(rig.verdicts(), "DDUU");
    assert!(rig.board.distrust(&"web".into()).is_none());
    rig.probe(MINUTE, &["a", "b", "c"]);
    assert_eq!(rig.verdicts(), "UUUU");
    let said = rig.board.distrust(&"web".into()).unwrap();
    assert_eq!(
        (said.service.as_str(), said.text.as_str()),
        (
            "web",
            "3 of 4 tasks fail their check, too many to be believed, so all are kept; e.g. tcp \
             check of 10.0.0.1:80 failed 3 times: connection refused"
        )
    );
    rig.probe(MINUTE, &["a", "b"]);
    assert_eq!(rig.verdicts(), "DDUU", "as soon as half of them pass, the rest are taken out");
}

#[test]
fn new_tasks_are_probed_at_once_and_each_second_and_count_for_neither_side() {
    let mut rig = Rig::new(1);
    rig.board.follow(&plan(&["a", "b", "c"], &["b", "c"], 80), rig.now);
    assert_eq!(rig.verdicts(), "UNN");
    let second = Duration::from_millis(1100);
    assert_eq!(rig.probe(second, &["b"]).iter().filter(|it| *it != "a").count(), 3);
    assert_eq!(rig.verdicts(), "UNU");
    rig.probe(second, &["b"]);
    assert_eq!(rig.verdicts(), "UDU");
}

#[test]
fn tasks_that_never_passed_are_held_back_however_many_they_are_while_another_one_serves() {
    let mut rig = Rig::new(1);
    let new = ["c", "d", "e", "f"];
    rig.board.follow(&plan(&["a", "b"], &[], 80), rig.now);
    rig.board.follow(&plan(&["a", "b", "c", "d", "e", "f"], &new, 80), rig.now);
    assert_eq!(rig.verdicts(), "UUNNNN");
    rig.probe(MINUTE, &new);
    assert_eq!(rig.verdicts(), "UUDDDD");
    assert!(rig.board.distrust(&"web".into()).is_none());
    rig.probe(Duration::from_millis(1100), &["f"]);
    assert_eq!(rig.verdicts(), "UUUUUD", "who starts late is seen within a second");
}

#[test]
fn where_nobody_ever_passed_all_are_kept_until_one_does() {
    let mut rig = Rig::new(1);
    rig.board.follow(&plan(&["a", "b"], &["a", "b"], 80), rig.now);
    rig.probe(MINUTE, &["a", "b"]);
    assert_eq!(rig.verdicts(), "UU");
    let said = rig.board.distrust(&"web".into()).unwrap().text;
    assert!(said.starts_with("2 of 2 tasks fail their check, too many to be believed"), "{said}");
    rig.probe(Duration::from_millis(1100), &["a"]);
    assert_eq!(rig.verdicts(), "DU");
}

#[test]
fn a_task_that_went_and_came_is_another_one_and_a_new_check_of_a_task_is_not() {
    let mut rig = Rig::new(1);
    rig.board.follow(&plan(&["a", "b"], &[], 80), rig.now);
    rig.probe(MINUTE, &["a"]);
    assert_eq!(rig.verdicts(), "DU");
    rig.board.follow(&plan(&["a", "b"], &[], 81), rig.now);
    assert_eq!(rig.verdicts(), "DU", "what is known of it stays");
    let due = loop {
        rig.now += Duration::from_secs(1);
        if let Some(due) = rig.board.take_due(rig.now).filter(|it| it.id.as_str() == "a") {
            break due;
        }
    };
    rig.board.follow(&plan(&["b"], &[], 81), rig.now);
    rig.board.follow(&plan(&["a", "b"], &["a"], 81), rig.now);
    assert_eq!(rig.verdicts(), "NU");
    let late = rig.board.record(&due.id, due.epoch, Finding::Passed, rig.now);
    assert!(!late && rig.verdicts() == "NU", "a finding about the one before says nothing");
}

#[test]
fn a_service_whose_tasks_never_answer_keeps_no_other_one_waiting() {
    let mut rig = Rig::new(1);
    let names: Vec<String> = (0..500).map(|it| format!("hung{it:03}")).collect();
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.extend(["other1", "other2"]);
    let mut plan = plan(&names, &names, 80);
    for id in ["other1", "other2"] {
        plan.targets.get_mut(&id.into()).unwrap().service = "other".into();
    }
    rig.board.follow(&plan, rig.now);
    let mut hung = Vec::new();
    let mut others = Vec::new();
    while let Some(due) = rig.board.take_due(rig.now) {
        let its = if due.target.service.as_str() == "web" { &mut hung } else { &mut others };
        its.push(due);
    }
    assert_eq!(others.len(), 2);
    assert!((80..128).contains(&hung.len()), "{}", hung.len());
    assert_eq!(rig.board.next_due(), None, "who has no place is not waited for");
    // A place that becomes free is taken again, also where the task is gone meanwhile.
    let gone = hung.pop().unwrap();
    plan.targets.remove(&gone.id);
    rig.board.follow(&plan, rig.now);
    assert!(rig.board.take_due(rig.now).is_none());
    rig.board.record(&gone.id, gone.epoch, Finding::Passed, rig.now);
    assert_eq!(rig.board.take_due(rig.now).unwrap().target.service.as_str(), "web");
}

#[test]
fn probes_that_are_lost_are_made_anew() {
    let mut rig = Rig::new(1);
    rig.board.follow(&plan(&["a", "b"], &["a", "b"], 80), rig.now);
    let lost = rig.board.take_due(rig.now).unwrap();
    rig.board.lost(rig.now);
    assert!(!rig.board.record(&lost.id, lost.epoch, Finding::Passed, rig.now));
    let mut probed = rig.probe(MINUTE, &[]);
    probed.sort_unstable();
    probed.dedup();
    assert_eq!(probed, ["a", "b"]);
}

proptest! {
    #[test]
    fn each_is_probed_about_once_in_its_interval_and_they_do_not_stay_in_step(seed: u64) {
        let mut rig = Rig::new(seed);
        let names: Vec<String> = (0..40).map(|it| format!("task{it}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        rig.board.follow(&plan(&names, &[], 80), rig.now);
        let first = rig.probe(Duration::from_secs(10), &[]);
        prop_assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 40);
        let busiest = (0..10).map(|_| rig.probe(Duration::from_secs(1), &[]).len()).max().unwrap();
        prop_assert!(busiest < 20, "{busiest} of 40 within one second of ten");
        let more = rig.probe(Duration::from_secs(100), &[]).len();
        prop_assert!((400..=450).contains(&more), "{more}");
    }
}
