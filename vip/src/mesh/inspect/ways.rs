//! The namespaces of tasks, by which the replies of published ports leave: what is planned there
//! and what there is.

use kernel::netns::Netns;
use kernel::nft::Socket;
use kernel::rule;

use crate::mesh::error::MeshError;
use crate::mesh::path::needs;
use crate::mesh::plan::Way;
use crate::mesh::sysctls::SysctlsError;
use crate::mesh::{table, way};
use crate::sandbox::open;

/// What differs in the task's namespace, a line each.
pub(super) fn differences(planned: &Way) -> Vec<String> {
    let seen = look(planned).unwrap_or_else(|error| vec![error.to_string()]);
    seen.into_iter().map(|it| format!("sandbox {}: {it}", planned.name)).collect()
}

fn look(planned: &Way) -> Result<Vec<String>, MeshError> {
    let Some(netns) = open(&planned.netns, planned.cookie)? else {
        return Ok(vec!["its network namespace is gone".to_owned()]);
    };
    let place = way::place(&netns, planned.own)?.ok_or(MeshError::NoInterface(planned.own))?;
    let mut lines = Vec::new();
    let wanted = way::ruleset(&place, planned);
    match table::read(&mut Socket::open(&netns)?, &wanted) {
        Ok(Some(seen)) if wanted.is_seen_in(&seen) => {}
        Ok(Some(_)) => lines.push("its table of the mesh is not as planned".to_owned()),
        Ok(None) => lines.push("its table of the mesh is missing".to_owned()),
        Err(error) if error.is_too_long() => {
            lines.push("somebody filled its table of the mesh".to_owned());
        }
        Err(error) => return Err(error.into()),
    }
    lines.extend(routes(&netns, planned, &place.device)?);
    for need in needs(&place.device) {
        let missing = need.in_words(&netns).map_err(SysctlsError::from)?;
        lines.extend(missing);
    }
    Ok(lines)
}

fn routes(netns: &Netns, planned: &Way, device: &str) -> Result<Vec<String>, MeshError> {
    let (rules, routes) = way::routes(device, &planned.routers);
    let mut lines = Vec::new();
    let there = rule::rules(netns)?;
    let lacking = rules.iter().filter(|it| !there.contains(it));
    lines.extend(lacking.map(|it| format!("the rule for mark {:#x} is missing", it.mark)));
    let odd = there.iter().filter(|it| !rules.contains(it));
    lines.extend(odd.map(|it| format!("the rule for mark {:#x} is not in the plan", it.mark)));
    let there = rule::table_routes(netns)?;
    let lacking = routes.iter().filter(|it| !there.contains(it));
    lines.extend(lacking.map(|it| format!("the route by {} is missing", it.gateway)));
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use kernel::{link, sysctl};

    use super::*;
    use crate::mesh::path;
    use crate::mesh::sysctls::Sysctls;

    #[tokio::test]
    async fn what_somebody_took_away_from_a_tasks_way_back_is_told() {
        let dir = std::env::temp_dir().join(format!("mesh-ways-{}", std::process::id()));
        let name: PathBuf = dir.join("task");
        let (netns, other) = (link::name_netns(&name).unwrap(), Netns::fresh().unwrap());
        link::add_veth(&netns, "eth0", "eth0", &other).unwrap();
        link::add_address(&netns, "eth0", "10.0.0.5/24".parse().unwrap()).unwrap();
        link::set_up(&netns, "eth0").unwrap();
        let way = Way {
            name: "web.1".to_owned(),
            netns: name.clone(),
            cookie: None,
            own: [10, 0, 0, 5].into(),
            held: [53].into(),
            routers: BTreeMap::from([(1, [10, 0, 0, 3].into())]),
        };
        assert!(differences(&way).len() >= 3, "{:?}", differences(&way));
        let now = tokio::time::Instant::now();
        let visit = path::visit(way.clone(), None, &Sysctls::load(&dir), now);
        assert!(visit.changes > 0);
        assert_eq!(differences(&way), [""; 0]);

        sysctl::write(&netns, "ipv4/tcp_fwmark_accept", "0").unwrap();
        way::settle_routes(&netns, "eth0", &BTreeMap::new()).unwrap();
        crate::mesh::laid::remove(&netns).unwrap();
        let expected = [
            "its table of the mesh is missing",
            "the rule for mark 0x100000 is missing",
            "the route by 10.0.0.3 is missing",
            "ipv4/tcp_fwmark_accept is 0, and 1 is needed",
        ];
        assert_eq!(differences(&way), expected.map(|it| format!("sandbox web.1: {it}")));
        drop(visit);
        link::unname_netns(&name).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
