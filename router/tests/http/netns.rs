//! Tasks that only another network namespace reaches, as on overlays. Needs the right to make
//! namespaces: root, or `unshare -Urnm`.

use std::path::PathBuf;

use kernel::link::{name_netns, unname_netns};
use kernel::socket::tcp_listener;
use registry::Draft;
use registry::model::{Reach, ServiceAttachment};

use crate::client::get;
use crate::task::Task;
use crate::world::{Bench, add, network};

/// A named network namespace, gone with its value.
struct Place(PathBuf);

impl Place {
    /// A namespace in which a task on 127.0.0.1:8080 says `name`.
    fn with_task(name: &'static str) -> (Self, Task) {
        let file = format!("portolan-router-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(file);
        let netns = name_netns(&path).unwrap();
        let listener = tcp_listener(&netns, "127.0.0.1:8080".parse().unwrap()).unwrap();
        (Self(path), Task::on(listener, move |asked| asked.reply(name)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        unname_netns(&self.0).unwrap();
    }
}

/// One service for each place, on a network of its own; all tasks have the same address.
fn world(places: &[(&str, &Place)]) -> Draft {
    let mut world = Draft::default();
    for (name, place) in places {
        let mut overlay = network(name);
        overlay.reach = Reach::Netns(place.0.clone());
        world.networks.push(overlay);
        let host = format!("{name}.test");
        add(&mut world, name, &["127.0.0.1:8080".parse().unwrap()], &[("hosts", &host)]);
        let (service, task) = (world.services.last_mut().unwrap(), world.tasks.last_mut().unwrap());
        service.networks = [((*name).into(), ServiceAttachment::default())].into();
        task.networks = task.networks.values().map(|it| ((*name).into(), it.clone())).collect();
    }
    world
}

#[test]
fn tasks_are_reached_from_inside_their_networks_namespace() {
    let (red, red_task) = Place::with_task("red");
    let (blue, blue_task) = Place::with_task("blue");
    let mut bench = Bench::start(|config| config.threads = 1.try_into().unwrap());
    assert!(bench.serve(world(&[("red", &red), ("blue", &blue)])).is_empty());
    for _ in 0..20 {
        assert_eq!(get(bench.address, "red.test", "/").text(), "red");
        assert_eq!(get(bench.address, "blue.test", "/").text(), "blue");
    }
    assert_eq!((red_task.connections(), blue_task.connections()), (1, 1), "nothing is mixed up");
}

#[test]
fn a_namespace_that_is_gone_is_502_and_harms_no_other() {
    let (here, _task) = Place::with_task("here");
    let (gone, _other) = Place::with_task("gone");
    let mut bench = Bench::start(|_| {});
    assert!(bench.serve(world(&[("here", &here), ("gone", &gone)])).is_empty());
    drop(gone);
    let reply = get(bench.address, "gone.test", "/");
    let text = "no task of service gone accepted a connection\n";
    assert_eq!((reply.status, reply.text()), (502, text));
    assert_eq!(get(bench.address, "here.test", "/").text(), "here");
}
