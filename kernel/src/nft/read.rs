//! Reading tables, chains, rules, sets and elements back.
//!
//! Always true here: what cannot be understood (a table of another family, an element of a kind
//! that we never make) is left out or shortened, never an error and never a panic; everything is
//! bounded.

use std::io;

use crate::netlink::wire::{Attributes, Message, Writer};
use crate::netlink::{DUMP_ATTEMPTS, changing};
use crate::nft::batch::{
    NFNL_SUBSYS_NFTABLES, NFTA_CHAIN_HOOK, NFTA_CHAIN_NAME, NFTA_CHAIN_POLICY, NFTA_CHAIN_TYPE,
    NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY, NFTA_LIST_ELEM, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS,
    NFTA_RULE_USERDATA, NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_NAME, NFTA_TABLE_NAME, header,
};
use crate::nft::expr::NFTA_EXPR_NAME;
use crate::nft::set::Element;
use crate::nft::table::{ChainKind, Family, Hook, HookPoint, Table};
use crate::nft::{EOPNOTSUPP, NftError, Socket};

/// A table as the kernel has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TableInfo {
    /// Which packets it sees.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// The netlink port of the socket that owns it, where it has an owner.
    pub owner_portid: Option<u32>,
}

/// A chain as the kernel has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ChainInfo {
    /// Its name.
    pub name: String,
    /// Where it is called from, where it is a base chain.
    pub hook: Option<Hook>,
    /// A base chain that drops what none of its rules decides about.
    pub drops: bool,
}

/// A rule as the kernel has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RuleInfo {
    /// In which chain.
    pub chain: String,
    /// As it was given.
    pub userdata: Vec<u8>,
    /// The kernel's names of its expressions in order, e.g. `payload`, `cmp`, `lookup`.
    pub exprs: Vec<String>,
}

impl Socket {
    /// All tables of the namespace of our families.
    pub fn tables(&mut self) -> Result<Vec<TableInfo>, NftError> {
        let everything = Table { family: Family::Inet, name: "" };
        let any = |it: &mut Writer| it.raw(&[NFPROTO_UNSPEC, 0, 0, 0]);
        self.list(TABLES, everything, any, |message, found| found.extend(table(message)))
    }

    /// The chains of a table; none where the table is not there.
    pub fn chains(&mut self, t: Table<'_>) -> Result<Vec<ChainInfo>, NftError> {
        let of_family = |it: &mut Writer| it.raw(&header(t.family));
        self.list(CHAINS, t, of_family, |message, found| {
            found.extend(of_table(message, t).and_then(chain));
        })
    }

    /// The rules of a table in order, chain by chain; none where the table is not there.
    pub fn rules(&mut self, t: Table<'_>) -> Result<Vec<RuleInfo>, NftError> {
        self.list(RULES, t, naming(t, None), |message, found| {
            found.extend(of_table(message, t).and_then(rule));
        })
    }

    /// The names of a table's sets and maps; `Absent` where the table is not there.
    pub fn sets(&mut self, t: Table<'_>) -> Result<Vec<String>, NftError> {
        self.list(SETS, t, naming(t, None), |message, found| {
            let message = of_table(message, t);
            let name = message.and_then(|it| it.attributes(GENMSG).text(NFTA_SET_NAME));
            found.extend(name.map(str::to_owned));
        })
    }

    /// The elements of a set or map, in no order, all as of one moment; `Absent` where it is not
    /// there. More than the socket's limit are an error, and so is a namespace whose tables change all
    /// the time.
    pub fn elements(&mut self, t: Table<'_>, set: &str) -> Result<Vec<Element>, NftError> {
        // The kernel marks other dumps as interrupted, but not this one.
        let mut generation = self.generation()?;
        for _ in 0..DUMP_ATTEMPTS {
            let found = self.list(ELEMENTS, t, naming(t, Some(set)), |message, found| {
                found.extend(elements(message));
            })?;
            let now = self.generation()?;
            if now == generation {
                return Ok(found);
            }
            generation = now;
        }
        Err(failed(ELEMENTS.what, t, changing()))
    }

    /// The number of the last transaction that the namespace's tables have seen, whoever made it:
    /// the same before and after several reads, nothing changed between them.
    pub fn generation(&mut self) -> Result<u32, NftError> {
        let any = |it: &mut Writer| it.raw(&[NFPROTO_UNSPEC, 0, 0, 0]);
        let everything = Table { family: Family::Inet, name: "" };
        let Listing { what, kind } = GENERATION;
        let mut generation = None;
        let asked = self.channel.ask(NFNL_SUBSYS_NFTABLES << 8 | kind, 0, any, |message| {
            generation = message.attributes(GENMSG).be32(NFTA_GEN_ID);
        });
        let missing = || io::Error::other("the kernel did not tell it");
        asked
            .and_then(|()| generation.ok_or_else(missing))
            .map_err(|it| failed(what, everything, it))
    }

