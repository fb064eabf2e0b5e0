//! Worlds and documents with the plan that leads from one to the other, a folder each: `document.toml` is
//! what is desired, `world.txt` says how the world came about (see [`super::scene`]; other documents that
//! it applies stand beside it), `plan.txt` is the plan. `UPDATE_GOLDEN=1` writes the last anew; read the
//! difference before you keep it.
//!
//! Every plan is also carried out in the in-memory world: it must succeed at the first attempt, leave nothing
//! to do and every foreign object as it was.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use tunneld::model::{plan::Plan, reconcile::subject};

use super::scene::{Scene, foreign_objects};

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/plan");
    let mut cases: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.sort();
    cases
}

fn text(plan: &Plan) -> String {
    let mut text = String::new();
    for operation in &plan.operations {
        let (sign, line) = operation.line();
        text += &format!("{sign} {line}\n");
    }
    for waiting in &plan.waiting {
        text += &format!("waiting: {}: {}\n", waiting.object, waiting.reason);
    }
    for conflict in &plan.conflicts {
        text += &format!("conflict: {}: {}\n", conflict.object, conflict.reason);
    }
    match text.is_empty() {
        true => "nothing to do\n".into(),
        false => text,
    }
}

/// The lines of both, those that differ marked; the order of the expected ones.
fn difference(expected: &str, found: &str) -> String {
    let (expected, found): (Vec<_>, Vec<_>) = (expected.lines().collect(), found.lines().collect());
    let common = expected.iter().zip(&found).take_while(|(a, b)| a == b).count();
    let tail = expected[common..]
        .iter()
        .rev()
        .zip(found[common..].iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let mark = |mark: &str, lines: &[&str]| {
        lines
            .iter()
            .map(|line| format!("  {mark} | {line}\n"))
            .collect::<String>()
    };
    mark("        ", &expected[..common])
        + &mark("expected", &expected[common..expected.len() - tail])
        + &mark("found   ", &found[common..found.len() - tail])
        + &mark("        ", &expected[expected.len() - tail..])
}

#[test]
fn every_world_gets_exactly_its_plan() {
    let cases = cases();
    assert!(cases.len() >= 60, "{} cases", cases.len());
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = String::new();
    let mut kinds = BTreeSet::new();
    for case in cases {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let mut scene = Scene::read(&case);
        let desired = scene.document("document.toml");
        let plan = scene.plan(&desired);
        let found = text(&plan);
        kinds.extend(plan.operations.iter().map(subject::kind));
        let file = case.join("plan.txt");
        if update {
            fs::write(&file, &found).unwrap();
        }
        let expected = fs::read_to_string(&file).unwrap_or_default();
        if found != expected {
            wrong += &format!("{name}:\n{}\n", difference(&expected, &found));
        }
        let before = foreign_objects(&scene.world);
        if let Err(error) = scene.carry_out(&plan) {
            wrong += &format!("{name}: {error}\n");
            continue;
        }
        let rest = scene.plan(&desired);
        if !rest.is_empty() {
            wrong += &format!(
                "{name}: carried out, there is still something to do:\n{}\n",
                text(&rest)
            );
        }
        if before != foreign_objects(&scene.world) {
            wrong += &format!("{name}: a foreign object changed\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(kinds, every_kind(), "a kind of operation is in no plan");
}

/// The kinds of operations there are, from the only place that knows them all.
fn every_kind() -> BTreeSet<&'static str> {
    let source = include_str!("../../src/model/reconcile/subject.rs");
    let kinds = source.lines().filter(|line| line.trim().starts_with("Operation::"));
    let kinds: BTreeSet<_> = kinds
        .filter_map(|line| line.split_once("=> \"")?.1.strip_suffix("\","))
        .collect();
    assert!(kinds.len() >= 14, "{kinds:?}");
    kinds
}
