//! The engine's own command line, which may name what its configuration file does not: name servers,
//! addresses of the host, another configuration file.
//!
//! Invariants
//! - *no guess*: only that of a `dockerd` that holds the very socket on which the engine is asked.
//!   Who made the socket does not tell: that is often systemd, which passes it on;
//! - *as it began*: the line says with what the process was started, and no engine reads these again.

use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// What an engine was told when it was started.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct CommandLine {
    /// `--dns`.
    pub(crate) dns: Vec<IpAddr>,
    /// `--host-gateway-ip`.
    pub(crate) gateways: Vec<IpAddr>,
    /// `--config-file`.
    pub(crate) config_file: Option<PathBuf>,
}

impl CommandLine {
    /// Of the engine that listens on `socket`, by the process file system at `proc`. `None`: there
    /// is none, or it cannot be seen from here. Blocks as files do.
    pub(crate) fn of_engine(proc: &Path, socket: &Path) -> Option<Self> {
        let processes = std::fs::read_dir(proc).ok()?.flatten().map(|it| it.path());
        let mut engines = processes.filter(|it| is_engine(it));
        let engine = engines.find(|it| holds(it, socket))?;
        let line = read(&engine.join("cmdline"))?;
        Some(Self::read(&line))
    }

    /// From arguments that end with a zero each, the program's name first.
    fn read(line: &[u8]) -> Self {
        let mut found = Self::default();
        let text = String::from_utf8_lossy(line);
        let mut arguments = text.split('\0').skip(1).take_while(|it| *it != "--");
        while let Some(argument) = arguments.next() {
            let (flag, value) = match argument.split_once('=') {
                Some((flag, value)) => (flag, Some(value)),
                None => (argument, None),
            };
            if !["--dns", "--host-gateway-ip", "--config-file"].contains(&flag) {
                continue;
            }
            let Some(value) = value.or_else(|| arguments.next()) else { break };
            // Engines before 28 take one address at a time; later ones several, with commas.
            let addresses = value.split(',').filter_map(|it| it.trim().parse::<IpAddr>().ok());
            match flag {
                "--dns" => found.dns.extend(addresses),
                "--host-gateway-ip" => {
                    found.gateways.extend(addresses.map(|it| it.to_canonical()));
                }
                _ => found.config_file = Some(PathBuf::from(value)),
            }
        }
        found
    }
}

/// Whether the process whose folder this is is called as engines are.
fn is_engine(process: &Path) -> bool {
    read(&process.join("comm")).is_some_and(|it| it.trim_ascii_end() == b"dockerd")
}

/// Whether it has a socket open that listens at the path `socket`.
fn holds(process: &Path, socket: &Path) -> bool {
    let Some(table) = read(&process.join("net/unix")) else { return false };
    let table = String::from_utf8_lossy(&table);
    let wanted: Vec<String> = listeners(&table)
        .filter(|(path, _)| same_file(Path::new(path), socket))
        .map(|(_, inode)| format!("socket:[{inode}]"))
        .collect();
    let open = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let mut open = open.filter_map(|it| std::fs::read_link(it.path()).ok());
    !wanted.is_empty() && open.any(|it| wanted.iter().any(|wanted| it == Path::new(wanted)))
}

/// The path and the inode of each socket in the kernel's table that takes connections.
fn listeners(table: &str) -> impl Iterator<Item = (&str, &str)> {
    table.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(3);
        let (flags, _, _, inode) = (fields.next()?, fields.next(), fields.next(), fields.next()?);
        let path = fields.next().filter(|_| flags == ACCEPTS)?;
        Some((path, inode))
    })
}

/// `/var/run` is often a link to `/run`.
fn same_file(one: &Path, other: &Path) -> bool {
    let whole = |it: &Path| it.canonicalize().ok();
    one == other || whole(one).is_some_and(|it| Some(it) == whole(other))
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut octets = Vec::new();
    std::fs::File::open(path).ok()?.take(LONGEST).read_to_end(&mut octets).ok()?;
    Some(octets)
}

