//! nftables messages: tables, chains, sets, elements and the expressions of rules.
//!
//! Only what the table of [`crate::firewall`] needs; numbers are those of
//! `linux/netfilter/nf_tables.h`.

use crate::netlink::{APPEND, Attributes, Batch, CREATE};

const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const NEW_RULE: u16 = SUBSYSTEM | 6;
pub(crate) const GET_RULE: u16 = SUBSYSTEM | 7;
const DELETE_RULE: u16 = SUBSYSTEM | 8;
const NEW_SET: u16 = SUBSYSTEM | 9;
const NEW_ELEMENT: u16 = SUBSYSTEM | 12;
const GET_ELEMENT: u16 = SUBSYSTEM | 13;
const DELETE_ELEMENT: u16 = SUBSYSTEM | 14;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// A list of elements is one attribute (64 KiB), and a refusal of it fits one answer.
const ELEMENTS_IN_MESSAGE: usize = 200;

/// Address family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// Both families at once: ours.
    Inet = 1,
    /// IPv4: where `iptables` keeps its rules.
    Ipv4 = 2,
    /// IPv6: where `ip6tables` keeps its rules.
    Ipv6 = 10,
}

/// `struct nfgenmsg`.
pub(crate) fn header(family: Family) -> [u8; 4] {
    [family as u8, 0, 0, 0]
}

/// First 32-bit register.
pub(crate) const R0: u32 = 8;
/// Second.
pub(crate) const R1: u32 = 9;
/// Third.
pub(crate) const R2: u32 = 10;
/// Fifth: where a second 16-byte value goes.
pub(crate) const R4: u32 = 12;
/// Sixth.
pub(crate) const R5: u32 = 13;

/// Keys of the `meta` expression.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Meta {
    /// Name of the incoming interface (16 bytes).
    InName = 6,
    /// Name of the outgoing interface (16 bytes).
    OutName = 7,
    /// Family of the packet (1 byte).
    Family = 15,
    /// Transport (1 byte).
    Transport = 16,
}

/// Comparison of a register with a constant.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Compare {
    /// Equal.
    Is = 0,
    /// Not equal.
    Not = 1,
}

/// What a rule or chain does with a packet.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Verdict<'a> {
    /// Drops it.
    Drop,
    /// Ends this base chain.
    Accept,
    /// Continues in another chain and comes back.
    Jump(&'a str),
}

/// An interface name as the kernel compares it.
pub(crate) fn interface(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (slot, byte) in bytes.iter_mut().take(15).zip(name.bytes()) {
        *slot = byte;
    }
    bytes
}

/// Expressions of one rule, in order.
#[derive(Debug, Default)]
pub(crate) struct Rule(Vec<u8>);

