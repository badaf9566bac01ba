//! The engine's own firewall: its last word about forwarded packets is "drop", so its chain for
//! users' rules has to let the mesh's connections pass.
//!
//! Invariants
//! - *its user chain only*: `DOCKER-USER`, which the engine makes and leaves alone; one rule, by
//!   the mark of the mesh's connections, however many ports there are, and after all of the users'
//!   own: what they forbid stays forbidden;
//! - *by the engine's own means*: the rule is made by the program whose tables have that chain, so
//!   that the engine and its users can read it. A backend that has no tables is not woken up;
//! - *bounded*: no program may take longer than [`PATIENCE`], its own wait for the lock included.

use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kernel::netns::Netns;
use kernel::nft::Watched;
use registry::model::Protocol;

use super::balance::FLAG;
use super::error::MeshError;

/// What became of the rule.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Settled {
    /// How many rules were made or removed.
    pub(crate) changes: usize,
    /// Whether the engine has such a chain.
    pub(crate) chain: bool,
}

/// Why the rule is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// The program could not be run to its end.
    #[error("cannot run `{program}` to let the mesh's connections through {CHAIN}")]
    Run {
        /// Which.
        program: &'static str,
        /// The refusal.
        source: io::Error,
    },
    /// It ended with an error.
    #[error("`{program}` cannot list its rules: {said}")]
    Unread {
        /// Which.
        program: &'static str,
        /// What it said.
        said: String,
    },
    /// It ended with an error.
    #[error("`{program}` cannot change {CHAIN}: {said}")]
    Refused {
        /// Which.
        program: &'static str,
        /// What it said.
        said: String,
    },
}

/// Makes the rule be there, or not, in this process's network namespace.
pub(crate) fn settle(want: bool) -> Result<Settled, FirewallError> {
    let mut settled = Settled::default();
    for program in programs("filter") {
        for _ in 0..MOST_STEPS {
            let listing = run(program, &["-S", CHAIN])?;
            if !listing.fine {
                break;
            }
            settled.chain = true;
            let Some(step) = step(&listing.listed, want) else { break };
            let number = step.number.to_string();
            let Ran { fine, said, .. } = if step.add {
                run(program, &[&["-I", CHAIN, &number], RULE].concat())?
            } else {
                run(program, &["-D", CHAIN, &number])?
            };
            if !fine {
                return Err(FirewallError::Refused { program, said });
            }
            settled.changes += 1;
        }
    }
    Ok(settled)
}

/// One change on the way.
#[derive(Debug, Eq, PartialEq)]
struct Step {
    /// Add our rule there, or take away what is there.
    add: bool,
    /// A rule's number, from 1.
    number: usize,
}

