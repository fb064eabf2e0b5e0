//! Reading keys: from files, from systemd's credentials, from the store.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::unistd::{Uid, User};
use rand_core::{OsRng, RngCore};
use rustix::fs::OFlags;
use zeroize::Zeroizing;

use crate::{
    model::{
        desired::{Desired, PrivateKeySource},
        plan::Secrets,
        types::{InterfaceName, PresharedKey, PrivateKey, Secret},
    },
    store::Store,
};

/// The largest key file; a key has 44 characters.
const MOST_BYTES: u64 = 4096;

/// Where keys come from.
pub trait Keys {
    /// The private key that was generated and kept under `name`.
    fn generated(&self, name: &InterfaceName) -> Option<PrivateKey>;

    /// Keeps a newly generated one, before it is first used.
    ///
    /// # Errors
    /// Why it cannot be kept.
    fn keep(&self, name: &InterfaceName, key: &PrivateKey) -> Result<(), String>;
}

impl Keys for Store {
    fn generated(&self, interface: &InterfaceName) -> Option<PrivateKey> {
        self.private_key(interface)
    }

    fn keep(&self, interface: &InterfaceName, key: &PrivateKey) -> Result<(), String> {
        self.keep_private_key(interface, key).map_err(|error| error.to_string())
    }
}

/// What to do about a generated key that is not there yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Make one and keep it.
    Make,
    /// Take one that is forgotten again: a plan changes nothing.
    Pretend,
}

/// Reads all keys that `desired` names; those that cannot be read are named in the result. Blocks.
pub fn read(desired: &Desired, keys: &dyn Keys, credentials: Option<&Path>, missing: Missing) -> Secrets {
    let mut secrets = Secrets::default();
    for (name, tunnel) in &desired.wireguard {
        let private = match &tunnel.private_key {
            PrivateKeySource::File(path) => key_file(path, Guarded::ByMode),
            PrivateKeySource::Credential(credential) => self::credential(credentials, credential),
            PrivateKeySource::Generated(kept_as) => match keys.generated(kept_as) {
                Some(key) => Ok(Secret::made(|room| *room = *key.expose())),
                None => generate(kept_as, keys, missing).inspect(|_| {
                    secrets.made.insert(name.clone());
                }),
            },
        };
        match private {
            Ok(secret) => {
                secrets.private.insert(name.clone(), PrivateKey::new(clamped(&secret)));
            }
            Err(reason) => {
                secrets.unreadable.insert(name.clone(), reason);
            }
        }
        for (key, peer) in &tunnel.peers {
            let Some(path) = &peer.preshared_key_file else { continue };
            match key_file(path, Guarded::ByMode) {
                Ok(secret) => {
                    let entry = (name.clone(), *key);
                    secrets.preshared.insert(entry, PresharedKey::new(secret));
                }
                // Without it the tunnel would come up weaker than the document says.
                Err(reason) => {
                    secrets.private.remove(name);
                    secrets.unreadable.insert(name.clone(), reason);
                }
            }
        }
    }
    secrets
}

/// What keeps others from reading a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Guarded {
    ByMode,
    /// systemd guards credentials by their directory, and its access lists show as group bits.
    ByDirectory,
}

fn credential(directory: Option<&Path>, name: &str) -> Result<Secret, String> {
    let directory = directory.ok_or_else(|| {
        format!("credential {name}: the service has none; add LoadCredential={name}:FILE to its unit")
    })?;
    let path: PathBuf = directory.join(name);
    if path.parent() != Some(directory) {
        return Err(format!("credential {name}: this is not a name"));
    }
    key_file(&path, Guarded::ByDirectory)
}

