//! The form of netlink messages: writing them, and reading what the kernel (or anybody) sent.
//!
//! Always true here: reading is total. Every length is checked against what is really there; what
//! does not fit ends the iteration, nothing panics, and nothing loops without moving forward.
//! Writing is total too: what is too long for a 16-bit attribute length marks the whole as
//! [`Writer::oversized`] and is refused before it is sent.

/// Bytes of a netlink message header (`struct nlmsghdr`).
pub(crate) const HEADER: usize = 16;

/// Answers to requests: an error code, zero for "done".
pub(crate) const NLMSG_ERROR: u16 = 2;
/// The end of a dump.
pub(crate) const NLMSG_DONE: u16 = 3;

/// A request (every message that we send).
pub(crate) const NLM_F_REQUEST: u16 = 0x1;
/// The receiver is to acknowledge.
pub(crate) const NLM_F_ACK: u16 = 0x4;
/// The table changed while it was dumped.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// List everything.
pub(crate) const NLM_F_DUMP: u16 = 0x300;
/// Replace what exists.
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
/// Refuse where it exists.
pub(crate) const NLM_F_EXCL: u16 = 0x200;
/// Make it where it does not exist.
pub(crate) const NLM_F_CREATE: u16 = 0x400;
/// Put it at the end.
pub(crate) const NLM_F_APPEND: u16 = 0x800;

/// In an acknowledgement: attributes with an explanation follow.
const NLM_F_ACK_TLVS: u16 = 0x200;
/// In an acknowledgement: the request is not quoted.
const NLM_F_CAPPED: u16 = 0x100;
/// The explanation, a text.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Marks attributes that contain attributes.
const NLA_F_NESTED: u16 = 0x8000;
/// The bits of an attribute's type that are the type.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// Everything in netlink starts at a multiple of four.
const fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
}

/// Writes messages one after another.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
    oversized: bool,
}

impl Writer {
    /// What was written.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What was written, to keep.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Where the next message will begin.
    pub(crate) fn position(&self) -> usize {
        self.bytes.len()
    }

    /// Whether something written did not fit its length field.
    pub(crate) fn oversized(&self) -> bool {
        self.oversized
    }

    /// Writes one message; `body` writes what follows the header.
    pub(crate) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        sequence: u32,
        body: impl FnOnce(&mut Self),
    ) {
        let start = self.bytes.len();
        self.raw(&[0; 4]);
        self.raw(&kind.to_ne_bytes());
        self.raw(&flags.to_ne_bytes());
        self.raw(&sequence.to_ne_bytes());
        self.raw(&[0; 4]);
        body(self);
        let length = u32::try_from(self.bytes.len() - start).unwrap_or_else(|_| {
            self.oversized = true;
            0
        });
        self.patch(start, &length.to_ne_bytes());
    }

    /// Changes the flags of the message that begins at `start`.
    pub(crate) fn set_flags(&mut self, start: usize, flags: u16) {
        self.patch(start + 6, &flags.to_ne_bytes());
    }

    /// Writes bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Writes an attribute.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.attribute_of(kind, |it| it.raw(value));
    }

    /// Writes a text attribute, ended with a zero byte.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        self.attribute_of(kind, |it| {
            it.raw(value.as_bytes());
            it.raw(&[0]);
        });
    }

    /// Writes a 32-bit attribute in network order, as netfilter's are.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// Writes a 32-bit attribute in the host's order, as rtnetlink's are.
    pub(crate) fn ne32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// Writes an attribute that contains attributes.
    pub(crate) fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) {
        self.attribute_of(kind | NLA_F_NESTED, inner);
    }

    fn attribute_of(&mut self, kind: u16, value: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.raw(&[0; 2]);
        self.raw(&kind.to_ne_bytes());
        value(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or_else(|_| {
            self.oversized = true;
            0
        });
        self.patch(start, &length.to_ne_bytes());
        self.bytes.resize(aligned(self.bytes.len()), 0);
    }

    fn patch(&mut self, at: usize, value: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
    }
}

/// One message as received.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Message<'a> {
    /// What it says; for netfilter the subsystem in the upper byte.
    pub(crate) kind: u16,
    /// `NLM_F_*`.
    pub(crate) flags: u16,
    /// Which request it answers.
    pub(crate) sequence: u32,
    /// Whose request that was: the port of the socket that made it; 0 for the kernel.
    pub(crate) port: u32,
    /// What follows the header.
    pub(crate) body: &'a [u8],
}

