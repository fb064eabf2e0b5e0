//! A reading that finds nothing to do: 100,000 routes of ours in the kernel, and a plan that is empty.

use std::{
    collections::BTreeMap,
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use tunneld::model::{
    check,
    desired::Desired,
    ledger::Ledger,
    observed::Scope,
    plan::{self, Inputs, Plan, Secrets},
};

use crate::{
    contest::{Scale, in_turns},
    harness::Namespace,
    netlink,
    process::{cpu_of_children, cpu_of_self, time},
    question::{Question, Unit},
    uplink::{self, GATEWAYS},
};

#[derive(Clone, Copy)]
enum Contender {
    Show,
    Reconcile,
    Raw,
}

impl Contender {
    fn name(self) -> &'static str {
        match self {
            Self::Show => "ip route show",
            Self::Reconcile => "tunneld, read and compare",
            Self::Raw => "raw netlink, read",
        }
    }
}

pub(crate) fn run(scale: Scale) -> Vec<Question> {
    let count = scale.pick(100_000, 500);
    let namespace = Namespace::new();
    uplink::make(&namespace);
    let (_, desired, _) = check::validate(&uplink::document(count, GATEWAYS[0])).expect("a document");
    namespace.block_on(async || program(&desired).await);
    let (title, peer) = (format!("{count} routes: nothing to do"), Contender::Show.name());
    let mut times = Question::new("reconcile", &title, Unit::Seconds, peer);
    let mut costs = Question::new("reconcile-cpu", format!("{title}: CPU time"), Unit::Seconds, peer);
    let contenders = [Contender::Show, Contender::Reconcile, Contender::Raw];
    in_turns(scale.pick(11, 1), &contenders, |contender| {
        let (took, cost) = match contender {
            Contender::Show => {
                let before = cpu_of_children();
                let took = namespace.enter(|| time(Command::new("ip").args(["route", "show"])));
                (took, cpu_of_children() - before)
            }
            Contender::Reconcile => namespace.block_on(async || reconcile(&desired).await),
            Contender::Raw => {
                let (began, before) = (Instant::now(), cpu_of_self());
                let found = namespace.enter(netlink::dump);
                assert!(found >= count as usize, "{found} routes");
                (began.elapsed(), cpu_of_self() - before)
            }
        };
        times.record("no-op", contender.name(), took.as_secs_f64());
        costs.record("no-op", contender.name(), cost.as_secs_f64());
    });
    vec![times, costs]
}

fn plan(desired: &Desired, observed: &tunneld::model::observed::Observed) -> Plan {
    let inputs = Inputs {
        secrets: &Secrets::default(),
        resolved: &BTreeMap::new(),
        ledger: &Ledger::default(),
        now: SystemTime::now(),
    };
    plan::diff(desired, observed, &inputs)
}

fn scope(desired: &Desired) -> Scope {
    plan::scope(desired, None, &Ledger::default(), &BTreeMap::new())
}

/// Makes the kernel equal to `desired`.
async fn program(desired: &Desired) {
    let mut world = uplink::world();
    let observed = world.observe(&scope(desired)).await.expect("the world");
    let plan = plan(desired, &observed);
    let applied = world.apply(&plan.operations).await;
    assert_eq!((applied.done, applied.failure), (plan.operations.len(), None));
}

/// One turn of the loop, by a world that has read before and knows what the kernel can do.
async fn reconcile(desired: &Desired) -> (Duration, Duration) {
    let mut world = uplink::world();
    world.observe(&Scope::default()).await.expect("the world");
    let (began, before) = (Instant::now(), cpu_of_self());
    let observed = world.observe(&scope(desired)).await.expect("the world");
    let plan = plan(desired, &observed);
    let result = (began.elapsed(), cpu_of_self() - before);
    assert!(plan.is_empty(), "{:?}", plan.operations.first());
    result
}
