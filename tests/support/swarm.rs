//! A two-node Swarm with a portolan on each node, for tests: engines, containers and clients are
//! real; everything lives in network namespaces of the lab's own and goes with it.

use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use super::support::{PORTOLAN, program, project, text};

/// The lab; dropped, it takes everything down.
pub(crate) struct Lab {
    folder: PathBuf,
    portolans: Vec<(String, Child)>,
}

impl Lab {
    /// Starts two engines that form a Swarm.
    pub(crate) fn up() -> Self {
        let lab = Self { folder: PathBuf::from("/tmp/portolan-lab"), portolans: Vec::new() };
        lab.script(&["down"]);
        let up = lab.script(&["up", "2", PORTOLAN]);
        assert!(up.status.success(), "the lab starts:\n{}", text(&up.stderr));
        lab
    }

    fn script(&self, arguments: &[&str]) -> Output {
        let script = project().join("tests/lab/swarm-lab");
        let mut lab = program(script.to_str().expect("a plain path"));
        lab.args(arguments).env("LAB_DIR", &self.folder).output().expect("the lab's script runs")
    }

    /// Runs the docker client against a node, its arguments as in a shell; it must succeed.
    #[track_caller]
    pub(crate) fn docker(&self, node: &str, arguments: &str) -> String {
        let socket = self.folder.join(node).join("docker.sock");
        let line = format!("docker -H unix://{} {arguments}", socket.display());
        let output = program("sh").args(["-c", &line]).output().expect("a shell");
        let said = text(&output.stdout);
        assert!(output.status.success(), "{line}: {said}{}", text(&output.stderr));
        said.trim().to_owned()
    }

    /// Runs a shell script in a container's network namespace, or (`node1`) in a node's own.
    pub(crate) fn sh(&self, place: &str, script: &str) -> String {
        let (verb, place) = match place.contains('/') {
            true => ("in", vec![place]),
            false if place == "client" => ("client", vec![]),
            false => ("on", vec![place]),
        };
        let mut all = vec![verb];
        all.extend(place);
        all.extend(["sh", "-c", script]);
        text(&self.script(&all).stdout).trim().to_owned()
    }

    /// Runs a program in a container with portolan's (that is, the container's own) resolver.
    pub(crate) fn exec(&self, node: &str, container: &str, script: &str) -> String {
        let output = self.portolan(node, &["exec", container, "sh", "-c", script]);
        text(&output.stdout).trim().to_owned()
    }

    /// Runs a verb of portolan on a node.
    pub(crate) fn portolan(&self, node: &str, arguments: &[&str]) -> Output {
        let netns = format!("--net=/run/netns/plab-{node}");
        let mut verb = program("nsenter");
        verb.arg(netns).arg(PORTOLAN).args(arguments);
        verb.env("PORTOLAN_CONFIG", self.config(node)).output().expect("portolan runs")
    }

    fn config(&self, node: &str) -> String {
        let home = self.folder.join(node);
        let home = home.display();
        format!(
            "state_dir = \"{home}/portolan\"\n[sources.docker]\nendpoint = \"unix://{home}/docker.sock\"\n\
             [admin]\nsocket = \"{home}/portolan.sock\"\n"
        )
    }

    /// Starts `portolan up` on a node and waits until it says that all is well.
    pub(crate) fn start_portolan(&mut self, node: &str) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.join(format!("{node}/portolan.log")))
            .expect("a log file");
        let mut up = program("nsenter");
        up.arg(format!("--net=/run/netns/plab-{node}")).args([PORTOLAN, "up"]);
        up.env("PORTOLAN_CONFIG", self.config(node)).stderr(log).stdout(Stdio::null());
        self.portolans.push((node.to_owned(), up.spawn().expect("portolan starts")));
        let ready = eventually(Duration::from_secs(20), || {
            self.portolan(node, &["status"]).status.success()
        });
        assert!(ready, "portolan on {node} is ready:\n{}", self.log(node));
    }

    /// What a node's portolan logged.
    pub(crate) fn log(&self, node: &str) -> String {
        std::fs::read_to_string(self.folder.join(format!("{node}/portolan.log")))
            .unwrap_or_default()
    }

    /// Ends a node's portolan by `signal`.
    pub(crate) fn signal_portolan(&mut self, node: &str, signal: rustix::process::Signal) {
        let Some(index) = self.portolans.iter().position(|(name, _)| name == node) else { return };
        let (_, mut child) = self.portolans.remove(index);
        let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("its id"), signal).expect("a signal");
        child.wait().expect("it ends");
    }

    /// Names of the running containers of a service on a node.
    pub(crate) fn containers(&self, node: &str, service: &str) -> Vec<String> {
        let filter = format!("label=com.docker.swarm.service.name={service}");
        let said = self.docker(node, &format!("ps --filter {filter} --format '{{{{.Names}}}}'"));
        said.lines().map(str::to_owned).collect()
    }

    /// The lab's folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for (_, child) in &mut self.portolans {
            child.kill().ok();
            child.wait().ok();
        }
        self.script(&["down"]);
    }
}

/// Waits until `condition` holds; says whether it came to that.
pub(crate) fn eventually(within: Duration, mut condition: impl FnMut() -> bool) -> bool {
    #[expect(clippy::disallowed_methods, reason = "tests of real engines wait in real time")]
    let begun = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if begun.elapsed() > within {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
