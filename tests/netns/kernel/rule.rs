//! Policy rules: every shape in both families, duplicates, foreign twins.

use tunneld::model::{
    desired::{Action, Rule},
    document::{Family, RuleAction},
    observed::{RuleCount, Scope},
    ports::{ErrorClass, Operation},
    types::{Fwmark, TableId},
};

use super::{apply, apply_all, observe, world};

fn rule(family: Family, priority: u32) -> Rule {
    Rule::lookup(family, priority, TableId::new(51820))
}

fn rules() -> Vec<Rule> {
    let mut rules = Vec::new();
    for (family, from, to) in [
        (Family::Ipv4, "10.1.0.0/16", "20.20.20.0/24"),
        (Family::Ipv6, "fd00:1::/48", "2001:db8::/32"),
    ] {
        rules.push(Rule {
            not: true,
            fwmark: Some((Fwmark::new(51820), Fwmark::new(u32::MAX))),
            ..rule(family, 100)
        });
        rules.push(Rule {
            action: Action::Lookup(TableId::MAIN),
            suppress_prefixlength: Some(0),
            ..rule(family, 101)
        });
        rules.push(Rule {
            from: from.parse().ok(),
            to: to.parse().ok(),
            iif: "wg0".parse().ok(),
            oif: "wg1".parse().ok(),
            fwmark: Some((Fwmark::new(0x10), Fwmark::new(0xf0))),
            action: Action::Lookup(TableId::new(100_000)),
            ..rule(family, 102)
        });
        for (priority, verdict) in [
            (103, RuleAction::Blackhole),
            (104, RuleAction::Unreachable),
            (105, RuleAction::Prohibit),
        ] {
            rules.push(Rule {
                from: from.parse().ok(),
                action: Action::Verdict(verdict),
                ..rule(family, priority)
            });
        }
    }
    rules
}

#[test]
fn every_kind_of_rule_reads_back_and_is_deleted_alone() {
    let namespace = world();
    let before = (namespace.ip("rule show"), namespace.ip("-6 rule show"));
    let rules = rules();
    let additions: Vec<_> = rules.iter().cloned().map(|rule| Operation::AddRule { rule }).collect();
    apply_all(&namespace, &additions);
    let observed = observe(&namespace, &Scope::default());
    for rule in &rules {
        assert_eq!(
            observed.rules.get(rule),
            Some(&RuleCount { ours: 1, foreign: 0 }),
            "{rule:?}"
        );
    }
    assert_eq!(observed.rules.len(), rules.len());
    let shown = namespace.ip_json("rule show priority 102");
    assert_eq!(shown[0]["table"], "100000", "{shown:#}");
    let failure = apply(&namespace, &additions[..1]).failure.unwrap();
    assert_eq!(failure.class, ErrorClass::Changed, "a duplicate is refused: {failure}");

    let deletions: Vec<_> = rules.into_iter().map(|rule| Operation::DeleteRule { rule }).collect();
    apply_all(&namespace, &deletions);
    assert_eq!((namespace.ip("rule show"), namespace.ip("-6 rule show")), before);
    let failure = apply(&namespace, &deletions[..1]).failure.unwrap();
    assert_eq!(failure.class, ErrorClass::Changed, "{failure}");
}

#[test]
fn foreign_twins_of_rules_are_counted_and_kept() {
    let namespace = world();
    let twin = rule(Family::Ipv4, 100);
    namespace.ip("rule add priority 100 table 51820");
    namespace.ip("rule add priority 99 table 51820");
    apply_all(&namespace, &[Operation::AddRule { rule: twin.clone() }]);
    let scope = Scope {
        rules: [twin.clone()].into(),
        ..Scope::default()
    };
    let counted = observe(&namespace, &scope).rules;
    assert_eq!(counted, [(twin.clone(), RuleCount { ours: 1, foreign: 1 })].into());
    apply_all(&namespace, &[Operation::DeleteRule { rule: twin.clone() }]);
    let counted = observe(&namespace, &scope).rules;
    assert_eq!(counted, [(twin.clone(), RuleCount { ours: 0, foreign: 1 })].into());
    let applied = apply(&namespace, &[Operation::DeleteRule { rule: twin }]);
    assert_eq!(applied.failure.unwrap().class, ErrorClass::Changed);
    assert_eq!(namespace.ip_json("rule show priority 100").as_array().unwrap().len(), 1);
}