fn key_file(path: &Path, guarded: Guarded) -> Result<Secret, String> {
    let failed = |error: io::Error| {
        let next = out_of_reach(path, guarded, &error).unwrap_or_default();
        format!("read key file {}: {error}{next}", path.display())
    };
    let refused = |reason: &str| format!("key file {}: {reason}", path.display());
    // Not to wait for the writer of a pipe; what was opened is then examined, not the name.
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking)
        .open(path)
        .map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(refused("it is not a regular file"));
    }
    if guarded == Guarded::ByMode && found.mode() & 0o077 != 0 {
        let mut fix = format!("chmod 600 {}", path.display());
        if ![0, found.uid()].contains(&Uid::effective().as_raw()) {
            // Otherwise the next attempt would find that out.
            fix = format!("chown {} {} && {fix}", user(), path.display());
        }
        return Err(refused(&format!(
            "others can read it (mode {:o}); {fix}",
            found.mode() & 0o777
        )));
    }
    if found.len() > MOST_BYTES {
        return Err(refused("it is larger than 4 KiB"));
    }
    let text = text(file).map_err(failed)?;
    Secret::from_base64(&text).map_err(|invalid| refused(&invalid.to_string()))
}

/// What to do about a file that is not there, or that this process may not read: it is not root, which reads
/// everything.
fn out_of_reach(path: &Path, guarded: Guarded, error: &io::Error) -> Option<String> {
    if error.kind() == io::ErrorKind::NotFound {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let next = match guarded {
            Guarded::ByMode => format!(
                "make it: (umask 077; wg genkey > {}), with genpsk for a preshared key",
                path.display()
            ),
            Guarded::ByDirectory => format!("add LoadCredential={name}:FILE to the service's unit"),
        };
        return Some(format!("; {next}"));
    }
    if error.kind() != io::ErrorKind::PermissionDenied {
        return None;
    }
    let user = user();
    let fix = match fs::metadata(path) {
        Ok(_) => format!("chown {user} {}", path.display()),
        Err(_) => format!("move it to a directory that {user} can enter, or use private-key-credential"),
    };
    Some(format!("; tunneld runs as {user}: {fix}"))
}

/// The user that this process runs as: its name, or its number if it has none.
fn user() -> String {
    let uid = Uid::effective();
    let found = User::from_uid(uid).ok().flatten();
    found.map_or_else(|| uid.to_string(), |user| user.name)
}

