//! Who may ask for what: root, the daemon's own user and the admin group may change; the viewer group may
//! read; nobody else may do anything.

use std::{collections::BTreeSet, ffi::CString, time::Duration};

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use tokio::net::{UnixStream, unix::UCred};

use crate::model::{
    service::{Failure, FailureKind},
    status::Author,
};

/// How long the user database may take: behind it may be a directory server.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who may do what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The daemon's own user id: it may change, as root may.
    pub owner: u32,
    /// Group whose members may change.
    pub admin: Option<u32>,
    /// Group whose members may read.
    pub viewer: Option<u32>,
}

/// What a caller may do; each includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Nothing.
    Stranger,
    /// Read.
    Viewer,
    /// Read and change.
    Admin,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// The state of the box.
    Status,
    /// What happened.
    History,
    /// A revision.
    Show,
    /// The document's schema.
    Schema,
    /// What an apply would do. It tells what key files the machine has, so reading is not enough.
    Plan,
    /// Apply a document.
    Apply,
    /// Confirm the revision on trial.
    Confirm,
    /// Apply a kept revision again.
    Rollback,
    /// Move engines to another executable.
    ReplaceEngine,
}

impl Call {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Status,
        Self::History,
        Self::Show,
        Self::Schema,
        Self::Plan,
        Self::Apply,
        Self::Confirm,
        Self::Rollback,
        Self::ReplaceEngine,
    ];

    /// The least role that may ask for this.
    pub const fn needs(self) -> Role {
        match self {
            Self::Status | Self::History | Self::Show | Self::Schema => Role::Viewer,
            Self::Plan | Self::Apply | Self::Confirm | Self::Rollback | Self::ReplaceEngine => Role::Admin,
        }
    }
}

impl Access {
    /// Looks the groups up by name.
    ///
    /// # Errors
    /// One line that names the group which is not there.
    pub fn resolve(admin: Option<&str>, viewer: Option<&str>) -> Result<Self, String> {
        let group = |name: Option<&str>| match name {
            None => Ok(None),
            Some(name) => match Group::from_name(name) {
                Ok(Some(group)) => Ok(Some(group.gid.as_raw())),
                Ok(None) => Err(format!(
                    "there is no group {name}; make it with 'groupadd --system {name}'"
                )),
                Err(errno) => Err(format!("look up group {name}: {errno}")),
            },
        };
        Ok(Self {
            owner: Uid::effective().as_raw(),
            admin: group(admin)?,
            viewer: group(viewer)?,
        })
    }

    /// The role of a user who is in these groups.
    pub fn role(&self, uid: u32, groups: &BTreeSet<u32>) -> Role {
        let member = |group: Option<u32>| group.is_some_and(|group| groups.contains(&group));
        if uid == 0 || uid == self.owner || member(self.admin) {
            Role::Admin
        } else if member(self.viewer) {
            Role::Viewer
        } else {
            Role::Stranger
        }
    }
}

/// The other end of a connection, as the kernel and the user database know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    /// For the revision that it may make.
    pub(super) author: Author,
    /// What it may do.
    pub(super) role: Role,
}

impl Caller {
    /// Finds out who is at the other end (`SO_PEERCRED` in `unix(7)`: who it was when it connected).
    pub(super) async fn identify(stream: &UnixStream, access: &Access) -> Result<Self, Failure> {
        let internal = |reason: String| Failure::new(FailureKind::Internal, format!("identify the caller: {reason}"));
        let credentials = stream.peer_cred().map_err(|error| internal(error.to_string()))?;
        let access = access.clone();
        let lookup = tokio::task::spawn_blocking(move || Self::look_up(&credentials, &access));
        match tokio::time::timeout(PATIENCE, lookup).await {
            Ok(Ok(caller)) => Ok(caller),
            Ok(Err(error)) => Err(internal(error.to_string())),
            Err(_) => Err(internal("the user database does not answer".into())),
        }
    }

    fn look_up(credentials: &UCred, access: &Access) -> Self {
        let (uid, gid) = (credentials.uid(), credentials.gid());
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let mut groups = BTreeSet::from([gid]);
        if let Some(user) = &user {
            groups.extend(groups_of(user));
        }
        Self {
            role: access.role(uid, &groups),
            author: Author {
                uid,
                user: user.map(|user| user.name),
                pid: credentials.pid(),
            },
        }
    }

    /// Whether the caller may ask for this.
    pub(super) fn may(&self, call: Call) -> Result<(), Failure> {
        if self.role >= call.needs() {
            return Ok(());
        }
        let who = self
            .author
            .user
            .clone()
            .unwrap_or_else(|| format!("uid {}", self.author.uid));
        let (what, group) = match call.needs() {
            Role::Admin => ("change", "the admin group"),
            Role::Viewer | Role::Stranger => ("read", "the viewer or the admin group"),
        };
        Err(Failure::new(
            FailureKind::Forbidden,
            format!("{who} may not {what} this appliance's tunnels; be root or a member of {group}"),
        ))
    }
}

/// The primary group and the others that the database says.
fn groups_of(user: &User) -> BTreeSet<u32> {
    let others = CString::new(user.name.as_str())
        .ok()
        .and_then(|name| getgrouplist(&name, user.gid).ok());
    let others = others.unwrap_or_default();
    others.into_iter().chain([user.gid]).map(Gid::as_raw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCESS: Access = Access {
        owner: 900,
        admin: Some(50),
        viewer: Some(60),
    };

    #[test]
    fn credentials_become_roles() {
        for (uid, groups, role) in [
            (0, &[][..], Role::Admin),
            (900, &[], Role::Admin),
            (1000, &[50], Role::Admin),
            (1000, &[60, 50], Role::Admin),
            (1000, &[1000, 60], Role::Viewer),
            (1000, &[1000], Role::Stranger),
            (1000, &[0, 900], Role::Stranger),
        ] {
            let groups = groups.iter().copied().collect();
            assert_eq!(ACCESS.role(uid, &groups), role, "{uid} {groups:?}");
        }
        let closed = Access {
            admin: None,
            viewer: None,
            ..ACCESS
        };
        assert_eq!(closed.role(1000, &BTreeSet::from([50, 60])), Role::Stranger);
    }

    #[test]
    fn every_call_has_its_role() {
        let may = |role| {
            let caller = Caller {
                author: Author::default(),
                role,
            };
            Call::ALL
                .into_iter()
                .filter(|call| caller.may(*call).is_ok())
                .collect::<Vec<_>>()
        };
        assert_eq!(may(Role::Stranger), []);
        assert_eq!(
            may(Role::Viewer),
            [Call::Status, Call::History, Call::Show, Call::Schema]
        );
        assert_eq!(may(Role::Admin), Call::ALL);
    }

    #[test]
    fn a_missing_group_is_named() {
        let error = Access::resolve(Some("no-such-group"), None).unwrap_err();
        assert!(error.contains("no-such-group"), "{error}");
        let root = Access::resolve(Some("root"), None).unwrap();
        assert_eq!((root.admin, root.viewer), (Some(0), None));
    }

    #[test]
    fn the_database_knows_the_groups_of_a_user() {
        let root = User::from_uid(Uid::from_raw(0)).unwrap().unwrap();
        assert!(groups_of(&root).contains(&0));
    }
}