impl Rule {
    fn expression(mut self, name: &str, data: impl FnOnce(&mut Attributes<'_>)) -> Self {
        const ELEMENT: u16 = 1;
        Attributes::new(&mut self.0).nest(ELEMENT, |element| {
            element.text(1, name).nest(2, data);
        });
        self
    }

    /// Loads packet metadata into a register.
    pub(crate) fn meta(self, key: Meta, register: u32) -> Self {
        self.expression("meta", |data| {
            data.be32(1, register).be32(2, key as u32);
        })
    }

    /// Loads bytes of the network header.
    pub(crate) fn network(self, offset: u32, length: u32, register: u32) -> Self {
        self.payload(1, offset, length, register)
    }

    /// Loads the destination port.
    pub(crate) fn destination_port(self, register: u32) -> Self {
        self.payload(2, 2, 2, register)
    }

    fn payload(self, base: u32, offset: u32, length: u32, register: u32) -> Self {
        self.expression("payload", |data| {
            data.be32(1, register).be32(2, base).be32(3, offset).be32(4, length);
        })
    }

    /// Goes on only if the register compares as said.
    pub(crate) fn compare(self, register: u32, compare: Compare, value: &[u8]) -> Self {
        self.expression("cmp", |data| {
            data.be32(1, register).be32(2, compare as u32).nest(3, |inner| {
                inner.bytes(1, value);
            });
        })
    }

    /// Masks a register in place.
    pub(crate) fn mask(self, register: u32, mask: &[u8]) -> Self {
        let length = u32::try_from(mask.len()).expect("masks are short");
        let zero = vec![0; mask.len()];
        self.expression("bitwise", |data| {
            data.be32(1, register).be32(2, register).be32(3, length);
            data.nest(4, |inner| {
                inner.bytes(1, mask);
            });
            data.nest(5, |inner| {
                inner.bytes(1, &zero);
            });
        })
    }

    /// Goes on only if the register's value is in the set.
    pub(crate) fn member(self, set: &str, register: u32) -> Self {
        self.expression("lookup", |data| {
            data.text(1, set).be32(2, register);
        })
    }

    /// Goes on only if the register's value is not in the set.
    pub(crate) fn no_member(self, set: &str, register: u32) -> Self {
        self.expression("lookup", |data| {
            data.text(1, set).be32(2, register).be32(5, 1);
        })
    }

    /// Replaces the key in `register` by the map's value, or ends the rule.
    pub(crate) fn map(self, set: &str, register: u32) -> Self {
        self.expression("lookup", |data| {
            data.text(1, set).be32(2, register).be32(3, register);
        })
    }

    /// Goes on only if the destination is an address of this machine.
    pub(crate) fn destination_is_local(self) -> Self {
        const RESULT_TYPE: u32 = 3;
        const BY_DESTINATION: u32 = 2;
        const LOCAL: u32 = 2;
        self.expression("fib", |data| {
            data.be32(1, R0).be32(2, RESULT_TYPE).be32(3, BY_DESTINATION);
        })
        .compare(R0, Compare::Is, &LOCAL.to_ne_bytes())
    }

    /// Goes on only if the connection's state is one of the bits.
    pub(crate) fn connection_state(self, bits: u32) -> Self {
        self.connection(0, bits)
    }

    /// Goes on only if the connection was redirected by a destination translation.
    pub(crate) fn redirected(self) -> Self {
        self.connection(2, 1 << 5)
    }

    fn connection(self, key: u32, bits: u32) -> Self {
        self.expression("ct", |data| {
            data.be32(1, R0).be32(2, key);
        })
        .mask(R0, &bits.to_ne_bytes())
        .compare(R0, Compare::Not, &[0; 4])
    }

    /// Redirects to address and port in registers.
    pub(crate) fn redirect(self, family: Family, address: u32, port: u32) -> Self {
        self.expression("nat", |data| {
            data.be32(1, 1).be32(2, family as u32).be32(3, address).be32(5, port);
        })
    }

    /// Gives the packet the address of the interface it leaves by.
    pub(crate) fn masquerade(self) -> Self {
        self.expression("masq", |_| {})
    }

    /// Counts packets.
    pub(crate) fn counter(self) -> Self {
        self.expression("counter", |data| {
            data.bytes(1, &[0; 8]).bytes(2, &[0; 8]);
        })
    }

    /// Ends the rule with a verdict.
    pub(crate) fn verdict(self, verdict: Verdict<'_>) -> Self {
        self.expression("immediate", |data| {
            data.be32(1, 0).nest(2, |value| {
                value.nest(2, |inner| {
                    let (code, chain) = match verdict {
                        Verdict::Drop => (0, None),
                        Verdict::Accept => (ACCEPT, None),
                        Verdict::Jump(chain) => ((-3_i32).cast_unsigned(), Some(chain)),
                    };
                    inner.be32(1, code);
                    if let Some(chain) = chain {
                        inner.text(2, chain);
                    }
                });
            });
        })
    }
}

/// Where a base chain hooks into the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hook {
    /// `filter` or `nat`.
    pub(crate) kind: &'static str,
    /// Number of the hook: 0 prerouting, 2 forward, 3 output, 4 postrouting.
    pub(crate) hook: u32,
    /// Order among base chains.
    pub(crate) priority: i32,
}

/// A set or map of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Set {
    /// Name.
    pub(crate) name: &'static str,
    /// Type number for `nft list`, bytes.
    pub(crate) key: (u32, u32),
    /// The same of the value, for maps.
    pub(crate) value: Option<(u32, u32)>,
    /// Whether keys are ranges.
    pub(crate) interval: bool,
}

/// One element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    /// Name of the set.
    pub(crate) set: &'static str,
    /// Key bytes, each part padded to 4.
    pub(crate) key: Vec<u8>,
    /// Value bytes of a map.
    pub(crate) value: Option<Vec<u8>>,
    /// Whether this key ends a range.
    pub(crate) end: bool,
}

impl Element {
    fn write(&self, kind: u16, item: &mut Attributes<'_>) {
        item.nest(1, |key| {
            key.bytes(1, &self.key);
        });
        if let Some(value) = self.value.as_ref().filter(|_| kind == NEW_ELEMENT) {
            item.nest(2, |data| {
                data.bytes(1, value);
            });
        }
        if self.end {
            item.be32(3, 1);
        }
    }
}

/// A transaction on one table: all of it or nothing.
#[derive(Debug)]
pub(crate) struct Transaction<'a> {
    batch: Batch,
    family: Family,
    table: &'a str,
    sets: u32,
}

impl<'a> Transaction<'a> {
    /// Starts a transaction.
    pub(crate) fn new(family: Family, table: &'a str) -> Self {
        let mut batch = Batch::default();
        batch.silent(BATCH_BEGIN, &[0, 0, 0, 10]);
        Self { batch, family, table, sets: 0 }
    }

    /// The finished messages.
    pub(crate) fn finish(mut self) -> Batch {
        self.batch.silent(BATCH_END, &[0, 0, 0, 10]);
        self.batch
    }

    /// Makes the table unless it is there.
    pub(crate) fn table(&mut self) {
        self.batch.message(NEW_TABLE, CREATE, &header(self.family), |table| {
            table.text(1, self.table);
        });
    }

    /// Removes the table and all in it.
    pub(crate) fn delete_table(&mut self) {
        self.batch.message(DELETE_TABLE, 0, &header(self.family), |table| {
            table.text(1, self.table);
        });
    }