/// `__SO_ACCEPTCON` in the column of flags.
const ACCEPTS: &str = "00010000";
/// A hundred thousand sockets, at a hundred octets each.
const LONGEST: u64 = 10 << 20;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn line(arguments: &str) -> CommandLine {
        CommandLine::read(format!("{arguments} ").replace(' ', "\0").as_bytes())
    }

    fn shown(addresses: &[IpAddr]) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn flags_are_read_in_both_forms_and_what_belongs_to_others_is_not() {
        let told = line(
            "dockerd -H fd:// --dns 10.0.0.1 --dns=fd00::1 --dns-opt=ndots:1 --dns-search dns \
             --host-gateway-ip=192.0.2.1 --config-file /etc/engine.json --dns=x --label --",
        );
        assert_eq!(shown(&told.dns), ["10.0.0.1", "fd00::1"]);
        assert_eq!(shown(&told.gateways), ["192.0.2.1"]);
        assert_eq!(told.config_file.as_deref(), Some(Path::new("/etc/engine.json")));
        let told =
            line("dockerd --dns=10.0.0.1,10.0.0.2 --host-gateway-ip 192.0.2.1,::ffff:1.2.3.4");
        assert_eq!(shown(&told.dns), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(shown(&told.gateways), ["192.0.2.1", "1.2.3.4"]);
        for nothing in
            ["dockerd", "--dns=10.0.0.1", "dockerd -- --dns=10.0.0.1", "dockerd --dns", ""]
        {
            assert_eq!(line(nothing), CommandLine::default(), "{nothing}");
        }
    }

    /// A process file system of one test, gone with it.
    struct Proc(PathBuf);

    impl Proc {
        fn new(test: &str) -> Self {
            let name = format!("command-line-{}-{test}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        /// A process of that name and with those arguments, which holds the sockets of these inodes.
        fn process(&self, number: u32, name: &str, arguments: &str, inodes: &[u32]) {
            let folder = self.0.join(number.to_string());
            std::fs::create_dir_all(folder.join("fd")).unwrap();
            std::fs::create_dir_all(folder.join("net")).unwrap();
            let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
            write("comm", &format!("{name}\n"));
            write("cmdline", &format!("{arguments} ").replace(' ', "\0"));
            write("net/unix", TABLE);
            for inode in inodes {
                symlink(format!("socket:[{inode}]"), folder.join(format!("fd/{inode}"))).unwrap();
            }
        }

        fn dns_of(&self, socket: &str) -> Option<Vec<String>> {
            CommandLine::of_engine(&self.0, Path::new(socket)).map(|it| shown(&it.dns))
        }
    }

    impl Drop for Proc {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).ok();
        }
    }

    const TABLE: &str = "Num       RefCount Protocol Flags    Type St Inode Path\n\
        00000000a1b2: 00000002 00000000 00010000 0001 01 100 /nowhere/one.sock\n\
        00000000a1b3: 00000003 00000000 00000000 0001 03 101 /nowhere/one.sock\n\
        00000000a1b4: 00000003 00000000 00000000 0001 03 102\n\
        00000000a1b5: 00000002 00000000 00010000 0001 01 200 /nowhere/two.sock\n";

    #[test]
    fn of_several_engines_the_one_that_listens_there_is_read() {
        let proc = Proc::new("several");
        proc.process(1, "systemd", "init --dns=10.0.0.66", &[100, 200]);
        proc.process(7, "dockerd", "dockerd --dns=10.0.0.2", &[50, 200, 101]);
        proc.process(8, "dockerd", "dockerd --dns=10.0.0.1", &[100]);
        assert_eq!(proc.dns_of("/nowhere/one.sock"), Some(vec!["10.0.0.1".to_owned()]));
        assert_eq!(proc.dns_of("/nowhere/two.sock"), Some(vec!["10.0.0.2".to_owned()]));
        assert_eq!(proc.dns_of("/nowhere/three.sock"), None);
    }

    #[test]
    fn nobody_else_s_line_is_taken_for_the_engine_s() {
        let proc = Proc::new("nobody");
        proc.process(8, "podman", "podman --dns=10.0.0.1", &[100]);
        proc.process(9, "dockerd", "dockerd --dns=10.0.0.2", &[101]);
        assert_eq!(proc.dns_of("/nowhere/one.sock"), None);
        assert_eq!(
            CommandLine::of_engine(Path::new("/nowhere"), Path::new("/nowhere/one.sock")),
            None
        );
    }
}
