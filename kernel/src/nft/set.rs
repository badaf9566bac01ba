//! Sets and maps: what their keys are made of, what they lead to, and their elements.
//!
//! Always true here: keys and values are bytes as they stand in the kernel's registers, addresses
//! and ports in network order, numbers in the host's; in a concatenation each part is padded with
//! zeroes to a multiple of four bytes.

use std::time::Duration;

use crate::netlink::wire::{Attributes, Writer};

/// A set, or a map where `value` says so.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SetSpec<'a> {
    /// At most 255 bytes, unique within the table.
    pub name: &'a str,
    /// What its keys are made of; concatenated when more than one, each part padded to 4 bytes.
    pub key: &'a [KeyType],
    /// What a key leads to.
    pub value: SetValue,
    /// Whether elements may have a time-out.
    pub timeout: bool,
    /// The most elements it may have. Given, loading is several times faster; adding more is
    /// refused (`ENFILE`).
    pub size: Option<u32>,
}

/// What a set's key leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SetValue {
    /// Nothing: a plain set.
    None,
    /// A value, loaded by [`Expr::Lookup`](crate::nft::Expr::Lookup).
    Data(KeyType),
    /// Two values after each other, each padded to 4 bytes, e.g. address and port.
    Pair(KeyType, KeyType),
    /// A verdict, taken by [`Expr::LookupVerdict`](crate::nft::Expr::LookupVerdict).
    Verdict,
}

/// Type of (a part of) a key or value: how long it is, and how `nft list` prints it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyType {
    /// 4 bytes, network order.
    Ipv4Addr,
    /// 16 bytes, network order.
    Ipv6Addr,
    /// 6 bytes (8 in a concatenation).
    EtherAddr,
    /// IP protocol number, 1 byte (4 in a concatenation: the number, then zeroes).
    InetProto,
    /// Port, 2 bytes in network order (4 in a concatenation: the port, then zeroes).
    InetService,
    /// A 32-bit number in the host's order: packet marks, and what [`Expr::Numgen`](crate::nft::Expr::Numgen) and
    /// [`Expr::Jhash`](crate::nft::Expr::Jhash) give.
    Mark,
    /// Interface name, 16 bytes ended with zeroes.
    IfName,
}

/// One element of a set or map.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct Element {
    /// As [`SetSpec::key`] says; [`concat()`] pads the parts.
    pub key: Vec<u8>,
    /// As [`SetSpec::value`] says.
    pub value: ElementValue,
    /// How long it stays, from the commit on; whole milliseconds. Only in sets with time-outs.
    /// Read back, it is this time, not what remains of it.
    pub timeout: Option<Duration>,
}

/// What an element leads to.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum ElementValue {
    /// Nothing: an element of a plain set.
    None,
    /// A value.
    Data(Vec<u8>),
    /// A verdict.
    Verdict(Verdict),
}

/// What becomes of a packet.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Verdict {
    /// It goes on to the next base chain.
    Accept,
    /// It is thrown away.
    Drop,
    /// Back to the calling chain.
    Return,
    /// To another chain, and back.
    Jump(String),
    /// To another chain, not back.
    Goto(String),
}

/// Puts the parts of a concatenated key or value together, each padded to 4 bytes.
pub fn concat(parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(parts.iter().map(|part| padded(part.len())).sum());
    for part in parts {
        key.extend_from_slice(part);
        key.resize(padded(key.len()), 0);
    }
    key
}

impl SetSpec<'_> {
    /// Writes what the set is, after its table and name.
    pub(super) fn write(&self, it: &mut Writer, dynamic: bool) {
        let is_map = if self.value == SetValue::None { 0 } else { NFT_SET_MAP };
        let has_timeout = if self.timeout { NFT_SET_TIMEOUT } else { 0 };
        let changes = if dynamic { NFT_SET_EVAL } else { 0 };
        it.be32(NFTA_SET_FLAGS, is_map | has_timeout | changes);
        it.be32(NFTA_SET_KEY_TYPE, type_number(self.key));
        it.be32(NFTA_SET_KEY_LEN, length(self.key));
        match self.value {
            SetValue::None => {}
            SetValue::Data(one) => write_data_type(it, &[one]),
            SetValue::Pair(first, second) => write_data_type(it, &[first, second]),
            SetValue::Verdict => it.be32(NFTA_SET_DATA_TYPE, NFT_DATA_VERDICT),
        }
        if let Some(size) = self.size {
            it.nest(NFTA_SET_DESC, |it| it.be32(NFTA_SET_DESC_SIZE, size));
        }
        let userdata = self.userdata();
        if !userdata.is_empty() {
            it.attribute(NFTA_SET_USERDATA, &userdata);
        }
    }

    /// The kernel does not care about byte order; the nft program prints a number in the host's
    /// order backwards unless it finds this note beside the set.
    fn userdata(&self) -> Vec<u8> {
        let alone = match self.key {
            [one] => Some(*one),
            _ => None, // in concatenations it takes each part's own order
        };
        let data = match self.value {
            SetValue::Data(one) => Some(one),
            SetValue::None | SetValue::Pair(..) | SetValue::Verdict => None,
        };
        let notes = [(NFTNL_UDATA_SET_KEYBYTEORDER, alone), (NFTNL_UDATA_SET_DATABYTEORDER, data)];
        let in_host_order = notes.iter().filter(|(_, part)| *part == Some(KeyType::Mark));
        in_host_order.flat_map(|(note, _)| udata_u32(*note, BYTEORDER_HOST_ENDIAN)).collect()
    }
}

