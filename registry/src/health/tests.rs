//! What a judge makes of verdicts, on worlds of one checked service.

use proptest::prelude::*;

use super::*;
use crate::model::ServingState;
use crate::source::world;

fn world_of(generation: u64, tasks: &[(&str, &str)], labels: &str) -> Arc<Snapshot> {
    let mut text = "[[network]]\nname = \"n\"\n[[service]]\nname = \"web\"\n".to_owned();
    text.push_str("networks = [\"n\"]\n");
    text.extend(["labels = {", labels, "}\n"]);
    for (name, state) in tasks {
        let task =
            ["[[task]]\nname = \"", name, "\"\nservice = \"web\"\nstate = \"", state, "\"\n"];
        text.extend(task);
    }
    Arc::new(Snapshot::build(world::parse(&text, "test").unwrap(), generation))
}

fn checked(generation: u64, tasks: &[&str]) -> Arc<Snapshot> {
    let tasks: Vec<_> = tasks.iter().map(|it| (*it, "serving")).collect();
    world_of(generation, &tasks, "\"portolan.health.tcp\" = \"80\"")
}

fn verdicts(generation: u64, tasks: &[(&str, Verdict)]) -> Verdicts {
    let tasks = tasks.iter().map(|(id, verdict)| (TaskId::from(*id), verdict.clone()));
    Verdicts { generation, tasks: tasks.collect() }
}

fn down() -> Verdict {
    Verdict::Down("tcp check failed".to_owned())
}

fn serving(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.tasks().filter(|it| it.serves()).map(|it| it.id.as_str()).collect()
}

#[expect(clippy::disallowed_methods, reason = "any moment will do")]
fn moment() -> Instant {
    Instant::now()
}

#[test]
fn without_verdicts_the_sources_own_world_is_passed_on() {
    let (mut judge, now) = (Judge::default(), moment());
    for generation in 1..4 {
        let source = world_of(generation, &[("a", "serving"), ("b", "draining")], "");
        assert!(Arc::ptr_eq(&judge.judge(&source, &Verdicts::default(), now), &source));
    }
}

#[test]
fn a_task_that_failed_waits_with_the_reason_until_it_is_up_again() {
    let (mut judge, now) = (Judge::default(), moment());
    let source = checked(1, &["a", "b"]);
    assert_eq!(serving(&judge.judge(&source, &Verdicts::default(), now)), ["a", "b"]);
    let failed = judge.judge(&source, &verdicts(1, &[("a", down()), ("b", Verdict::Up)]), now);
    assert_eq!(serving(&failed), ["b"]);
    let task = failed.task(&"a".into()).unwrap();
    assert_eq!((task.state, &*task.reason), (ServingState::Starting, "tcp check failed"));
    assert!(judge.held().contains_key(&TaskId::from("a")));
    let back = judge.judge(&source, &verdicts(1, &[("a", Verdict::Up)]), now);
    assert_eq!(serving(&back), ["a", "b"]);
    assert_eq!((failed.generation(), back.generation()), (2, 3));
    assert_eq!(judge.judge(&checked(2, &["a", "b"]), &Verdicts::default(), now).generation(), 4);
}

#[test]
fn a_new_task_waits_for_its_first_success_and_those_of_the_first_world_do_not() {
    let (mut judge, now) = (Judge::default(), moment());
    judge.judge(&checked(1, &["a"]), &Verdicts::default(), now);
    let source = checked(2, &["a", "b"]);
    let early = verdicts(1, &[("a", Verdict::Up)]);
    assert_eq!(serving(&judge.judge(&source, &early, now)), ["a"], "not yet looked at");
    let unproven = verdicts(2, &[("a", Verdict::Up), ("b", Verdict::Unproven)]);
    let waiting = judge.judge(&source, &unproven, now);
    assert_eq!(waiting.task(&"b".into()).unwrap().reason, UNPROVEN);
    let proven = verdicts(2, &[("a", Verdict::Up), ("b", Verdict::Up)]);
    assert_eq!(serving(&judge.judge(&source, &proven, now)), ["a", "b"]);
    // Once proven, it is not asked for a proof again.
    assert_eq!(serving(&judge.judge(&source, &unproven, now)), ["a", "b"]);
}

