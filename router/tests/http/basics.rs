//! Requests find their service, and every answer says who gave it.

use crate::client::get;
use crate::task::Task;
use crate::world::Bench;

#[test]
fn a_request_reaches_the_task_and_its_answer_comes_back_signed() {
    let task = Task::start(|asked| asked.reply("hello"));
    let bench = Bench::with_web(&[task.address], |_| {});
    let reply = get(bench.address, "web.test", "/");
    assert_eq!((reply.status, reply.text()), (200, "hello"));
    assert_eq!(reply.field("x-proxy-id"), Some("proxy-under-test"));
    assert_eq!(reply.field("x-server-info"), Some("portolan/0.1.0"));
    assert_eq!(reply.field("x-upstream-addr"), Some(task.address.to_string().as_str()));
    let time: f64 = reply.field("x-upstream-response-time").unwrap().parse().unwrap();
    assert!((0.0..5.0).contains(&time));
    let id = reply.field("x-request-id").unwrap();
    assert!(id.len() == 32 && id.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f')), "{id}");
}
