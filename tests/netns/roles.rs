//! Who may ask the daemon for what, and who may look at its files: with real users and groups.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
};

use rustix::{
    process::{Gid, Uid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use tunneld::control::access::{Call, Role};

use crate::{
    appliance::Appliance,
    harness::executable,
    privileges::{as_user, for_user},
};

const SOCKET: &str = "/run/tunneld/control.sock";

/// The users and groups of the appliance: the daemon's, and one for each role.
const DAEMON: u32 = 61_001;
const ADMINS: u32 = 61_002;
const VIEWERS: u32 = 61_003;
const USERS: [(&str, u32, Role); 4] = [
    ("alice", 61_010, Role::Admin),
    ("victor", 61_011, Role::Viewer),
    ("mallory", 61_012, Role::Stranger),
    ("tunneld", DAEMON, Role::Admin),
];

/// An appliance whose user database knows [`USERS`], with the daemon running as its own user.
fn appliance(groups: &str) -> Appliance {
    let appliance = Appliance::of(for_user(DAEMON));
    let mut passwd = String::from("root:x:0:0::/root:/bin/sh\n");
    for (name, uid, _) in USERS {
        passwd += &format!("{name}:x:{uid}:{uid}::/:/bin/sh\n");
    }
    for (file, text) in [("passwd", passwd.as_str()), ("group", groups)] {
        appliance.write(&format!("/run/{file}"), text);
        appliance.namespace.run(["chmod", "644", &format!("/run/{file}")]);
        let (from, to) = (format!("/run/{file}"), format!("/etc/{file}"));
        appliance.namespace.run(["mount", "--bind", &from, &to]);
    }
    let program = format!("{} {}", as_user(DAEMON, &[ADMINS], &["net_admin"]), executable());
    appliance.start(&program);
    appliance
}

fn groups() -> String {
    format!("root:x:0:\ntunneld:x:{DAEMON}:\ntunneld-admin:x:{ADMINS}:alice\ntunneld-viewer:x:{VIEWERS}:victor\n")
}

/// Sends a request as another user, whose groups the daemon looks up by itself.
fn ask(appliance: &Appliance, uid: u32, request: &str) -> String {
    let asked = appliance.namespace.enter(|| {
        let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
        let groups = match uid {
            61_010 => vec![Gid::from_raw(ADMINS)],
            61_011 => vec![Gid::from_raw(VIEWERS)],
            _ => vec![],
        };
        set_thread_groups(&groups).unwrap();
        set_thread_res_gid(group, group, group).unwrap();
        set_thread_res_uid(user, user, user).unwrap();
        let mut stream = UnixStream::connect(SOCKET)?;
        stream.write_all(request.as_bytes()).ok();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    });
    asked.unwrap_or_else(|error| error.to_string())
}

/// A request for each call of the API; one that is new has to be added here.
fn request(call: Call) -> String {
    let (method, path, body) = match call {
        Call::Status => ("GET", "/v1/status", ""),
        Call::History => ("GET", "/v1/history?limit=5", ""),
        Call::Show => ("GET", "/v1/revisions/live", ""),
        Call::Schema => ("GET", "/v1/schema", ""),
        Call::Plan => ("POST", "/v1/plan", r#"{"document":"version = 1"}"#),
        Call::Apply => ("POST", "/v1/apply", r#"{"document":"version = 1","confirm":600}"#),
        Call::Confirm => ("POST", "/v1/confirm", "{}"),
        Call::Rollback => ("POST", "/v1/rollback", "{}"),
        Call::ReplaceEngine => ("POST", "/v1/engines/replace", "{}"),
    };
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}")
}

#[test]
fn each_role_may_ask_for_what_it_should_and_for_nothing_else() {
    let appliance = appliance(&groups());
    let socket = appliance.namespace.run(["stat", "-c", "%a %U:%G", SOCKET]);
    assert_eq!(socket.trim(), "666 tunneld:tunneld-admin");
    appliance.apply("version = 1\n");
    let revision = || appliance.status()["revision"]["number"].clone();
    let before = revision();
    for (name, uid, role) in USERS.iter().rev() {
        for call in Call::ALL {
            let answer = ask(&appliance, *uid, &request(call));
            let admitted = *role >= call.needs();
            let expected = if admitted { " 200 " } else { " 403 " };
            assert!(
                answer.starts_with("HTTP/1.1") && answer.contains(expected),
                "{name} {call:?}: {answer}"
            );
            if !admitted {
                assert!(
                    answer.contains(name) && answer.contains("group"),
                    "{name} {call:?}: {answer}"
                );
                assert!(!answer.contains("version = 1"), "{name} {call:?}: {answer}");
            }
        }
        if *role < Role::Admin {
            assert_eq!(
                appliance.status()["trial"],
                serde_json::Value::Null,
                "{name} changed something"
            );
        }
    }
    assert_ne!(revision(), before, "who may change things did");
}

#[test]
fn without_groups_everybody_but_the_daemon_s_user_and_root_is_kept_out() {
    let appliance = appliance(&format!("root:x:0:\ntunneld:x:{DAEMON}:\n"));
    for (name, uid, _) in &USERS[..3] {
        let answer = ask(&appliance, *uid, &request(Call::Status));
        assert!(answer.contains("Permission denied"), "{name}: {answer}");
    }
    assert!(ask(&appliance, DAEMON, &request(Call::Status)).contains(" 200 "));
    assert!(ask(&appliance, 0, &request(Call::Status)).contains(" 200 "));
}

#[test]
fn a_daemon_that_may_not_give_its_socket_away_says_so_and_runs() {
    let appliance = Appliance::of(for_user(DAEMON));
    let groups = format!("root:x:0:\ntunneld-admin:x:{ADMINS}:alice\n");
    appliance.write("/run/group", &groups);
    appliance.namespace.run(["chmod", "644", "/run/group"]);
    appliance.namespace.run(["mount", "--bind", "/run/group", "/etc/group"]);
    let program = format!("{} {}", as_user(DAEMON, &[], &["net_admin"]), executable());
    appliance.start(&program);
    appliance.apply("version = 1\n");
    let log = appliance.log();
    assert!(
        log.contains(&format!("admin group (gid {ADMINS})")) && log.contains("SupplementaryGroups="),
        "{log}"
    );
}
