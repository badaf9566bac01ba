//! One nftables transaction as bytes: tables, chains, sets, maps, elements and rules.
//!
//! Always true here: building does no I/O and cannot fail; what is wrong (a name too long, a key
//! of the wrong length) is refused by the kernel, with the step's number, and then nothing of the
//! transaction takes place. Messages are numbered from 1 and only the last is acknowledged.

use std::io;
use std::time::Duration;

use crate::netlink::wire::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, Writer};
use crate::nft::expr::{self, Expr, NFT_OBJECT_CT_TIMEOUT};
use crate::nft::set::{self, Element, SetSpec};
use crate::nft::table::{Family, Hook, Table};

/// The messages of one transaction, in order.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    body: Writer,
    steps: Vec<Step>,
    /// Where the last message begins, and its flags without the acknowledgement.
    last: Option<(usize, u16)>,
}

impl Batch {
    /// An empty transaction.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether it has no message.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// How many messages it has.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Makes the table where it does not exist. With `owner` it belongs to the committing
    /// [`Socket`](crate::nft::Socket): nobody else may change it, and it vanishes with the
    /// socket (Linux 5.12).
    pub fn add_table(&mut self, t: Table<'_>, owner: bool) {
        self.push(ADD_TABLE, t, t.name, |it| {
            if owner {
                it.be32(NFTA_TABLE_FLAGS, NFT_TABLE_F_OWNER);
            }
        });
    }

    /// Deletes the table and all in it; it must be there.
    pub fn delete_table(&mut self, t: Table<'_>) {
        self.push(DELETE_TABLE, t, t.name, |_| {});
    }

    /// Makes the table anew: empty afterwards, whatever was there.
    pub fn replace_table(&mut self, t: Table<'_>, owner: bool) {
        // Without the flag the first message is content with a table of either kind.
        self.add_table(t, false);
        self.delete_table(t);
        self.add_table(t, owner);
    }

    /// Makes a chain where it does not exist; with a hook it is a base chain, its policy accept.
    pub fn add_chain(&mut self, t: Table<'_>, name: &str, hook: Option<Hook>) {
        self.push(ADD_CHAIN, t, name, |it| {
            it.text(NFTA_CHAIN_NAME, name);
            let Some(hook) = hook else { return };
            it.nest(NFTA_CHAIN_HOOK, |it| {
                it.be32(NFTA_HOOK_HOOKNUM, u32::from(hook.point as u8));
                it.attribute(NFTA_HOOK_PRIORITY, &hook.priority.to_be_bytes());
            });
            it.text(NFTA_CHAIN_TYPE, hook.kind.name());
            it.be32(NFTA_CHAIN_POLICY, NF_ACCEPT);
        });
    }

    /// Deletes a chain that has no rules and that nothing points to.
    pub fn delete_chain(&mut self, t: Table<'_>, name: &str) {
        self.push(DELETE_CHAIN, t, name, |it| it.text(NFTA_CHAIN_NAME, name));
    }

    /// Deletes all rules of a chain.
    pub fn flush_chain(&mut self, t: Table<'_>, name: &str) {
        self.push(FLUSH_CHAIN, t, name, |it| it.text(NFTA_RULE_CHAIN, name));
    }

    /// Appends a rule. `userdata` (at most 256 bytes) stays with it; [`comment`] makes one that
    /// `nft list` prints.
    pub fn add_rule(&mut self, t: Table<'_>, chain: &str, exprs: &[Expr], userdata: &[u8]) {
        self.push(ADD_RULE, t, chain, |it| {
            it.text(NFTA_RULE_CHAIN, chain);
            it.nest(NFTA_RULE_EXPRESSIONS, |it| {
                for one in exprs {
                    it.nest(NFTA_LIST_ELEM, |it| expr::write(it, t.family, one));
                }
            });
            if !userdata.is_empty() {
                it.attribute(NFTA_RULE_USERDATA, userdata);
            }
        });
    }

    /// Makes an object that gives flows of TCP other time-outs than the namespace's: after one side
    /// has closed and the other has not, conntrack forgets a flow that says nothing for so long.
    /// Needs a kernel with `CONFIG_NF_CONNTRACK_TIMEOUT`.
    pub fn add_tcp_timeouts(&mut self, t: Table<'_>, name: &str, close_wait: Duration) {
        let seconds = u32::try_from(close_wait.as_secs()).unwrap_or(u32::MAX);
        self.push(ADD_OBJECT, t, name, |it| {
            it.text(NFTA_OBJ_NAME, name);
            it.be32(NFTA_OBJ_TYPE, NFT_OBJECT_CT_TIMEOUT);
            it.nest(NFTA_OBJ_DATA, |it| {
                it.attribute(NFTA_CT_TIMEOUT_L4PROTO, &[IPPROTO_TCP]);
                let set = |it: &mut Writer| it.be32(CTA_TIMEOUT_TCP_CLOSE_WAIT, seconds);
                it.nest(NFTA_CT_TIMEOUT_DATA, set);
            });
        });
    }