impl<'a> Message<'a> {
    /// Whether what is being dumped changed meanwhile.
    pub(crate) fn interrupted(&self) -> bool {
        self.flags & NLM_F_DUMP_INTR != 0
    }

    /// The errno of an acknowledgement or of a dump's end: zero is success. `None` where the
    /// message is neither or too short.
    pub(crate) fn errno(&self) -> Option<i32> {
        if self.kind != NLMSG_ERROR && self.kind != NLMSG_DONE {
            return None;
        }
        read_i32(self.body).map(i32::saturating_neg)
    }

    /// What the kernel says in words beside an errno; often nothing.
    pub(crate) fn explanation(&self) -> Option<&'a str> {
        if self.kind != NLMSG_ERROR || self.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        let quoted = self.body.get(4..)?;
        let skip = if self.flags & NLM_F_CAPPED != 0 {
            HEADER
        } else {
            aligned(usize::try_from(read_u32(quoted)?).ok()?)
        };
        Attributes::new(quoted.get(skip..)?).text(NLMSGERR_ATTR_MSG)
    }

    /// The attributes behind a family header of `skip` bytes.
    pub(crate) fn attributes(&self, skip: usize) -> Attributes<'a> {
        Attributes::new(self.body.get(skip..).unwrap_or_default())
    }
}

/// The messages of one received datagram; ends at the first that does not fit.
#[derive(Clone, Debug)]
pub(crate) struct Messages<'a>(&'a [u8]);

impl<'a> Messages<'a> {
    /// Reads `bytes` as messages.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let rest = self.0;
        let length = usize::try_from(read_u32(rest)?).ok()?;
        let message = Message {
            kind: read_u16(rest.get(4..)?)?,
            flags: read_u16(rest.get(6..)?)?,
            sequence: read_u32(rest.get(8..)?)?,
            port: read_u32(rest.get(12..)?)?,
            body: rest.get(HEADER..length)?,
        };
        self.0 = rest.get(aligned(length)..).unwrap_or_default();
        Some(message)
    }
}

/// Attributes one after another; ends at the first that does not fit.
#[derive(Clone, Debug)]
pub(crate) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// Reads `bytes` as attributes.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The value of the first attribute of this type.
    pub(crate) fn get(&self, kind: u16) -> Option<&'a [u8]> {
        let mut all = self.clone();
        all.find_map(|(found, value)| (found == kind).then_some(value))
    }

    /// The attributes inside the first attribute of this type; none where it is missing.
    pub(crate) fn nested(&self, kind: u16) -> Self {
        Self(self.get(kind).unwrap_or_default())
    }

    /// A text, without the zero byte that ends it. `None` where it is missing or not UTF-8.
    pub(crate) fn text(&self, kind: u16) -> Option<&'a str> {
        let value = self.get(kind)?;
        let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
        std::str::from_utf8(value.get(..end)?).ok()
    }

    /// A 32-bit number in network order.
    pub(crate) fn be32(&self, kind: u16) -> Option<u32> {
        self.get(kind)?.first_chunk().copied().map(u32::from_be_bytes)
    }

    /// A 64-bit number in network order.
    pub(crate) fn be64(&self, kind: u16) -> Option<u64> {
        self.get(kind)?.first_chunk().copied().map(u64::from_be_bytes)
    }

    /// A 16-bit number in network order.
    pub(crate) fn be16(&self, kind: u16) -> Option<u16> {
        self.get(kind)?.first_chunk().copied().map(u16::from_be_bytes)
    }

    /// A 32-bit number in the host's order.
    pub(crate) fn ne32(&self, kind: u16) -> Option<u32> {
        read_u32(self.get(kind)?)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let rest = self.0;
        let length = usize::from(read_u16(rest)?);
        let kind = read_u16(rest.get(2..)?)? & NLA_TYPE_MASK;
        let value = rest.get(4..length)?;
        self.0 = rest.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    }
}

fn read_u16(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().copied().map(u16::from_ne_bytes)
}

fn read_u32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_ne_bytes)
}

fn read_i32(bytes: &[u8]) -> Option<i32> {
    bytes.first_chunk().copied().map(i32::from_ne_bytes)
}
