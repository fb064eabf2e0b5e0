//! Which tunnels get another identity. Peers know a tunnel by its public key, and a generated key belongs to a
//! name: whoever renames a tunnel and does not say so is somebody else afterwards.

use super::{
    desired::{Desired, PrivateKeySource},
    plan::{Object, Secrets},
    status::Finding,
    types::InterfaceName,
};

/// What a document changes about generated keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identities {
    /// Tunnels whose generated key no tunnel in force has, with the name it is kept under.
    new: Vec<(InterfaceName, InterfaceName)>,
    /// Generated keys of tunnels in force that will have no tunnel.
    left: Vec<InterfaceName>,
}

impl Identities {
    /// What `desired` changes about the keys of what is in force.
    pub fn between(live: Option<&Desired>, desired: &Desired) -> Self {
        let has = |state: &Desired, kept_as: &InterfaceName| generated(state).any(|(_, other)| other == kept_as);
        let new = generated(desired).filter(|(_, kept_as)| !live.is_some_and(|live| has(live, kept_as)));
        let left = live.into_iter().flat_map(generated);
        let left = left.filter(|(_, kept_as)| !has(desired, kept_as));
        Self {
            new: new.map(|(name, kept_as)| (name.clone(), kept_as.clone())).collect(),
            left: left.map(|(_, kept_as)| kept_as.clone()).collect(),
        }
    }

    /// For people before they apply; keys that were made for a plan are forgotten again, so they are not shown.
    pub fn planned(&self, secrets: &Secrets) -> Vec<Finding> {
        self.findings(secrets, |name, kept_as| {
            let key = secrets.private.get(name)?.public_key();
            Some(match secrets.made.contains(name) {
                true if name == kept_as => {
                    "a private key will be made for it, and its peers have to learn the public one".to_owned()
                }
                true => format!(
                    "no key is kept as {kept_as}, so one will be made, and its peers have to learn the public one"
                ),
                false => format!("it will have the key that is kept as {kept_as}; the public one is {key}"),
            })
        })
    }

    /// For people after they applied.
    pub fn applied(&self, secrets: &Secrets) -> Vec<Finding> {
        self.findings(secrets, |name, _| {
            let key = secrets.private.get(name)?.public_key();
            Some(format!("its public key is {key}; its peers have to know it"))
        })
    }

    fn findings(
        &self,
        secrets: &Secrets,
        say: impl Fn(&InterfaceName, &InterfaceName) -> Option<String>,
    ) -> Vec<Finding> {
        let new = self.new.iter();
        new.filter_map(|(name, kept_as)| {
            let mut reason = say(name, kept_as)?;
            // A name that was given on purpose, and has a key, needs no advice.
            let advised = name == kept_as || secrets.made.contains(name);
            if let Some(old) = self.left.first().filter(|_| advised) {
                let all: Vec<_> = self.left.iter().map(ToString::to_string).collect();
                reason += &format!(
                    ". The key of {} is left without a tunnel: if this is {old} under a new name, write \
                     private-key-generated = \"{old}\" and it keeps its identity",
                    all.join(", ")
                );
            }
            let object = Object::Link(name.clone()).to_string();
            Some(Finding { object, reason })
        })
        .collect()
    }
}

/// Tunnels whose key is generated, with the name it is kept under.
fn generated(state: &Desired) -> impl Iterator<Item = (&InterfaceName, &InterfaceName)> {
    state
        .wireguard
        .iter()
        .filter_map(|(name, tunnel)| match &tunnel.private_key {
            PrivateKeySource::Generated(kept_as) => Some((name, kept_as)),
            PrivateKeySource::File(_) | PrivateKeySource::Credential(_) => None,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        check,
        types::{PrivateKey, Secret},
    };

    fn desired(tunnels: &[(&str, &str)]) -> Desired {
        let tunnels: String = tunnels
            .iter()
            .map(|(name, line)| format!("[[wireguard]]\nname = \"{name}\"\n{line}\n"))
            .collect();
        check::validate(&format!("version = 1\n{tunnels}")).unwrap().1
    }

    fn secrets(made: &[&str]) -> Secrets {
        let key = |name: &str| (name.parse().unwrap(), PrivateKey::new(Secret::from_bytes([8; 32])));
        Secrets {
            private: ["wg0", "wg1"].map(key).into(),
            made: made.iter().map(|name| name.parse().unwrap()).collect(),
            ..Secrets::default()
        }
    }

    fn said(findings: &[Finding]) -> String {
        findings
            .iter()
            .map(|finding| format!("{}: {}\n", finding.object, finding.reason))
            .collect()
    }

    #[test]
    fn a_renamed_tunnel_is_told_apart_from_one_that_keeps_its_key() {
        let live = desired(&[("wg0", "")]);
        let renamed = Identities::between(Some(&live), &desired(&[("wg1", "")]));
        let planned = said(&renamed.planned(&secrets(&["wg1"])));
        assert!(
            planned.starts_with("link wg1: a private key will be made for it"),
            "{planned}"
        );
        assert!(planned.contains("private-key-generated = \"wg0\""), "{planned}");
        let applied = said(&renamed.applied(&secrets(&["wg1"])));
        assert!(applied.contains("its public key is ") && applied.contains("private-key-generated = \"wg0\""));
        let moved = Identities::between(Some(&live), &desired(&[("wg1", "private-key-generated = \"wg0\"")]));
        assert_eq!(moved, Identities::default());
    }

    #[test]
    fn only_what_changes_is_told() {
        let live = desired(&[("wg0", "")]);
        assert_eq!(Identities::between(Some(&live), &live), Identities::default());
        let file = desired(&[("wg1", "private-key-file = \"/key\"")]);
        assert!(said(&Identities::between(Some(&live), &file).planned(&secrets(&[]))).is_empty());
        let first = Identities::between(None, &live);
        let said_first = said(&first.planned(&secrets(&["wg0"])));
        assert!(
            said_first.contains("will be made") && !said_first.contains("left"),
            "{said_first}"
        );
        let back = said(&first.planned(&secrets(&[])));
        assert!(
            back.contains("the key that is kept as wg0; the public one is "),
            "{back}"
        );
        let mistaken = Identities::between(Some(&live), &desired(&[("wg1", "private-key-generated = \"wg9\"")]));
        let told = said(&mistaken.planned(&secrets(&["wg1"])));
        assert!(told.contains("no key is kept as wg9"), "{told}");
    }
}
