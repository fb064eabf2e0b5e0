//! The README's commands, as they stand there.

use std::path::Path;

use crate::{appliance::Appliance, harness::executable};

fn readme() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// The indented lines that follow a heading.
fn commands<'a>(readme: &'a str, heading: &str) -> Vec<&'a str> {
    let section = readme.split_once(heading).expect("the heading is there").1;
    let lines = section.lines().skip_while(|line| !line.starts_with("    "));
    lines
        .take_while(|line| line.starts_with("    "))
        .map(str::trim)
        .collect()
}

#[test]
fn the_commands_of_every_day_work_in_their_order() {
    let readme = readme();
    let document = readme.split_once("```toml\n").unwrap().1.split("```").next().unwrap();
    let left = Appliance::new();
    left.namespace.ip("link add lan0 type bridge");
    left.namespace.ip("addr add 192.168.7.2/24 dev lan0");
    left.namespace.ip("link set lan0 up");
    left.key("/run/wg0.key");
    let document = document.replace("/etc/tunneld/wg0.key", "/run/wg0.key");
    left.write("/run/site.toml", &document);
    left.namespace.run(["ln", "-s", executable(), "/run/tunneld-now"]);
    let commands = commands(&readme, "## Every day");
    assert!(commands.len() >= 8, "{commands:?}");
    for command in commands {
        let line = command.replacen("tunneld", "/run/tunneld-now", 1);
        let output = left.namespace.try_run(["sh", "-c", &format!("cd /run && {line}")]);
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {said}");
    }
    assert_eq!(left.status()["state"]["is"], "in-sync", "{}", left.status());
}