fn text(file: File) -> io::Result<Zeroizing<String>> {
    // As large as it may get: growing would leave copies behind.
    let capacity = usize::try_from(MOST_BYTES).unwrap_or_default();
    let mut text = Zeroizing::new(String::with_capacity(capacity));
    file.take(MOST_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn generate(name: &InterfaceName, keys: &dyn Keys, missing: Missing) -> Result<Secret, String> {
    let mut filled = Ok(());
    let random = Secret::made(|room| filled = OsRng.try_fill_bytes(room));
    filled.map_err(|error| format!("generate a key: {error}"))?;
    let secret = clamped(&random);
    if missing == Missing::Make {
        keys.keep(name, &PrivateKey::new(secret.clone()))?;
    }
    Ok(secret)
}

/// As the kernel keeps it (`curve25519_clamp_secret`), so that what is read back equals what was written.
fn clamped(secret: &Secret) -> Secret {
    Secret::made(|room| {
        *room = *secret.expose();
        let [first, .., last] = room;
        *first &= 248;
        *last = (*last & 127) | 64;
    })
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::BTreeMap, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::model::check;

    #[derive(Default)]
    struct Drawer {
        keys: RefCell<BTreeMap<InterfaceName, PrivateKey>>,
        full: bool,
    }

    impl Keys for Drawer {
        fn generated(&self, interface: &InterfaceName) -> Option<PrivateKey> {
            self.keys.borrow().get(interface).cloned()
        }

        fn keep(&self, interface: &InterfaceName, key: &PrivateKey) -> Result<(), String> {
            if self.full {
                return Err("No space left on device".into());
            }
            self.keys.borrow_mut().insert(interface.clone(), key.clone());
            Ok(())
        }
    }

    const KEY: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=\n";

    fn desired(source: &str) -> Desired {
        let text = format!("version = 1\n[[wireguard]]\nname = \"wg0\"\naddresses = [\"10.0.0.1/30\"]\n{source}\n");
        check::validate(&text).unwrap_or_else(|errors| panic!("{errors:?}")).1
    }

    fn from_file(path: &Path) -> Desired {
        desired(&format!("private-key-file = \"{}\"", path.display()))
    }

    fn reason(secrets: &Secrets) -> &str {
        assert!(secrets.private.is_empty());
        secrets.unreadable.values().next().unwrap()
    }

    fn write(path: &Path, content: &str, mode: u32) {
        fs::write(path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_key_file_is_read_if_it_is_guarded_small_and_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let read = |path: &Path| read(&from_file(path), &Drawer::default(), None, Missing::Make);
        assert!(reason(&read(&path)).contains("No such file"));
        assert!(reason(&read(&path)).contains("wg genkey >"));
        write(&path, KEY, 0o600);
        assert_eq!(read(&path).private.len(), 1);
        for mode in [0o640, 0o604] {
            write(&path, KEY, mode);
            assert!(reason(&read(&path)).contains("others can read it"), "{mode:o}");
            assert!(reason(&read(&path)).contains("chmod 600"));
        }
        write(&path, &"A".repeat(5000), 0o600);
        assert!(reason(&read(&path)).contains("larger than 4 KiB"));
        write(&path, "secret nonsense", 0o600);
        let secrets = read(&path);
        assert!(reason(&secrets).contains("not a WireGuard key"));
        assert!(!reason(&secrets).contains("nonsense"));
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(reason(&read(&pipe)).contains("not a regular file"));
        assert!(reason(&read(directory.path())).contains("not a regular file"));
    }

    #[test]
    fn a_private_key_is_what_the_kernel_will_show() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        write(&path, KEY, 0o600);
        let secrets = read(&from_file(&path), &Drawer::default(), None, Missing::Make);
        let key = secrets.private.values().next().unwrap().expose();
        assert_eq!((key[0] & 7, key[31] & 0xc0), (0, 0x40));
    }

    #[test]
    fn credentials_come_from_their_directory_and_nowhere_else() {
        let directory = tempfile::tempdir().unwrap();
        write(&directory.path().join("wg0.key"), KEY, 0o440);
        let wanted = desired("private-key-credential = \"wg0.key\"");
        let read = |credentials| read(&wanted, &Drawer::default(), credentials, Missing::Make);
        assert!(reason(&read(None)).contains("LoadCredential=wg0.key"));
        assert_eq!(read(Some(directory.path())).private.len(), 1);
        assert!(credential(Some(directory.path()), "../x").is_err());
        let missing = credential(Some(directory.path()), "other").unwrap_err();
        assert!(missing.contains("LoadCredential=other:FILE"), "{missing}");
    }

    #[test]
    fn a_generated_key_is_made_once_and_kept_before_it_is_used() {
        let wanted = desired("");
        let drawer = Drawer::default();
        let pretended = read(&wanted, &drawer, None, Missing::Pretend);
        assert_eq!(pretended.private.len(), 1);
        assert!(drawer.keys.borrow().is_empty(), "a plan keeps nothing");
        let made = read(&wanted, &drawer, None, Missing::Make);
        assert!(!made.same_keys(&pretended));
        assert_eq!((made.made.len(), pretended.made.len()), (1, 1));
        let again = read(&wanted, &drawer, None, Missing::Make);
        assert!(again.same_keys(&made) && again.made.is_empty());
        let renamed = desired("private-key-generated = \"wg7\"");
        drawer
            .keep(&"wg7".parse().unwrap(), made.private.values().next().unwrap())
            .unwrap();
        assert!(read(&renamed, &drawer, None, Missing::Make).same_keys(&made));
        let full = Drawer {
            full: true,
            ..Drawer::default()
        };
        assert!(reason(&read(&wanted, &full, None, Missing::Make)).contains("No space left"));
    }
}