#[test]
fn where_no_task_of_a_service_is_proven_none_waits() {
    let (mut judge, now) = (Judge::default(), moment());
    judge.judge(&world_of(1, &[], ""), &Verdicts::default(), now);
    let source = checked(2, &["a", "b"]);
    let judged = judge.judge(&source, &Verdicts::default(), now);
    assert!(Arc::ptr_eq(&judged, &source), "{:?}", judge.held());
    let unproven = verdicts(2, &[("a", Verdict::Unproven), ("b", Verdict::Unproven)]);
    assert_eq!(serving(&judge.judge(&source, &unproven, now)), ["a", "b"]);
    let one = verdicts(2, &[("a", Verdict::Up), ("b", Verdict::Unproven)]);
    assert_eq!(serving(&judge.judge(&source, &one, now)), ["a"]);
    let fell = verdicts(2, &[("a", down()), ("b", Verdict::Unproven)]);
    assert_eq!(serving(&judge.judge(&source, &fell, now)), ["b"], "what is left is kept");
}

#[test]
fn a_new_task_that_nobody_probes_serves_as_the_engine_says() {
    let (mut judge, now) = (Judge::default(), moment());
    judge.judge(&checked(1, &["a"]), &Verdicts::default(), now);
    let source = checked(2, &["a", "b"]);
    assert_eq!(serving(&judge.judge(&source, &verdicts(1, &[]), now)), ["a"]);
    assert_eq!(serving(&judge.judge(&source, &verdicts(2, &[]), now)), ["a", "b"]);
}

#[test]
fn a_new_task_waits_for_a_limited_time() {
    let (mut judge, now) = (Judge::default(), moment());
    judge.judge(&checked(1, &["a"]), &Verdicts::default(), now);
    let source = checked(2, &["a", "b"]);
    assert_eq!(serving(&judge.judge(&source, &Verdicts::default(), now)), ["a"]);
    assert_eq!(judge.deadline(), Some(now + PROOF));
    assert_eq!(serving(&judge.judge(&source, &Verdicts::default(), now + PROOF)), ["a", "b"]);
    assert_eq!(judge.deadline(), None);
}

#[test]
fn a_check_that_is_added_later_takes_nobody_out() {
    let (mut judge, now) = (Judge::default(), moment());
    judge.judge(&world_of(1, &[("a", "serving")], ""), &Verdicts::default(), now);
    assert_eq!(serving(&judge.judge(&checked(2, &["a"]), &Verdicts::default(), now)), ["a"]);
}

#[test]
fn a_verdict_makes_no_task_serve_that_the_engine_does_not_call_serving() {
    let (mut judge, now) = (Judge::default(), moment());
    let source = world_of(1, &[("a", "draining")], "\"portolan.health.tcp\" = \"80\"");
    let judged = judge.judge(&source, &verdicts(1, &[("a", down())]), now);
    assert_eq!(judged.task(&"a".into()).unwrap().state, ServingState::Draining);
    assert!(Arc::ptr_eq(&judged, &source));
}

#[test]
fn a_stale_world_is_passed_on_as_stale() {
    let (mut judge, now) = (Judge::default(), moment());
    let source = checked(1, &["a", "b"]);
    judge.judge(&source, &Verdicts::default(), now);
    let found = verdicts(1, &[("a", down())]);
    judge.judge(&source, &found, now);
    let stale = judge.judge(&Arc::new(source.marked_stale("gone")), &found, now);
    assert_eq!((stale.stale(), stale.generation()), (Some("gone"), 2));
    assert_eq!(serving(&stale), ["b"]);
}

proptest! {
    #[test]
    fn generations_grow_with_every_change_of_what_serves_and_never_go_back(
        steps in prop::collection::vec((any::<bool>(), 0u8..8, 0u8..8), 1..40),
    ) {
        let (mut judge, now) = (Judge::default(), moment());
        let names = ["a", "b", "c"];
        let chosen = |bits: u8| names.iter().enumerate().filter(move |(at, _)| bits & (1 << at) != 0);
        let (mut generation, mut source) = (1, checked(1, &names));
        let mut last = judge.judge(&source, &Verdicts::default(), now);
        for (moves, present, failed) in steps {
            if moves {
                generation += 1;
                source = checked(generation, &chosen(present).map(|it| *it.1).collect::<Vec<_>>());
            }
            let found: Vec<_> = chosen(failed).map(|(_, it)| (*it, down())).collect();
            let next = judge.judge(&source, &verdicts(generation, &found), now);
            prop_assert!(next.generation() >= last.generation());
            if next.generation() == last.generation() {
                prop_assert!(next.same_world(&last));
            }
            for task in next.tasks() {
                let expected = !found.iter().any(|it| it.0 == task.id.as_str());
                prop_assert_eq!(task.serves(), expected);
            }
            last = next;
        }
    }
}
