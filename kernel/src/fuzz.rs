//! The readers of this crate behind one function, for fuzzing.
//!
//! Always true here: whatever the bytes, reading ends, panics nowhere, and finds no more than
//! stands in them. The kernel is trusted, but its replies grow with its versions, and containers
//! choose names and addresses that stand in them.

use std::collections::BTreeMap;

use crate::netlink::wire::Messages;
use crate::{conntrack, neighbour, nft, route, rule, sock_diag};

/// Reads `bytes` as replies of every kind that this crate understands; gives how many things were
/// found, at most as many as there are bytes.
pub fn read_replies(bytes: &[u8]) -> usize {
    let names = BTreeMap::from([(1, "lo".to_owned())]);
    Messages::new(bytes)
        .map(|message| {
            usize::from(message.errno().is_some())
                + usize::from(message.explanation().is_some())
                + usize::from(conntrack::Entry::read(&message).is_some())
                + usize::from(route::read_route(&message, &names).is_some())
                + usize::from(route::read_address(&message, &names).is_some())
                + usize::from(route::read_device(&message).is_some())
                + usize::from(neighbour::matters(&message))
                + usize::from(sock_diag::Connected::read(&message).is_some())
                + usize::from(nft::is_change_of(&message, "t", 1))
                + usize::from(neighbour::read_entry(&message).is_some())
                + usize::from(rule::read_rule(&message).is_some())
                + usize::from(rule::read_table_route(&message, &names).is_some())
                + nft::read_any(&message)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::netlink::wire::Writer;

    /// Attributes in attributes, a few levels deep, of the types that mean something.
    #[derive(Clone, Debug)]
    enum Attribute {
        Value(u16, Vec<u8>),
        Nest(u16, Vec<Self>),
    }

    fn attribute() -> impl Strategy<Value = Attribute> {
        let value = (0..20_u16, vec(any::<u8>(), 0..20)).prop_map(|(a, b)| Attribute::Value(a, b));
        value.prop_recursive(4, 64, 8, |inner| {
            (0..20_u16, vec(inner, 0..8)).prop_map(|(a, b)| Attribute::Nest(a, b))
        })
    }

    fn write(it: &mut Writer, attribute: &Attribute) {
        match attribute {
            Attribute::Value(kind, value) => it.attribute(*kind, value),
            Attribute::Nest(kind, inner) => {
                it.nest(*kind, |it| inner.iter().for_each(|one| write(it, one)));
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            prop_assert!(read_replies(&bytes) <= bytes.len());
        }

        #[test]
        fn any_well_formed_reply_is_read_without_a_panic(
            (kind, flags) in (prop_oneof![2..4_u16, 16..30_u16, 256..258_u16, 2560..2580_u16], any::<u16>()),
            (header, attributes) in (0..20_usize, vec(attribute(), 0..12)),
            (cut, place, byte) in (0..8_usize, any::<usize>(), any::<u8>()),
        ) {
            let mut writer = Writer::default();
            writer.message(kind, flags, 1, |it| {
                it.raw(&vec![2; header.next_multiple_of(4)]);
                for one in &attributes {
                    write(it, one);
                }
            });
            let mut bytes = writer.into_bytes();
            prop_assert!(read_replies(&bytes) <= bytes.len());
            // One byte wrong, and the end missing.
            let place = place % bytes.len();
            bytes[place] = byte;
            bytes.truncate(bytes.len() - cut);
            prop_assert!(read_replies(&bytes) <= bytes.len());
        }

        #[test]
        fn what_is_written_reads_back(attributes in vec((0..20_u16, vec(any::<u8>(), 0..40)), 0..9)) {
            let mut writer = Writer::default();
            for number in 0..3 {
                writer.message(7, 0, number, |it| {
                    for (kind, value) in &attributes {
                        it.attribute(*kind, value);
                    }
                });
            }
            let messages: Vec<_> = Messages::new(writer.bytes()).collect();
            prop_assert_eq!(messages.len(), 3);
            for message in messages {
                let found: Vec<_> = message.attributes(0).map(|(a, b)| (a, b.to_vec())).collect();
                prop_assert_eq!(&found, &attributes);
            }
        }
    }
}
