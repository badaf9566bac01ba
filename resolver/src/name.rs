//! DNS names: the octets on the wire, and the one normal form in which they are compared.
//!
//! Invariants
//! - *whole*: a [`Name`] is 1 to 255 octets of well-formed labels and ends with the root's zero
//!   octet (RFC 1035 section 3.1); it holds no compression pointer;
//! - *kept*: its octets are those received, case included (RFC 4343 section 4.1);
//! - *one key*: two names are the same name exactly when their keys are equal. Only ASCII letters
//!   fold; an octet that no name in the registry can hold unescaped is `\DDD`, a dot inside a
//!   label too, so that `a\.b` is never taken for `a.b`.

use std::fmt;
use std::net::IpAddr;

/// Longest name on the wire, in octets, the root's included (RFC 1035 section 2.3.4).
const LONGEST_NAME: usize = 255;
/// Longest label, in octets (RFC 1035 section 2.3.4).
const LONGEST_LABEL: usize = 63;

/// A DNS name as octets on the wire.
#[derive(Clone, Eq, PartialEq, Ord, PartialOrd)]
pub struct Name(Box<[u8]>);

/// Why octets are no name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadName {
    /// The octets end before the name does.
    #[error("the name is cut short")]
    Cut,
    /// A pointer, or one of the label types that were never assigned.
    #[error("the name holds a compression pointer or a label of unknown type")]
    LabelType,
    /// More than 255 octets.
    #[error("the name is longer than 255 octets")]
    TooLong,
    /// Text with an empty label or one longer than 63 octets.
    #[error("a label of the name is empty or longer than 63 octets")]
    Label,
}

impl Name {
    /// Reads an uncompressed name from the start of `octets`.
    pub fn from_wire(octets: &[u8]) -> Result<Self, BadName> {
        let mut end = 0;
        loop {
            let length = usize::from(*octets.get(end).ok_or(BadName::Cut)?);
            if length > LONGEST_LABEL {
                return Err(BadName::LabelType);
            }
            end += 1 + length;
            if end > LONGEST_NAME {
                return Err(BadName::TooLong);
            }
            if length == 0 {
                return octets.get(..end).map(|it| Self(it.into())).ok_or(BadName::Cut);
            }
        }
    }

    /// The name that `text` means: labels between dots, no escapes, one trailing dot allowed.
    pub fn from_text(text: &str) -> Result<Self, BadName> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let mut wire = Vec::with_capacity(text.len() + 2);
        if !text.is_empty() {
            for label in text.split('.') {
                let length = u8::try_from(label.len()).unwrap_or(u8::MAX);
                if length == 0 || usize::from(length) > LONGEST_LABEL {
                    return Err(BadName::Label);
                }
                wire.push(length);
                wire.extend_from_slice(label.as_bytes());
            }
        }
        wire.push(0);
        if wire.len() > LONGEST_NAME {
            return Err(BadName::TooLong);
        }
        Ok(Self(wire.into()))
    }

    /// Its octets, the root's included.
    pub fn wire(&self) -> &[u8] {
        &self.0
    }

    /// Its labels, leftmost first, without the root.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest: &[u8] = &self.0;
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first()?;
            let (label, after) = after.split_at_checked(usize::from(*length))?;
            rest = after;
            Some(label).filter(|it| !it.is_empty())
        })
    }

    /// Its normal form; empty for the root.
    pub fn key(&self) -> String {
        let mut key = String::with_capacity(self.0.len());
        for label in self.labels() {
            if !key.is_empty() {
                key.push('.');
            }
            for octet in label {
                push_octet(&mut key, *octet, Dots::Escaped);
            }
        }
        key
    }
}

/// The reverse name of `address` on the wire, without the root (RFC 1035 section 3.5, RFC 3596
/// section 2.5).
pub(crate) fn reverse_wire(address: IpAddr) -> Vec<u8> {
    let mut wire = Vec::with_capacity(74);
    match address {
        IpAddr::V4(address) => {
            for octet in address.octets().into_iter().rev() {
                let length = match octet {
                    0..10 => 1,
                    10..100 => 2,
                    100.. => 3,
                };
                wire.push(length);
                let digits = [octet / 100, octet / 10 % 10, octet % 10].map(|it| b'0' + it);
                wire.extend_from_slice(digits.get(3 - usize::from(length)..).unwrap_or_default());
            }
            wire.extend_from_slice(b"\x07in-addr");
        }
        IpAddr::V6(address) => {
            for octet in address.octets().into_iter().rev() {
                for nibble in [octet & 15, octet >> 4] {
                    let digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
                    wire.extend_from_slice(&[1, digit]);
                }
            }
            wire.extend_from_slice(b"\x03ip6");
        }
    }
    wire.extend_from_slice(b"\x04arpa");
    wire
}

