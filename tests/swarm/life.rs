//! Steps of the Swarm's test about the life of containers: what is told of those that stop, share a
//! namespace, or come to a network while they run. Together they leave the lab as they found it.

use std::time::Duration;

use super::support::sorted;
use super::swarm::Lab;
use super::{dig, eventually, until};

/// Runs until it is told to stop, and for a while after.
const SLOW: &str = "trap \"sleep 5; exit 0\" TERM; while :; do sleep 0.2; done";

pub(crate) fn a_stopping_task_is_in_no_name_while_it_still_runs(
    lab: &Lab,
    places: &[(&'static str, String)],
) {
    let constraints = "--replicas 2 --replicas-max-per-node 1 --stop-grace-period 20s";
    // Without a VIP: a worker would refuse connections to it for ten minutes, and not after a restart.
    let service = "service create -d --endpoint-mode dnsrr --name slow --network frontend";
    let create = format!("{service} {constraints}");
    lab.docker("node1", &format!("{create} counter:latest sh -c '{SLOW}'"));
    let tasks = |place| sorted(&dig(lab, place, "+short tasks.slow"));
    for place in places {
        until(lab, "both tasks of slow", || tasks(place).len() == 2);
    }
    lab.docker("node1", "service scale -d slow=1");
    for place in places {
        until(lab, "the stopping task is out of tasks.slow", || tasks(place).len() == 1);
    }
    let running =
        ["node1", "node2"].map(|node| lab.containers(node, "slow").len()).iter().sum::<usize>();
    assert_eq!(running, 2, "and has not ended");
    lab.docker("node1", "service rm slow");
}

/// The tasks that were stopped there are gone, for each portolan too: whoever compares the world
/// before and after a restart begins after that.
pub(crate) fn nothing_is_left_of_slow(lab: &Lab) {
    let gone = || {
        ["node1", "node2"].iter().all(|node| {
            let known = |what| {
                let said = lab.portolan(node, &["ls", what]).stdout;
                String::from_utf8_lossy(&said).contains("slow")
            };
            // A worker keeps the service itself for ten minutes, in case it was only scaled down.
            let forgotten = *node == "node2" || !known("services");
            lab.containers(node, "slow").is_empty() && !known("tasks") && forgotten
        })
    };
    assert!(eventually(Duration::from_secs(30), gone), "{}", lab.log("node1"));
}

pub(crate) fn containers_of_one_namespace_have_the_same_names(lab: &Lab) {
    lab.docker("node2", "run -d --name home --network frontend counter:latest sleep 1000");
    lab.docker("node2", "run -d --name guest --network container:home counter:latest sleep 1000");
    let ask =
        |container: &str| dig(lab, &("node2", container.to_owned()), "+noall +answer +short web");
    until(lab, "names in a shared namespace", || !ask("guest").is_empty());
    assert_eq!(ask("guest"), ask("home"));
    let tables = lab.sh("node2/guest", "nft list tables");
    assert_eq!(tables.matches("portolan_dns").count(), 1, "{tables}");
    lab.docker("node2", "rm -f guest");
    assert!(!ask("home").is_empty(), "a guest's end changes nothing for its host");
    lab.docker("node2", "rm -f home");
}

pub(crate) fn a_network_brings_its_names_and_takes_them_away(lab: &Lab) {
    lab.docker("node2", "network create moor");
    lab.docker("node2", "run -d --name buoy --network moor counter:latest sleep 1000");
    lab.docker("node2", "run -d --name boat --network frontend counter:latest sleep 1000");
    let boat = ("node2", "boat".to_owned());
    until(lab, "names of its first network", || !dig(lab, &boat, "+short web").is_empty());
    for _ in 0..2 {
        assert_eq!(dig(lab, &boat, "+short buoy"), "");
        lab.docker("node2", "network connect moor boat");
        until(lab, "names of a network connected", || !dig(lab, &boat, "+short buoy").is_empty());
        lab.docker("node2", "network disconnect moor boat");
        until(lab, "no names of it when it is disconnected", || {
            dig(lab, &boat, "+short buoy").is_empty()
        });
    }
    lab.docker("node2", "rm -f boat buoy");
    lab.docker("node2", "network rm moor");
}