/// Whether the engine has rules of its own for a bridge, in this thread's network namespace.
pub(crate) fn engine_keeps(bridge: &str) -> Result<bool, FirewallError> {
    for program in programs("filter") {
        let listing = run(program, &["-S"])?;
        // Nothing listed for want of the lock is not nothing there.
        if !listing.fine {
            return Err(FirewallError::Unread { program, said: listing.said });
        }
        if listing.listed.lines().any(|it| is_engines(it, bridge)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A rule for `bridge` in a chain of the engine's, or one that leads there (engines up to 27); not
/// what users say of it.
fn is_engines(rule: &str, bridge: &str) -> bool {
    let engines = rule.starts_with("-A DOCKER") && !rule.starts_with("-A DOCKER-USER");
    rule.split_ascii_whitespace().any(|it| it == bridge) && (engines || rule.ends_with("-j DOCKER"))
}

/// Chains that drop what is passed on unless a rule accepts it, and that nobody has told about
/// portolan, in this thread's network namespace.
pub(crate) fn dropping() -> Result<Vec<String>, FirewallError> {
    let mut found = Vec::new();
    for program in programs("filter") {
        let listed = run(program, &["-S", "FORWARD"])?.listed;
        if listed.lines().any(|it| it == "-P FORWARD DROP") && !listed.contains("portolan") {
            found.push(format!("chain FORWARD of `{program}`"));
        }
    }
    Ok(found)
}

/// Whether there is a program that lists what iptables keeps in nftables.
pub(crate) fn is_there() -> bool {
    there_is(NFT) || there_is(PLAIN)
}

/// What is to be changed next in the chain that is listed; `None`: nothing. Our rule comes after
/// all of the users', which restrict who may come, and before the engine's own closing `RETURN`
/// (engines up to 27). A new one is made before an old one goes.
fn step(listing: &str, want: bool) -> Option<Step> {
    let rules: Vec<&str> = listing.lines().filter(|it| it.starts_with("-A ")).collect();
    let is_ours =
        |it: &&str| RULE.iter().all(|word| it.split_ascii_whitespace().any(|is| is == *word));
    let ends = rules.last().is_some_and(|it| *it == CLOSING);
    let last = rules.len() - usize::from(ends);
    let ours = rules.iter().position(is_ours);
    let is_right = last.checked_sub(1).and_then(|it| rules.get(it)).is_some_and(is_ours);
    match ours {
        None if want => Some(Step { add: true, number: last + 1 }),
        Some(_) if want && !is_right => Some(Step { add: true, number: last + 1 }),
        Some(first) if !want || first + 1 < last => Some(Step { add: false, number: first + 1 }),
        Some(_) | None => None,
    }
}

/// The published ports that the engine's rules in a task's namespace lead to their targets:
/// published, target, and the protocol.
pub fn redirected_ports(netns: &Netns) -> Result<Vec<(u16, u16, Protocol)>, MeshError> {
    let read = || {
        let mut ports = Vec::new();
        for program in programs("nat") {
            let ran = run(program, &["-t", "nat", "-S", "PREROUTING"])?;
            ports.extend(ran.listed.lines().filter_map(redirected));
        }
        Ok::<_, FirewallError>(ports)
    };
    Ok(netns.run(read)??)
}

/// `-A PREROUTING -d 10.0.0.7/32 -p udp -m udp --dport 8053 -j REDIRECT --to-ports 53`.
fn redirected(rule: &str) -> Option<(u16, u16, Protocol)> {
    let words: Vec<&str> = rule.split_ascii_whitespace().collect();
    let behind = |word: &str| words.iter().skip_while(|it| **it != word).nth(1).copied();
    let protocols = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
    let protocol = protocols.into_iter().find(|it| Some(it.0) == behind("-p"))?.1;
    let published = behind("--dport")?.parse().ok()?;
    let target = behind("--to-ports")?.parse().ok()?;
    (behind("-j") == Some("REDIRECT")).then_some((published, target, protocol))
}

/// The programs whose backends have tables in this namespace. To ask the legacy one would make it
/// load its modules and its tables.
fn programs(table: &str) -> Vec<&'static str> {
    let legacy = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names");
    let legacy = legacy.is_ok_and(|it| it.lines().any(|it| it == table));
    // Where there are no variants the plain name is the only one.
    let nft = if there_is(NFT) { NFT } else { PLAIN };
    let programs = [(nft, true), (LEGACY, legacy)];
    programs.into_iter().filter(|it| it.1 && there_is(it.0)).map(|it| it.0).collect()
}

fn there_is(program: &str) -> bool {
    FOLDERS.iter().any(|it| std::path::Path::new(it).join(program).exists())
}

struct Ran {
    fine: bool,
    said: String,
    listed: String,
}

fn run(program: &'static str, arguments: &[&str]) -> Result<Ran, FirewallError> {
    let failed = |source| FirewallError::Run { program, source };
    #[expect(clippy::disallowed_methods, reason = "the chain is read and written by this program")]
    let mut command = Command::new(program);
    command.env("PATH", FOLDERS.join(":")).args(["-w", LOCK_WAIT]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let stdout = child.stdout.take();
    // Read meanwhile: a long list does not fit a pipe. It ends with the program, or with what it
    // may say, and then the program with it.
    let (ended, listed) = std::thread::scope(|scope| {
        let reader = std::thread::Builder::new().spawn_scoped(scope, || stdout.map(text))?;
        let ended = wait(&mut child)?;
        let read = reader.join().map_err(|_panic| io::Error::other("its reader failed"))?;
        Ok((ended, read.unwrap_or_default()))
    })
    .map_err(failed)?;
    // What it complains of fits a pipe.
    let said = child.stderr.take().map(text).unwrap_or_default();
    let said = said.lines().next().unwrap_or_default().to_owned();
    Ok(Ran { fine: ended, said, listed })
}

fn text(from: impl Read) -> String {
    let mut text = String::new();
    drop(from.take(MOST_SAID).read_to_string(&mut text));
    text
}

/// Whether it ended well; killed when it takes too long.
fn wait(child: &mut Child) -> io::Result<bool> {
    for _ in 0..LOOKS {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        std::thread::sleep(PATIENCE / LOOKS);
    }
    child.kill()?;
    child.wait()?;
    Err(io::ErrorKind::TimedOut.into())
}

const CHAIN: &str = "DOCKER-USER";
/// Where others' changes matter: what iptables-nft makes of it.
pub(crate) const USERS_CHAIN: Watched<'static> = Watched { table: "filter", chain: Some(CHAIN) };
const NFT: &str = "iptables-nft";
const LEGACY: &str = "iptables-legacy";
const PLAIN: &str = "iptables";
const FOLDERS: &[&str] = &["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"];

/// The one rule: connections with the mesh's mark, both directions.
const RULE: &[&str] = &[
    "-m",
    "connmark",
    "--mark",
    "0x20000000/0x20000000",
    "-m",
    "comment",
    "--comment",
    "portolan",
    "-j",
    "ACCEPT",
];

const _: () = assert!(FLAG == 0x2000_0000, "the rule names the mark");

/// Seconds for which the program waits for others who change tables.
const LOCK_WAIT: &str = "5";
/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(8);
/// How often it is looked at in that time: every 4 ms.
const LOOKS: u32 = 2000;
/// The engine's own last rule.
const CLOSING: &str = "-A DOCKER-USER -j RETURN";
/// More rules of ours are not removed at once.
const MOST_STEPS: usize = 8;
/// Bytes read of what a program says: a hundred thousand rules.
const MOST_SAID: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "-A DOCKER-USER -m connmark --mark 0x20000000/0x20000000 -m comment --comment portolan -j ACCEPT";
    const DROP: &str = "-A DOCKER-USER -i eth0 -j DROP";

    /// What the chain is after all steps.
    fn settled(rules: &[&str], want: bool) -> Vec<String> {
        let mut rules: Vec<String> = rules.iter().map(|it| (*it).to_owned()).collect();
        for _ in 0..MOST_STEPS {
            let listing = format!("-N DOCKER-USER\n{}\n", rules.join("\n"));
            let Some(Step { add, number }) = step(&listing, want) else { return rules };
            if add {
                rules.insert(number - 1, OURS.to_owned());
            } else {
                rules.remove(number - 1);
            }
        }
        panic!("it does not end: {rules:?}")
    }

    #[test]
    fn what_users_forbid_comes_before_what_the_mesh_lets_through() {
        for closing in [&[][..], &[CLOSING]] {
            let right = [&[DROP, OURS], closing].concat();
            let with = |first: &[&'static str]| [first, closing].concat();
            for before in
                [with(&[DROP]), with(&[OURS, DROP]), with(&[OURS, DROP, OURS]), right.clone()]
            {
                assert_eq!(settled(&before, true), right, "{before:?}");
            }
            assert_eq!(settled(&right, false), with(&[DROP]));
            assert_eq!(settled(&with(&[]), true), with(&[OURS]));
            assert_eq!(settled(&with(&[OURS, OURS]), false), with(&[]));
        }
    }

    #[test]
    fn rules_of_the_engine_are_known_from_those_of_users() {
        let engines = [
            "-A FORWARD -o docker_gwbridge -j DOCKER",
            "-A DOCKER-FORWARD -i docker_gwbridge -j ACCEPT",
            "-A DOCKER-ISOLATION-STAGE-2 -o docker_gwbridge -j DROP",
        ];
        let others = [
            "-A FORWARD -i docker_gwbridge -j ACCEPT",
            "-A DOCKER-USER -i docker_gwbridge -j ACCEPT",
            "-A FORWARD -o docker0 -j DOCKER",
            "-N DOCKER-INGRESS",
            "-A DOCKER-INGRESS -p tcp -m tcp --dport 8001 -j ACCEPT",
        ];
        assert!(engines.iter().all(|it| is_engines(it, "docker_gwbridge")));
        assert!(!others.iter().any(|it| is_engines(it, "docker_gwbridge")));
    }

    #[test]
    fn the_engines_redirections_tell_a_ports_protocol() {
        let rules = "-P PREROUTING ACCEPT\n\
             -A PREROUTING -d 10.0.0.7/32 -p tcp -m tcp --dport 8001 -j REDIRECT --to-ports 80\n\
             -A PREROUTING -d 10.0.0.7/32 -p udp -m udp --dport 8053 -j REDIRECT --to-ports 53\n\
             -A PREROUTING -d 10.0.0.7/32 -p tcp -m tcp --dport 9 -j DNAT --to 10.0.0.8\n";
        let found: Vec<_> = rules.lines().filter_map(redirected).collect();
        assert_eq!(found, [(8001, 80, Protocol::Tcp), (8053, 53, Protocol::Udp)]);
    }
}