/// The normal form of a name written in the registry, where every dot separates labels.
pub fn key(text: &str) -> String {
    let text = text.strip_suffix('.').unwrap_or(text);
    let mut key = String::with_capacity(text.len());
    for octet in text.bytes() {
        push_octet(&mut key, octet, Dots::Separate);
    }
    key
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(self.0.len());
        for label in self.labels() {
            for octet in label {
                if octet.is_ascii_uppercase() {
                    text.push(char::from(*octet));
                } else {
                    push_octet(&mut text, *octet, Dots::Escaped);
                }
            }
            text.push('.');
        }
        f.write_str(if text.is_empty() { "." } else { &text })
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({self})")
    }
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Dots {
    Separate,
    Escaped,
}

fn push_octet(key: &mut String, octet: u8, dots: Dots) {
    let plain = octet.is_ascii_graphic() && octet != b'\\';
    if plain && (octet != b'.' || dots == Dots::Separate) {
        key.push(char::from(octet.to_ascii_lowercase()));
    } else {
        key.push('\\');
        for digit in [octet / 100, octet / 10 % 10, octet % 10] {
            key.push(char::from(b'0' + digit));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reverse_names_are_the_address_backwards() {
        let name = |address: &str| {
            let wire = [reverse_wire(address.parse().unwrap()), vec![0]].concat();
            Name::from_wire(&wire).unwrap().key()
        };
        assert_eq!(name("10.0.213.7"), "7.213.0.10.in-addr.arpa");
        assert_eq!(name("fd00::1f"), format!("f.1.{}0.0.d.f.ip6.arpa", "0.".repeat(26)));
    }

    #[test]
    fn case_folds_for_ascii_only() {
        assert_eq!(key("Shop_WEB.Ä."), r"shop_web.\195\132");
        assert_eq!(Name::from_text("WwW.eX").unwrap().key(), "www.ex");
        assert_eq!(Name::from_text("WwW.eX").unwrap().to_string(), "WwW.eX.");
    }

    #[test]
    fn a_dot_inside_a_label_is_no_separator() {
        let name = Name::from_wire(b"\x03a.b\0").unwrap();
        assert_eq!(name.key(), r"a\046b");
        assert_ne!(name.key(), key("a.b"));
    }

    #[test]
    fn pointers_long_labels_and_cut_names_are_refused() {
        assert_eq!(Name::from_wire(b"\xc0\x0c"), Err(BadName::LabelType));
        assert_eq!(Name::from_wire(b"\x40aaaa"), Err(BadName::LabelType));
        assert_eq!(Name::from_wire(b"\x03ab"), Err(BadName::Cut));
        assert_eq!(Name::from_wire(b""), Err(BadName::Cut));
        assert_eq!(Name::from_wire(&[1; 600]), Err(BadName::TooLong));
        assert_eq!(Name::from_text("a..b"), Err(BadName::Label));
        assert_eq!(Name::from_text(&"x".repeat(64)), Err(BadName::Label));
        assert_eq!(Name::from_text(&"x.".repeat(130)), Err(BadName::TooLong));
        assert_eq!(Name::from_text("").unwrap().wire(), b"\0");
    }

    proptest! {
        #[test]
        fn text_and_wire_give_the_same_key(text in r"[a-zA-Z0-9_ä\\ -]{1,15}(\.[a-zA-Z0-9_-]{1,15}){0,4}") {
            let name = Name::from_text(&text).unwrap();
            prop_assert_eq!(name.key(), key(&text));
            prop_assert_eq!(Name::from_wire(name.wire()), Ok(name));
        }

        #[test]
        fn any_octets_are_a_name_or_refused(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(name) = Name::from_wire(&octets) {
                prop_assert!(octets.starts_with(name.wire()));
                prop_assert!(name.key().is_ascii());
            }
        }
    }
}
