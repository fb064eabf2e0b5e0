//! Our nftables table, `inet tunneld`: written in one transaction and read back to the last expression.
//! Other tables are never touched. See `nft(8)` and the kernel's `net/netfilter/nf_tables_api.c`.

mod attribute;
mod expression;
mod ruleset;

use netlink_packet_core::{Emitable, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NetlinkSerializable};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use self::{
    attribute::{Attribute, attributes, find, find_number, find_text, mean_the_same, value},
    expression::Expression,
    ruleset::{Chain, Rule},
};
use super::socket::{Attributes, NetlinkError, Socket, body};
use crate::model::{
    desired::Firewall,
    ports::{ErrorClass, ObserveError, OperationError},
};

/// Our table's name.
const TABLE: &str = "tunneld";

/// `NFPROTO_INET`: IPv4 and IPv6 together.
const INET: u8 = 1;

/// `NFNL_SUBSYS_NFTABLES`, in the high byte of message types.
const SUBSYSTEM: u16 = 10;

/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
const BEGIN: u16 = 16;
const END: u16 = 17;

/// `NFT_MSG_*`.
#[derive(Debug, Clone, Copy)]
enum Command {
    NewTable = 0,
    GetTable = 1,
    DeleteTable = 2,
    NewChain = 3,
    GetChain = 4,
    NewRule = 6,
    GetRule = 7,
    GetGeneration = 16,
}

/// Attributes of tables, chains and rules (`NFTA_TABLE_*`, `NFTA_CHAIN_*`, `NFTA_HOOK_*`, `NFTA_RULE_*`).
const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const TABLE_USE: u16 = 3;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;

/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;

/// A message of nfnetlink: `struct nfgenmsg`, then attributes.
#[derive(Debug, Clone)]
struct Message {
    kind: u16,
    family: u8,
    resource: u16,
    attributes: Vec<Attribute>,
}

impl Message {
    fn new(command: Command, attributes: Vec<Attribute>) -> Self {
        Self {
            kind: SUBSYSTEM << 8 | command as u16,
            family: INET,
            resource: 0,
            attributes,
        }
    }

    /// The first or the last message of a transaction.
    fn bracket(kind: u16) -> Self {
        Self {
            kind,
            family: 0,
            resource: SUBSYSTEM,
            attributes: Vec::new(),
        }
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        4 + self.attributes.as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let Some((header, rest)) = buffer.split_first_chunk_mut() else {
            return;
        };
        let [high, low] = self.resource.to_be_bytes();
        *header = [self.family, 0, high, low];
        self.attributes.as_slice().emit(rest);
    }
}

/// Whether the kernel has nftables. An error that says something else, such as a missing permission, is left
/// to the first use to report.
pub async fn probe() -> bool {
    let generation = async {
        let mut socket = Socket::connect(NETLINK_NETFILTER)?;
        let message = Message::new(Command::GetGeneration, Vec::new());
        socket.request::<_, Attributes>(message, 0).await
    };
    match generation.await {
        Ok(_) => true,
        // nfnetlink says EINVAL when it finds no subsystem of this number.
        Err(error) => error.class() != ErrorClass::Unsupported && error.errno() != Some(Errno::EINVAL),
    }
}

/// Reads our table: the firewall that it stands for, and whether it differs from what we would write for that
/// firewall, because somebody edited it.
///
/// # Errors
/// When the kernel does not answer; a kernel without nftables has no table, and that is no error.
pub async fn read() -> Result<(Firewall, bool), ObserveError> {
    match read_table().await {
        Ok(Some(table)) => Ok(table.interpret()),
        Ok(None) => Ok((Firewall::default(), false)),
        Err(error) if error.class() == ErrorClass::Unsupported => Ok((Firewall::default(), false)),
        Err(error) => Err(error.observe(format!("nftables table inet {TABLE}"))),
    }
}

