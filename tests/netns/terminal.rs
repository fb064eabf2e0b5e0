//! What only a person at a terminal is shown.

use crate::{
    appliance::{Appliance, SOCKET},
    harness::executable,
};

/// A document of so many routes.
fn routes(second: u8, count: u32) -> String {
    let line = |number: u32| {
        let (high, low) = (number >> 8, number & 0xff);
        format!(
            "{{ to = \"30.{second}.{}.{}/32\", via = \"192.0.2.2\" }},\n",
            high & 0xff,
            low
        )
    };
    let lines: String = (0..count).map(line).collect();
    format!("version = 1\nroute = [\n{lines}]\n")
}

#[test]
fn a_long_apply_tells_a_terminal_how_far_it_is_and_a_pipe_nothing() {
    let left = Appliance::new();
    left.namespace.ip("link add lan0 type bridge");
    left.namespace.ip("link set lan0 up");
    left.namespace.ip("addr add 192.0.2.1/24 dev lan0");
    left.write("/run/long.toml", &routes(1, 60_000));
    let program = executable();
    let command = format!("TERM=xterm {program} --socket {SOCKET} apply /run/long.toml");
    let shown = left.namespace.run(["script", "-qec", &command, "/dev/null"]);
    let line = shown.find(" of 60000 operations").unwrap_or_else(|| panic!("{shown}"));
    // It is gone before anything else is said.
    let rest = &shown[line..];
    assert!(
        rest.find("\r\x1b[K").unwrap() < rest.find("is in force").unwrap(),
        "{rest}"
    );

    let piped = left.try_tunneld(&["apply", "-"], &routes(2, 60_000));
    assert!(piped.status.success());
    assert_eq!(String::from_utf8_lossy(&piped.stderr), "");
}
