//! The host's files, written in every way that there is.

use std::os::unix::fs::symlink;
use std::sync::mpsc;
use std::time::Duration;

use super::*;

/// A folder of one test, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("host-files-{}-{test}", std::process::id()));
        std::fs::create_dir_all(path.join("etc")).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).unwrap();
    }

    fn files(&self) -> HostFiles {
        let at = |it: &str| self.0.join(it);
        HostFiles { resolv_conf: at("etc/resolv.conf"), daemon: at("etc/docker/daemon.json") }
    }

    fn read(&self, last: HostServers) -> HostServers {
        self.files().read(CommandLine::default(), last, |name| (name == "eth0").then_some(7))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

#[test]
fn a_server_on_a_link_is_dialled_on_that_link() {
    let folder = Folder::new("scope");
    folder.write(
        "etc/resolv.conf",
        "nameserver fe80::1%eth0\nnameserver fe80::2%5\nnameserver fe80::3%gone\n",
    );
    let shown: Vec<_> =
        folder.read(HostServers::default()).host.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["[fe80::1%7]:53", "[fe80::2%5]:53"]);
}

#[test]
fn a_file_that_is_missing_for_a_moment_says_what_it_said() {
    let folder = Folder::new("missing");
    folder.write("etc/resolv.conf", "nameserver 192.0.2.1\noptions trust-ad\n");
    std::fs::create_dir(folder.0.join("etc/docker")).unwrap();
    folder.write("etc/docker/daemon.json", r#"{"dns": ["192.0.2.9"]}"#);
    let first = folder.read(HostServers::default());
    assert_eq!((first.host.len(), first.daemon.len(), first.trusts_ad), (1, 1, true));
    std::fs::remove_file(folder.0.join("etc/resolv.conf")).unwrap();
    folder.write("etc/docker/daemon.json", r#"{"dns": ["#);
    assert_eq!(folder.read(first.clone()), first);
    // No daemon.json is a whole configuration, and so is a resolv.conf without servers.
    std::fs::remove_file(folder.0.join("etc/docker/daemon.json")).unwrap();
    folder.write("etc/resolv.conf", "");
    assert_eq!(folder.read(first), HostServers::default());
}

#[test]
fn what_the_engine_was_started_with_comes_before_its_file_which_may_be_elsewhere() {
    let folder = Folder::new("command");
    folder.write("etc/engine.json", r#"{"dns": ["192.0.2.9"], "host-gateway-ip": "192.0.2.8"}"#);
    let file = folder.0.join("etc/engine.json");
    let address = |it: &str| it.parse::<IpAddr>().unwrap();
    let mut command = CommandLine { config_file: Some(file.clone()), ..CommandLine::default() };
    let read = |it: &CommandLine| folder.files().read(it.clone(), HostServers::default(), |_| None);
    let told = read(&command);
    assert_eq!(
        (told.daemon, told.gateways),
        (vec![address("192.0.2.9")], vec![address("192.0.2.8")])
    );
    assert_eq!(told.config_file, Some(file));
    command.dns = vec![address("192.0.2.1")];
    command.gateways = vec![address("192.0.2.2")];
    let told = read(&command);
    assert_eq!((told.daemon, told.gateways), (command.dns, command.gateways));
    assert_eq!(read(&CommandLine::default()), HostServers::default());
}

/// Whether doing `change` is noticed by a watch begun before.
fn is_noticed(folder: &Folder, change: impl FnOnce()) -> bool {
    let (sender, changes) = mpsc::channel();
    let _watch = folder.files().watch(move || sender.send(()).unwrap_or_default()).unwrap();
    change();
    changes.recv_timeout(Duration::from_secs(2)).is_ok()
}

#[test]
fn every_way_to_change_a_file_is_noticed_and_nothing_else() {
    let folder = Folder::new("watch");
    let at = |name: &str| folder.0.join(name);
    folder.write("etc/resolv.conf", "nameserver 192.0.2.1\n");
    assert!(is_noticed(&folder, || folder.write("etc/resolv.conf", "")), "in place");
    folder.write("etc/next", "nameserver 192.0.2.2\n");
    let rename = |from: &str, to: &str| std::fs::rename(at(from), at(to)).unwrap();
    assert!(is_noticed(&folder, || rename("etc/next", "etc/resolv.conf")), "renamed over");
    // Through two links, into a folder that does not exist yet.
    symlink("middle", at("etc/next")).unwrap();
    symlink("../run/resolve/stub.conf", at("etc/middle")).unwrap();
    assert!(is_noticed(&folder, || rename("etc/next", "etc/resolv.conf")), "now a link");
    let make = || std::fs::create_dir_all(at("run/resolve")).unwrap();
    assert!(is_noticed(&folder, make), "the folder comes to be");
    let write = || folder.write("run/resolve/stub.conf", "nameserver 192.0.2.3\n");
    assert!(is_noticed(&folder, write), "the file that the links lead to");
    symlink("../run/resolve/stub.conf", at("etc/next")).unwrap();
    assert!(is_noticed(&folder, || rename("etc/next", "etc/middle")), "a link on the way");
    assert!(is_noticed(&folder, || std::fs::remove_dir_all(at("run/resolve")).unwrap()), "gone");
    let beside = || {
        folder.write("etc/hosts", "");
        std::fs::read(at("etc/resolv.conf")).ok();
    };
    assert!(!is_noticed(&folder, beside), "another file, and reading");
}