    /// Makes a set or map where it does not exist.
    pub fn add_set(&mut self, t: Table<'_>, set: &SetSpec<'_>) {
        self.add_set_of_kind(t, set, false);
    }

    /// Makes a set or map that rules may change, where it does not exist.
    pub fn add_dynamic_set(&mut self, t: Table<'_>, set: &SetSpec<'_>) {
        self.add_set_of_kind(t, set, true);
    }

    fn add_set_of_kind(&mut self, t: Table<'_>, set: &SetSpec<'_>, dynamic: bool) {
        // Unique within the transaction, as the kernel demands.
        let id = u32::try_from(self.steps.len()).unwrap_or(u32::MAX);
        self.push(ADD_SET, t, set.name, |it| {
            it.text(NFTA_SET_NAME, set.name);
            set.write(it, dynamic);
            it.be32(NFTA_SET_ID, id);
        });
    }

    /// Deletes a set or map that no rule uses.
    pub fn delete_set(&mut self, t: Table<'_>, name: &str) {
        self.push(DELETE_SET, t, name, |it| it.text(NFTA_SET_NAME, name));
    }

    /// Deletes all elements of a set or map.
    pub fn flush_set(&mut self, t: Table<'_>, name: &str) {
        self.push(FLUSH_SET, t, name, |it| it.text(NFTA_SET_NAME, name));
    }

    /// Adds elements, in as many messages as they need. One that is there already is fine, unless
    /// it leads elsewhere: then the transaction is refused (`Busy`); delete it before, in the same
    /// transaction.
    pub fn add_elements(&mut self, t: Table<'_>, set: &str, elements: &[Element]) {
        self.chunks(ADD_ELEMENTS, t, set, elements, |it, element| element.write(it));
    }

    /// Deletes elements by their keys; all must be there.
    pub fn delete_elements(&mut self, t: Table<'_>, set: &str, keys: &[Vec<u8>]) {
        self.chunks(DELETE_ELEMENTS, t, set, keys, |it, key| set::write_key(it, key));
    }

    fn chunks<T>(
        &mut self,
        request: Request,
        t: Table<'_>,
        set: &str,
        items: &[T],
        write: impl Fn(&mut Writer, &T),
    ) {
        let mut rest = items;
        while !rest.is_empty() {
            let mut written = 0;
            self.push(request, t, set, |it| {
                it.text(NFTA_SET_NAME, set);
                it.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |it| written = some(it, rest, &write));
            });
            rest = rest.get(written..).unwrap_or_default();
        }
    }

    fn push(&mut self, request: Request, t: Table<'_>, name: &str, body: impl FnOnce(&mut Writer)) {
        // Only the last message is acknowledged: not all kernels acknowledge the batch's end.
        if let Some((start, flags)) = self.last {
            self.body.set_flags(start, flags);
        }
        let subject =
            if name == t.name { name.into() } else { format!("{name} of table {}", t.name) };
        self.steps.push(Step { verb: request.verb, subject });
        let flags = NLM_F_REQUEST | request.flags;
        self.last = Some((self.body.position(), flags));
        let sequence = u32::try_from(self.steps.len()).unwrap_or(u32::MAX);
        let kind = NFNL_SUBSYS_NFTABLES << 8 | request.kind;
        self.body.message(kind, flags | NLM_F_ACK, sequence, |it| {
            it.raw(&header(t.family));
            it.text(NFTA_TABLE_NAME, t.name);
            body(it);
        });
    }

    /// Position and deed of the message with this sequence number; `None` for the messages that
    /// begin and end the transaction.
    pub(super) fn step(&self, sequence: u32) -> Option<(usize, String)> {
        let index = usize::try_from(sequence).ok()?.checked_sub(1)?;
        let Step { verb, subject } = self.steps.get(index)?;
        Some((index, format!("{verb} {subject}")))
    }

    /// The batch as it goes to the kernel.
    pub(super) fn parts(&self) -> io::Result<Parts<'_>> {
        let last = u32::try_from(self.steps.len()).unwrap_or(u32::MAX);
        if self.body.oversized() || last > MESSAGES_MAX {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        Ok(Parts {
            begin: limit(NFNL_MSG_BATCH_BEGIN, 0),
            body: self.body.bytes(),
            end: limit(NFNL_MSG_BATCH_END, last + 1),
            last,
        })
    }
}

/// A batch as it goes to the kernel.
pub(super) struct Parts<'a> {
    pub(super) begin: Vec<u8>,
    pub(super) body: &'a [u8],
    pub(super) end: Vec<u8>,
    /// Sequence number of the last message of the body.
    pub(super) last: u32,
}