/// Replaces our table by the one for `firewall`, in one transaction: packets meet the old table or the new
/// one, never none. An empty firewall deletes the table.
///
/// A guard that has neither a mark nor an address stands for no rule, and reads back as not there.
///
/// # Errors
/// The kernel's: then nothing was changed.
pub async fn write(firewall: &Firewall) -> Result<(), OperationError> {
    let messages = transaction(&ruleset::chains(firewall));
    let written = async { Socket::connect(NETLINK_NETFILTER)?.transaction(messages).await };
    let attempt = if *firewall == Firewall::default() {
        "delete"
    } else {
        "replace"
    };
    let error = |error: NetlinkError| error.operation(format!("{attempt} nftables table inet {TABLE}"));
    written.await.map_err(error)
}

/// Our table as the kernel shows it.
#[derive(Default)]
pub(super) struct Observed {
    pub(super) table: Vec<u8>,
    pub(super) chains: Vec<Vec<u8>>,
    /// In the kernel's order, which within a chain is the order of evaluation.
    pub(super) rules: Vec<Vec<u8>>,
}

async fn read_table() -> Result<Option<Observed>, NetlinkError> {
    let mut socket = Socket::connect(NETLINK_NETFILTER)?;
    let get = Message::new(Command::GetTable, vec![Attribute::text(TABLE_NAME, TABLE)]);
    let table = match socket.request::<_, Attributes>(get, 0).await {
        Ok(answers) => answers.into_iter().next(),
        Err(error) if error.errno() == Some(Errno::ENOENT) => None,
        // No subsystem: no nftables.
        Err(error) if error.errno() == Some(Errno::EINVAL) => None,
        Err(error) => return Err(error),
    };
    let Some(Attributes(table)) = table else {
        return Ok(None);
    };
    let chains = list(&mut socket, Command::GetChain, CHAIN_TABLE).await?;
    let rules = list(&mut socket, Command::GetRule, RULE_TABLE).await?;
    Ok(Some(Observed { table, chains, rules }))
}

/// Lists the objects of our table. Kernels differ in what they filter, so we filter as well.
async fn list(socket: &mut Socket, command: Command, table: u16) -> Result<Vec<Vec<u8>>, NetlinkError> {
    let message = Message::new(command, vec![Attribute::text(table, TABLE)]);
    let gather = |found: &mut Vec<Vec<u8>>, _, payload: &[u8]| {
        if payload.first() == Some(&INET) && find_text(body(payload), table) == Some(TABLE) {
            found.push(body(payload).to_vec());
        }
    };
    socket.dump(message, gather).await
}

impl Observed {
    /// The firewall that it stands for, and whether it differs from what we would write for that.
    pub(super) fn interpret(&self) -> (Firewall, bool) {
        let firewall = ruleset::firewall(self.rules.iter().filter_map(|rule| comment(rule)));
        let same = self.is(&ruleset::chains(&firewall));
        (firewall, !same)
    }

    /// Whether this is the table that we would write. The table's use count covers sets and other objects,
    /// its flags would make it dormant.
    fn is(&self, expected: &[Chain]) -> bool {
        let objects = find_number(&self.table, TABLE_USE).and_then(|count| usize::try_from(count).ok());
        let chain = |expected: &Chain| {
            let mut chains = self.chains.iter();
            chains.any(|observed| same_chain(expected, observed)) && same_rules(expected, &self.rules_of(expected.name))
        };
        objects == Some(expected.len())
            && find_number(&self.table, TABLE_FLAGS).unwrap_or(0) == 0
            && self.chains.len() == expected.len()
            && expected.iter().all(chain)
    }

    fn rules_of(&self, chain: &str) -> Vec<&[u8]> {
        let rules = self.rules.iter().map(Vec::as_slice);
        rules
            .filter(|rule| find_text(rule, RULE_CHAIN) == Some(chain))
            .collect()
    }
}

fn same_chain(expected: &Chain, observed: &[u8]) -> bool {
    let hook = find(observed, CHAIN_HOOK).unwrap_or_default();
    find_text(observed, CHAIN_NAME) == Some(expected.name)
        && mean_the_same(&hook_attributes(expected), hook)
        && find_number(observed, CHAIN_POLICY) == Some(ACCEPT)
        && find_text(observed, CHAIN_TYPE) == Some("filter")
}