/// One note of libnftnl's: its number, its length, its value.
fn udata_u32(note: u8, value: u32) -> impl Iterator<Item = u8> {
    [note, 4].into_iter().chain(value.to_ne_bytes())
}

impl KeyType {
    /// Length in bytes where it stands alone.
    fn length(self) -> usize {
        match self {
            Self::InetProto => 1,
            Self::InetService => 2,
            Self::Ipv4Addr | Self::Mark => 4,
            Self::EtherAddr => 6,
            Self::Ipv6Addr | Self::IfName => 16,
        }
    }

    /// The nft program's number (`enum datatypes`), from which it knows how to print.
    fn number(self) -> u32 {
        match self {
            Self::Ipv4Addr => 7,
            Self::Ipv6Addr => 8,
            Self::EtherAddr => 9,
            Self::InetProto => 12,
            Self::InetService => 13,
            Self::Mark => 19,
            Self::IfName => 41,
        }
    }
}

impl Element {
    /// Writes the element's attributes.
    pub(super) fn write(&self, it: &mut Writer) {
        write_key(it, &self.key);
        match &self.value {
            ElementValue::None => {}
            ElementValue::Data(data) => {
                it.nest(NFTA_SET_ELEM_DATA, |it| it.attribute(NFTA_DATA_VALUE, data));
            }
            ElementValue::Verdict(verdict) => {
                it.nest(NFTA_SET_ELEM_DATA, |it| verdict.write(it));
            }
        }
        if let Some(timeout) = self.timeout {
            let milliseconds = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            it.attribute(NFTA_SET_ELEM_TIMEOUT, &milliseconds.to_be_bytes());
        }
    }

    /// Reads the attributes of one element; `None` where it has no key, as catch-all ones.
    pub(super) fn read(attributes: &Attributes<'_>) -> Option<Self> {
        let key = attributes.nested(NFTA_SET_ELEM_KEY).get(NFTA_DATA_VALUE)?.to_vec();
        let data = attributes.nested(NFTA_SET_ELEM_DATA);
        let value = match (data.get(NFTA_DATA_VALUE), Verdict::read(&data)) {
            (Some(bytes), _) => ElementValue::Data(bytes.to_vec()),
            (None, Some(verdict)) => ElementValue::Verdict(verdict),
            (None, None) => ElementValue::None,
        };
        let timeout = attributes.be64(NFTA_SET_ELEM_TIMEOUT).map(Duration::from_millis);
        Some(Self { key, value, timeout })
    }
}

impl Verdict {
    /// Writes the verdict as data (`NFTA_DATA_VERDICT`).
    pub(super) fn write(&self, it: &mut Writer) {
        let (code, chain) = match self {
            Self::Drop => (0, None),
            Self::Accept => (1, None),
            Self::Return => (NFT_RETURN, None),
            Self::Jump(chain) => (NFT_JUMP, Some(chain)),
            Self::Goto(chain) => (NFT_GOTO, Some(chain)),
        };
        it.nest(NFTA_DATA_VERDICT, |it| {
            it.attribute(NFTA_VERDICT_CODE, &code.to_be_bytes());
            if let Some(chain) = chain {
                it.text(NFTA_VERDICT_CHAIN, chain);
            }
        });
    }

    fn read(data: &Attributes<'_>) -> Option<Self> {
        let verdict = data.nested(NFTA_DATA_VERDICT);
        let code = verdict.get(NFTA_VERDICT_CODE)?.first_chunk().copied()?;
        let chain = || verdict.text(NFTA_VERDICT_CHAIN).map(str::to_owned);
        match i32::from_be_bytes(code) {
            0 => Some(Self::Drop),
            1 => Some(Self::Accept),
            NFT_RETURN => Some(Self::Return),
            NFT_JUMP => chain().map(Self::Jump),
            NFT_GOTO => chain().map(Self::Goto),
            _ => None,
        }
    }
}

/// Writes an element's key.
pub(super) fn write_key(it: &mut Writer, key: &[u8]) {
    it.nest(NFTA_SET_ELEM_KEY, |it| it.attribute(NFTA_DATA_VALUE, key));
}

fn write_data_type(it: &mut Writer, types: &[KeyType]) {
    it.be32(NFTA_SET_DATA_TYPE, type_number(types));
    it.be32(NFTA_SET_DATA_LEN, length(types));
}

/// How many bytes the kernel compares: alone a part is not padded.
fn length(types: &[KeyType]) -> u32 {
    let bytes = match types {
        [one] => one.length(),
        many => many.iter().map(|one| padded(one.length())).sum(),
    };
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// nft numbers a concatenation with six bits for each part.
fn type_number(types: &[KeyType]) -> u32 {
    types.iter().fold(0, |number, one| number << 6 | one.number())
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}

const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DATA_TYPE: u16 = 6;
const NFTA_SET_DATA_LEN: u16 = 7;
const NFTA_SET_DESC: u16 = 9;
const NFTA_SET_DESC_SIZE: u16 = 1;
const NFTA_SET_USERDATA: u16 = 13;
const NFTNL_UDATA_SET_KEYBYTEORDER: u8 = 0;
const NFTNL_UDATA_SET_DATABYTEORDER: u8 = 1;
const BYTEORDER_HOST_ENDIAN: u32 = 1;
const NFT_SET_MAP: u32 = 0x8;
const NFT_SET_TIMEOUT: u32 = 0x10;
const NFT_SET_EVAL: u32 = 0x20;
const NFT_DATA_VERDICT: u32 = 0xffff_ff00;

const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_TIMEOUT: u16 = 4;

/// A value inside data.
pub(super) const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
const NFT_JUMP: i32 = -3;
const NFT_GOTO: i32 = -4;
const NFT_RETURN: i32 = -5;