/// User data of a rule that `nft list` prints as its comment; at most 127 bytes of the text.
pub fn comment(text: &str) -> Vec<u8> {
    let fits = (0..=COMMENT_MAX.min(text.len())).rev().find_map(|end| text.get(..end));
    let text = fits.unwrap_or_default();
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    let mut userdata = vec![NFTNL_UDATA_RULE_COMMENT, length];
    userdata.extend_from_slice(text.as_bytes());
    userdata.push(0);
    userdata
}

/// Writes as many items as one message should have, at least one; gives how many.
fn some<T>(it: &mut Writer, items: &[T], write: impl Fn(&mut Writer, &T)) -> usize {
    let start = it.position();
    let mut written = 0;
    for item in items.iter().take(ELEMENTS_PER_MESSAGE) {
        if it.position() - start > ELEMENT_BYTES_PER_MESSAGE {
            break;
        }
        it.nest(NFTA_LIST_ELEM, |it| write(it, item));
        written += 1;
    }
    written
}

/// What a message does, for errors.
#[derive(Clone, Debug)]
struct Step {
    verb: &'static str,
    subject: String,
}

/// A kind of message.
#[derive(Clone, Copy, Debug)]
struct Request {
    verb: &'static str,
    kind: u16,
    flags: u16,
}

const fn request(verb: &'static str, kind: u16, flags: u16) -> Request {
    Request { verb, kind, flags }
}

const ADD_TABLE: Request = request("add table", 0, NLM_F_CREATE);
const DELETE_TABLE: Request = request("delete table", 2, 0);
const ADD_CHAIN: Request = request("add chain", 3, NLM_F_CREATE);
const DELETE_CHAIN: Request = request("delete chain", 5, 0);
const ADD_RULE: Request = request("add rule to chain", 6, NLM_F_CREATE | NLM_F_APPEND);
const FLUSH_CHAIN: Request = request("flush chain", 8, 0);
const ADD_SET: Request = request("add set", 9, NLM_F_CREATE);
const DELETE_SET: Request = request("delete set", 11, 0);
const ADD_ELEMENTS: Request = request("add elements to set", 12, NLM_F_CREATE);
const DELETE_ELEMENTS: Request = request("delete elements of set", 14, 0);
const ADD_OBJECT: Request = request("add object", 18, NLM_F_CREATE);
const FLUSH_SET: Request = request("flush set", 14, 0);

/// `struct nfgenmsg`: family, version, resource.
pub(super) fn header(family: Family) -> [u8; 4] {
    [family as u8, 0, 0, 0]
}

/// The message that begins or ends a batch: `struct nfgenmsg` with the subsystem as resource.
fn limit(kind: u16, sequence: u32) -> Vec<u8> {
    let mut writer = Writer::default();
    let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    writer.message(kind, NLM_F_REQUEST, sequence, |it| it.raw(&[0, 0, high, low]));
    writer.into_bytes()
}

/// The subsystem in the upper byte of every nftables message's kind.
pub(super) const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;

/// Sequence numbers from 2^31 on belong to single requests.
const MESSAGES_MAX: u32 = 0x7fff_0000;

/// Elements per message. An attribute's length is 16 bits; usual elements are 30 to 100 bytes.
const ELEMENTS_PER_MESSAGE: usize = 500;

/// Bytes of elements per message: the longest element (keys and values of 64 bytes, a chain's
/// name of 255) still fits behind this many.
const ELEMENT_BYTES_PER_MESSAGE: usize = 60_000;

/// User data is at most 256 bytes, and nft's comments at most 128 with the zero at their end.
const COMMENT_MAX: usize = 127;
const NFTNL_UDATA_RULE_COMMENT: u8 = 0;

/// The first attribute of all nftables messages is the table's name.
pub(super) const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFT_TABLE_F_OWNER: u32 = 0x2;
pub(super) const NFTA_CHAIN_NAME: u16 = 3;
pub(super) const NFTA_CHAIN_HOOK: u16 = 4;
pub(super) const NFTA_CHAIN_POLICY: u16 = 5;
pub(super) const NFTA_CHAIN_TYPE: u16 = 7;
pub(super) const NFTA_HOOK_HOOKNUM: u16 = 1;
pub(super) const NFTA_HOOK_PRIORITY: u16 = 2;
const NF_ACCEPT: u32 = 1;
pub(super) const NFTA_RULE_CHAIN: u16 = 2;
pub(super) const NFTA_RULE_EXPRESSIONS: u16 = 4;
pub(super) const NFTA_RULE_USERDATA: u16 = 7;
pub(super) const NFTA_LIST_ELEM: u16 = 1;
pub(super) const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_ID: u16 = 10;
pub(super) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_OBJ_NAME: u16 = 2;
const NFTA_OBJ_TYPE: u16 = 3;
const NFTA_OBJ_DATA: u16 = 4;
const NFTA_CT_TIMEOUT_L4PROTO: u16 = 2;
const NFTA_CT_TIMEOUT_DATA: u16 = 3;
const CTA_TIMEOUT_TCP_CLOSE_WAIT: u16 = 5;
const IPPROTO_TCP: u8 = 6;