fn same_rules(expected: &Chain, observed: &[&[u8]]) -> bool {
    let same = |(expected, observed): (&Rule, &&[u8])| {
        comment(observed) == Some(&expected.comment) && same_expressions(&expected.expressions, observed)
    };
    expected.rules.len() == observed.len() && expected.rules.iter().zip(observed).all(same)
}

fn same_expressions(expected: &[Expression], rule: &[u8]) -> bool {
    let elements: Vec<_> = attributes(find(rule, RULE_EXPRESSIONS).unwrap_or_default()).collect();
    let same = |(expected, element): (&Expression, &[u8])| {
        find_text(element, EXPRESSION_NAME) == Some(expected.name)
            && mean_the_same(&expected.data, find(element, EXPRESSION_DATA).unwrap_or_default())
    };
    let values = elements.into_iter().map(|element| element.into_inner());
    let values: Vec<_> = values.filter_map(value).collect();
    expected.len() == values.len() && expected.iter().zip(values).all(same)
}

/// The comment in a rule's user data, which is a list of type, length and value, as libnftnl writes it.
fn comment(rule: &[u8]) -> Option<&str> {
    let data = find(rule, RULE_USERDATA)?;
    let [0, length, text @ ..] = data else { return None };
    let text = text.get(..usize::from(*length))?;
    std::str::from_utf8(text.strip_suffix(&[0])?).ok()
}

fn user_data(comment: &str) -> Vec<u8> {
    // Roles, names and addresses are far below the 128 bytes that nft shows.
    let length = u8::try_from(comment.len() + 1).unwrap_or(u8::MAX);
    [&[0, length], comment.as_bytes(), &[0]].concat()
}

/// The messages that replace our table. Deleting needs a table that is there, so it is added first.
fn transaction(chains: &[Chain]) -> Vec<(Message, u16)> {
    let table = || vec![Attribute::text(TABLE_NAME, TABLE)];
    let mut messages = vec![
        (Message::bracket(BEGIN), 0),
        (Message::new(Command::NewTable, table()), NLM_F_CREATE),
        (Message::new(Command::DeleteTable, table()), 0),
    ];
    if !chains.is_empty() {
        messages.push((Message::new(Command::NewTable, table()), NLM_F_CREATE | NLM_F_EXCL));
    }
    for chain in chains {
        messages.push((new_chain(chain), NLM_F_CREATE | NLM_F_EXCL));
        let rules = chain.rules.iter().map(|rule| new_rule(chain, rule));
        messages.extend(rules.map(|message| (message, NLM_F_CREATE | NLM_F_APPEND)));
    }
    messages.push((Message::bracket(END), 0));
    messages
}

fn new_chain(chain: &Chain) -> Message {
    let attributes = vec![
        Attribute::text(CHAIN_TABLE, TABLE),
        Attribute::text(CHAIN_NAME, chain.name),
        Attribute::nested(CHAIN_HOOK, hook_attributes(chain)),
        Attribute::number(CHAIN_POLICY, ACCEPT),
        Attribute::text(CHAIN_TYPE, "filter"),
    ];
    Message::new(Command::NewChain, attributes)
}

fn hook_attributes(chain: &Chain) -> Vec<Attribute> {
    vec![
        Attribute::number(HOOK_NUMBER, chain.hook as u32),
        Attribute::bytes(HOOK_PRIORITY, chain.priority.to_be_bytes()),
    ]
}

fn new_rule(chain: &Chain, rule: &Rule) -> Message {
    let element = |expression: &Expression| {
        let parts = vec![
            Attribute::text(EXPRESSION_NAME, expression.name),
            Attribute::nested(EXPRESSION_DATA, expression.data.clone()),
        ];
        Attribute::nested(LIST_ELEMENT, parts)
    };
    let expressions = rule.expressions.iter().map(element).collect();
    let attributes = vec![
        Attribute::text(RULE_TABLE, TABLE),
        Attribute::text(RULE_CHAIN, chain.name),
        Attribute::nested(RULE_EXPRESSIONS, expressions),
        Attribute::bytes(RULE_USERDATA, user_data(&rule.comment)),
    ];
    Message::new(Command::NewRule, attributes)
}