    fn list<T>(
        &mut self,
        listing: Listing,
        t: Table<'_>,
        request: impl Fn(&mut Writer),
        read: impl FnMut(&Message<'_>, &mut Vec<T>),
    ) -> Result<Vec<T>, NftError> {
        let Listing { what, kind } = listing;
        let kind = NFNL_SUBSYS_NFTABLES << 8 | kind;
        self.channel
            .dump_at_most(kind, self.limit, request, read)
            .map_err(|source| failed(what, t, source))
    }
}

/// A question of a listing: what is attempted, for errors, and the kind of message.
#[derive(Clone, Copy, Debug)]
struct Listing {
    what: &'static str,
    kind: u16,
}

const TABLES: Listing = Listing { what: "list tables", kind: 1 };
const CHAINS: Listing = Listing { what: "list chains of table", kind: 4 };
const RULES: Listing = Listing { what: "list rules of table", kind: 7 };
const SETS: Listing = Listing { what: "list sets of table", kind: 10 };
const GENERATION: Listing = Listing { what: "read the tables' generation", kind: 16 };
const ELEMENTS: Listing = Listing { what: "list elements of table", kind: 13 };

fn naming<'a>(t: Table<'a>, set: Option<&'a str>) -> impl Fn(&mut Writer) + 'a {
    move |it| {
        it.raw(&header(t.family));
        it.text(NFTA_TABLE_NAME, t.name);
        if let Some(set) = set {
            it.text(NFTA_SET_NAME, set);
        }
    }
}

fn failed(what: &str, t: Table<'_>, source: io::Error) -> NftError {
    let what = format!("{what} {}", t.name).trim_end().to_owned();
    match source.raw_os_error() {
        Some(libc::ENOENT) => NftError::Absent { what, index: 0 },
        Some(libc::EPERM) => NftError::Denied { what },
        Some(EOPNOTSUPP | libc::EINVAL) => NftError::Unsupported { what, index: 0, source },
        _ => NftError::Io { what, source },
    }
}

/// The message, where it is about this table: not all dumps can be narrowed to one.
fn of_table<'a>(message: &Message<'a>, t: Table<'_>) -> Option<Message<'a>> {
    let family = message.body.first().copied();
    let name = message.attributes(GENMSG).text(NFTA_TABLE_NAME);
    (family == Some(t.family as u8) && name == Some(t.name)).then_some(*message)
}

/// Reads a message as each of the listings would; how much was found in it.
pub(crate) fn read_any(message: &Message<'_>) -> usize {
    let named = message.attributes(GENMSG).text(NFTA_TABLE_NAME).unwrap_or_default();
    let ours = of_table(message, Table { family: Family::Ip, name: named });
    let rule = rule(*message).map_or(0, |it| it.exprs.len());
    usize::from(table(message).is_some())
        + usize::from(ours.and_then(chain).is_some())
        + rule
        + elements(message).count()
}

fn table(message: &Message<'_>) -> Option<TableInfo> {
    let attributes = message.attributes(GENMSG);
    Some(TableInfo {
        family: Family::numbered(*message.body.first()?)?,
        name: attributes.text(NFTA_TABLE_NAME)?.to_owned(),
        owner_portid: attributes.be32(NFTA_TABLE_OWNER),
    })
}

/// `NF_DROP`.
const NF_DROP: u32 = 0;

fn chain(message: Message<'_>) -> Option<ChainInfo> {
    let attributes = message.attributes(GENMSG);
    let hook = attributes.nested(NFTA_CHAIN_HOOK);
    let read_hook = || {
        Some(Hook {
            kind: ChainKind::named(attributes.text(NFTA_CHAIN_TYPE)?)?,
            point: HookPoint::numbered(hook.be32(NFTA_HOOK_HOOKNUM)?)?,
            priority: hook.be32(NFTA_HOOK_PRIORITY)?.cast_signed(),
        })
    };
    let drops = attributes.be32(NFTA_CHAIN_POLICY) == Some(NF_DROP);
    Some(ChainInfo { name: attributes.text(NFTA_CHAIN_NAME)?.to_owned(), hook: read_hook(), drops })
}

fn rule(message: Message<'_>) -> Option<RuleInfo> {
    let attributes = message.attributes(GENMSG);
    let exprs = attributes
        .nested(NFTA_RULE_EXPRESSIONS)
        .filter_map(|(_, expr)| Attributes::new(expr).text(NFTA_EXPR_NAME).map(str::to_owned));
    Some(RuleInfo {
        chain: attributes.text(NFTA_RULE_CHAIN)?.to_owned(),
        userdata: attributes.get(NFTA_RULE_USERDATA).unwrap_or_default().to_vec(),
        exprs: exprs.collect(),
    })
}

fn elements<'a>(message: &Message<'a>) -> impl Iterator<Item = Element> + use<'a> {
    message
        .attributes(GENMSG)
        .nested(NFTA_SET_ELEM_LIST_ELEMENTS)
        .filter(|(kind, _)| *kind == NFTA_LIST_ELEM)
        .filter_map(|(_, element)| Element::read(&Attributes::new(element)))
}

/// More entries than any plan of ours has; an element read takes about 100 bytes.
pub(super) const ENTRIES_MAX: usize = 2_000_000;

/// Bytes of `struct nfgenmsg` before the attributes.
const GENMSG: usize = 4;
const NFPROTO_UNSPEC: u8 = 0;
const NFTA_GEN_ID: u16 = 1;
const NFTA_TABLE_OWNER: u16 = 7;