    /// Makes a chain unless it is there.
    pub(crate) fn chain(&mut self, name: &str, hook: Option<Hook>) {
        self.batch.message(NEW_CHAIN, CREATE, &header(self.family), |chain| {
            chain.text(1, self.table).text(3, name);
            let Some(hook) = hook else { return };
            chain.nest(4, |inner| {
                inner.be32(1, hook.hook).be32(2, hook.priority.cast_unsigned());
            });
            chain.be32(5, 1).text(7, hook.kind);
        });
    }

    /// Removes every rule of a chain.
    pub(crate) fn flush(&mut self, chain: &str) {
        self.batch.message(DELETE_RULE, 0, &header(self.family), |rule| {
            rule.text(1, self.table).text(2, chain);
        });
    }

    /// Appends a rule to a chain.
    pub(crate) fn rule(&mut self, chain: &str, rule: &Rule) {
        self.add_rule(chain, rule, CREATE | APPEND);
    }

    /// Puts a rule first in a chain.
    pub(crate) fn first_rule(&mut self, chain: &str, rule: &Rule) {
        self.add_rule(chain, rule, CREATE);
    }

    fn add_rule(&mut self, chain: &str, rule: &Rule, flags: u16) {
        self.batch.message(NEW_RULE, flags, &header(self.family), |message| {
            message.text(1, self.table).text(2, chain).nest(4, |list| {
                list.raw(&rule.0);
            });
        });
    }

    /// Removes the rule with a handle.
    pub(crate) fn delete_rule(&mut self, chain: &str, handle: &[u8]) {
        self.batch.message(DELETE_RULE, 0, &header(self.family), |message| {
            message.text(1, self.table).text(2, chain).bytes(3, handle);
        });
    }

    /// Makes a set or map unless it is there.
    pub(crate) fn set(&mut self, set: &Set) {
        const INTERVAL: u32 = 4;
        const MAP: u32 = 8;
        self.sets += 1;
        let id = self.sets;
        self.batch.message(NEW_SET, CREATE, &header(self.family), |message| {
            let map = if set.value.is_some() { MAP } else { 0 };
            let interval = if set.interval { INTERVAL } else { 0 };
            message.text(1, self.table).text(2, set.name).be32(3, map | interval);
            message.be32(4, set.key.0).be32(5, set.key.1);
            if let Some((kind, length)) = set.value {
                message.be32(6, kind).be32(7, length);
            }
            message.be32(10, id);
        });
    }

    /// Adds elements; an element that is there with the same value is no error.
    pub(crate) fn add(&mut self, elements: &[Element]) {
        self.elements(NEW_ELEMENT, CREATE, elements);
    }

    /// Removes elements; a missing one undoes the transaction.
    pub(crate) fn delete(&mut self, elements: &[Element]) {
        self.elements(DELETE_ELEMENT, 0, elements);
    }

    /// Removes all elements of a set.
    pub(crate) fn empty(&mut self, set: &str) {
        self.batch.message(DELETE_ELEMENT, 0, &header(self.family), |message| {
            message.text(1, self.table).text(2, set);
        });
    }

    fn elements(&mut self, kind: u16, flags: u16, elements: &[Element]) {
        let mut sorted: Vec<_> = elements.iter().collect();
        sorted.sort_by_key(|element| element.set);
        let same_set = sorted.chunk_by(|a, b| a.set == b.set);
        for elements in same_set.flat_map(|elements| elements.chunks(ELEMENTS_IN_MESSAGE)) {
            self.batch.message(kind, flags, &header(self.family), |message| {
                message.text(1, self.table).text(2, elements[0].set).nest(3, |list| {
                    for element in elements {
                        list.nest(1, |item| element.write(kind, item));
                    }
                });
            });
        }
    }
}

/// The question whether a chain exists.
pub(crate) fn get_chain(family: Family, table: &str, chain: &str) -> Batch {
    let mut batch = Batch::default();
    batch.message(GET_CHAIN, 0, &header(family), |message| {
        message.text(1, table).text(3, chain);
    });
    batch
}

/// The question whether a set has an element.
pub(crate) fn get_element(family: Family, table: &str, element: &Element) -> Batch {
    let mut batch = Batch::default();
    batch.message(GET_ELEMENT, 0, &header(family), |message| {
        message.text(1, table).text(2, element.set).nest(3, |list| {
            list.nest(1, |item| element.write(GET_ELEMENT, item));
        });
    });
    batch
}

/// Attribute of a chain that holds its policy.
pub(crate) const CHAIN_POLICY: u16 = 5;
/// Attribute of a rule that holds its chain's name.
pub(crate) const RULE_CHAIN: u16 = 2;
/// Attribute of a rule that holds its expressions.
pub(crate) const RULE_EXPRESSIONS: u16 = 4;
/// Code of the verdict that ends a base chain.
pub(crate) const ACCEPT: u32 = 1;
/// Attribute of a rule that holds its handle.
pub(crate) const RULE_HANDLE: u16 = 3;
