//! Whose key a tunnel has, and when that is told.

use super::*;

#[tokio::test]
async fn a_renamed_tunnel_says_that_its_identity_changes_and_keeps_it_on_request() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::start(directory.path(), &world());
    let service = bench.service();
    let report = service.apply(submission("10.0.0.1"), author()).await.unwrap();
    let key = service.status().await.unwrap().tunnels[0].public_key.unwrap();
    assert!(report.plan.keys[0].reason.contains(&key.to_string()), "{report:?}");
    let again = service.apply(submission("10.0.0.1"), author()).await.unwrap();
    assert!(again.plan.keys.is_empty(), "told once: {again:?}");

    let renamed = |line: &str| Submission {
        document: submission("10.0.0.1").document.replace("name = \"wg0\"", line),
        ..submission("")
    };
    let new_key = service.plan(renamed("name = \"wg1\"")).await.unwrap().keys;
    assert!(
        new_key[0].reason.contains("private-key-generated = \"wg0\""),
        "{new_key:?}"
    );
    let line = "name = \"wg1\"\nprivate-key-generated = \"wg0\"";
    assert!(service.plan(renamed(line)).await.unwrap().keys.is_empty());
    service.apply(renamed(line), author()).await.unwrap();
    assert_eq!(service.status().await.unwrap().tunnels[0].public_key, Some(key));
    let report = service.apply(renamed("name = \"wg1\""), author()).await.unwrap();
    let other = service.status().await.unwrap().tunnels[0].public_key.unwrap();
    assert_ne!(other, key);
    let told = &report.plan.keys[0].reason;
    assert!(
        told.contains(&other.to_string()) && told.contains("private-key-generated = \"wg0\""),
        "{told}"
    );
}
