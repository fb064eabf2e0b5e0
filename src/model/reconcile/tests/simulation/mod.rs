//! Simulated days: the machine in a world with weather, other people's hands, callers, kills and reboots,
//! all by one seed. After every step [`witness`] asks whether what must hold holds.
//!
//! `SEED=7 HOURS=30 cargo test --lib simulation` repeats a seed and tells its last steps when it fails. A
//! change of anything that rolls the dice makes other days of the same seeds.

mod callers;
mod dice;
mod documents;
mod hands;
mod landscape;
mod lives;
mod phases;
mod process;
mod proof;
mod weather;
mod witness;

use std::{
    collections::{BTreeMap, VecDeque},
    env,
    num::NonZero,
    ops::RangeInclusive,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, SystemTime},
};

use dice::Dice;
use lives::Process;
use phases::Phase;
use weather::Weather;
use witness::Witness;

use super::bench::Disk;
use crate::{
    fake::World,
    model::{
        desired::Desired,
        observed::{Observed, Scope},
        ports::Operation,
        reconcile::{Answer, Effect, Event, Note, Now, Ticket, Write},
        types::HostName,
    },
};

const HOUR: Duration = Duration::from_secs(3600);

/// Steps that are told when a seed is repeated.
const TOLD: usize = 400;

/// Something that is going to happen.
enum Happening {
    /// To the process: an answer, an announcement, a request.
    Event(Event),
    /// A reading has come to its middle, or to its end.
    HalfRead(Scope),
    Read(Scope, Box<Observed>),
    /// The operation of this number is carried out.
    Operation(Vec<Operation>, usize),
    /// A write reaches the disk.
    Write(Write),
    /// The process starts.
    Start,
    /// Somebody else changes something.
    Hand,
    /// Somebody wants something.
    Caller,
    /// The process dies, or the appliance does.
    Kill,
    Reboot,
    /// Another part of the day begins.
    Phase(Phase),
}

struct Sim {
    dice: Dice,
    /// Since the simulation began; and what the wall says.
    time: Duration,
    wall: SystemTime,
    /// By time and order; those of a process end with it.
    agenda: BTreeMap<(Duration, u64), (Option<u64>, Happening)>,
    scheduled: u64,
    process: Option<Process>,
    life: u64,
    world: World,
    /// What the store holds for true, and what a new process would find.
    disk: Disk,
    platter: Disk,
    weather: Weather,
    phase: Phase,
    dns: BTreeMap<HostName, Answer>,
    /// Key files change when this does.
    keys: u32,
    documents: BTreeMap<Ticket, Desired>,
    last_ticket: Ticket,
    /// An announcement that is on its way: whether it is of foreign objects only.
    announced: Option<bool>,
    /// Something was announced that no reading has begun after.
    unseen: bool,
    /// Hands do what the kernel does not announce, too.
    silent: bool,
    /// The last step put another document in force.
    reverts: bool,
    ipv6: bool,
    witness: Witness,
    steps: u64,
    told: Option<VecDeque<String>>,
}

impl Sim {
    fn new(seed: u64, tell: bool) -> Self {
        let mut dice = Dice::new(seed);
        let world = landscape::new(&mut dice);
        let ipv6 = world.state.capabilities.ipv6;
        let mut sim = Self {
            witness: Witness::new(&world),
            dice,
            time: Duration::ZERO,
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            agenda: BTreeMap::new(),
            scheduled: 0,
            process: None,
            life: 0,
            world,
            disk: Disk::default(),
            platter: Disk::default(),
            weather: Weather::calm(),
            phase: Phase::Settling,
            dns: BTreeMap::new(),
            keys: 0,
            documents: BTreeMap::new(),
            last_ticket: 0,
            announced: None,
            unseen: false,
            silent: false,
            reverts: false,
            ipv6,
            steps: 0,
            told: tell.then(VecDeque::new),
        };
        sim.names();
        sim.at(Duration::ZERO, Happening::Start);
        sim.at(Duration::from_secs(1), Happening::Phase(Phase::Storm));
        sim
    }

    /// Puts something outside of the process on the agenda.
    fn at(&mut self, after: Duration, happening: Happening) {
        self.schedule(after, None, happening);
    }

    /// Puts something on the agenda that ends with the process.
    fn later(&mut self, after: Duration, happening: Happening) {
        self.schedule(after, Some(self.life), happening);
    }

    fn schedule(&mut self, after: Duration, life: Option<u64>, happening: Happening) {
        self.scheduled += 1;
        self.agenda
            .insert((self.time + after, self.scheduled), (life, happening));
    }

    fn run(&mut self, end: Duration) {
        while self.time < end {
            let ((due, number), _) = self.agenda.first_key_value().expect("there is always a next phase");
            let (due, number) = (*due, *number);
            if let Some(deadline) = self.deadline().filter(|deadline| *deadline <= due) {
                self.pass(deadline);
                self.deliver(Event::Tick);
                continue;
            }
            self.pass(due);
            let Some((life, happening)) = self.agenda.remove(&(due, number)) else {
                continue;
            };
            let stalled = self.process.as_ref().map_or(Duration::ZERO, |process| process.stalled);
            if life.is_some() && stalled > self.time {
                self.schedule(stalled - self.time, life, happening);
            } else {
                self.steps += 1;
                self.happen(happening);
            }
        }
    }

    /// When the process wakes up by itself.
    fn deadline(&self) -> Option<Duration> {
        let process = self.process.as_ref()?;
        let due = process.born + process.machine.deadline()?;
        Some(due.max(process.stalled).max(self.time))
    }

    fn pass(&mut self, until: Duration) {
        self.wall += until - self.time;
        self.time = until;
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Event(event) => self.deliver(event),
            Happening::HalfRead(scope) => self.half_read(scope),
            Happening::Read(scope, first) => self.read(&scope, *first),
            Happening::Operation(operations, done) => self.operation(operations, done),
            Happening::Write(write) => self.write(&write),
            Happening::Start => self.start(),
            Happening::Hand => self.hand(),
            Happening::Caller => self.caller(),
            Happening::Kill => self.kill(false),
            Happening::Reboot => self.kill(true),
            Happening::Phase(phase) => self.begin(phase),
        }
    }

    fn now(&self, process: &Process) -> Now {
        Now {
            monotonic: self.time - process.born,
            wall: self.wall,
        }
    }

    /// Hands an event to the machine, and looks at what it makes of it.
    fn deliver(&mut self, event: Event) {
        let Some(mut process) = self.process.take() else { return };
        let now = self.now(&process);
        self.tell(|| format!("  {event:?}"));
        match &event {
            Event::Announced { .. } => {
                self.announced = None;
                self.unseen = true;
            }
            Event::Resolved(..) | Event::SecretsRead(_) | Event::Reload => self.witness.disturbed(),
            _ => {}
        }
        process.ticks = if matches!(event, Event::Tick) {
            process.ticks + 1
        } else {
            0
        };
        let answers = matches!(
            event,
            Event::SecretsRead(_) | Event::Observed(_) | Event::Applied(_) | Event::Stored(_)
        );
        let whole = matches!(&event, Event::Applied(applied) if applied.failure.is_none());
        process.waits &= !answers;
        let effects = process.machine.handle(event, now);
        let steps = effects.iter().filter(|effect| is_step(effect)).count();
        assert!(
            steps + usize::from(process.waits) <= 1,
            "one step at a time: {effects:?}"
        );
        process.waits |= steps > 0;
        if !effects.is_empty() {
            process.ticks = 0;
        }
        assert!(process.ticks < 4, "a deadline that nothing comes of");
        self.process = Some(process);
        self.reverts = effects
            .iter()
            .any(|effect| matches!(effect, Effect::Note(Note::Reverting { .. })));
        if whole {
            self.proves_whole();
        }
        for effect in effects {
            self.tell(|| match &effect {
                Effect::Execute(operations) => {
                    let lines: Vec<_> = operations.iter().map(Operation::attempt).collect();
                    format!("    -> {lines:#?}")
                }
                effect => format!("    -> {effect:?}"),
            });
            self.carry_out(effect);
        }
        self.proves_step();
    }

    /// Something changed in the world: the kernel says so, or that it could not say it.
    fn announce(&mut self, foreign: bool) {
        self.witness.announced();
        if self.process.is_none() || self.announced.is_some_and(|pending| !pending || foreign) {
            return;
        }
        let most = Duration::from_millis(if self.dice.chance(self.weather.overrun) {
            2000
        } else {
            30
        });
        let time = self.dice.between(Duration::from_micros(10), most);
        self.announced = Some(foreign);
        self.later(time, Happening::Event(Event::Announced { foreign }));
    }

    fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(told) = &mut self.told {
            if told.len() == TOLD {
                told.pop_front();
            }
            let mut line = line();
            line.truncate(line.floor_char_boundary(3000));
            told.push_back(format!("{:?} {line}", self.time));
        }
    }
}

fn is_step(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::ReadSecrets(_) | Effect::Observe(_) | Effect::Execute(_) | Effect::Store(_)
    )
}

/// Says how to repeat it if a seed fails.
struct Replay {
    seed: u64,
    hours: u32,
}

impl Drop for Replay {
    fn drop(&mut self) {
        if thread::panicking() {
            let Self { seed, hours } = self;
            eprintln!("repeat it with: SEED={seed} HOURS={hours} cargo test --lib simulation");
        }
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("after {} steps, at {:?}:", self.steps, self.time);
            for line in self.told.iter().flatten() {
                eprintln!("{line}");
            }
        }
    }
}

fn number<T: std::str::FromStr>(variable: &str) -> Option<T> {
    let text = env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}: {text} is no number")),
    )
}

fn simulate(seed: u64, hours: u32, tell: bool) -> (u64, witness::Counts) {
    let _replay = Replay { seed, hours };
    let mut sim = Sim::new(seed, tell);
    sim.run(HOUR * hours);
    (sim.steps, sim.witness.counts())
}

/// The seeds of every run; `SEED` is one of somebody's choice, and `SEEDS` so many new ones.
const SEEDS: RangeInclusive<u64> = 1..=12;

#[test]
fn days_under_faults_end_well() {
    let hours = number("HOURS").unwrap_or(24);
    if let Some(seed) = number("SEED") {
        return report(seed, hours, &simulate(seed, hours, true));
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let new = |count: u64| now.as_secs() * 1000..=now.as_secs() * 1000 + count - 1;
    let seeds = Mutex::new(number("SEEDS").map_or(SEEDS, new));
    let next = || seeds.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some(seed) = next() {
            report(seed, hours, &simulate(seed, hours, false));
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(work);
        }
    });
}

fn report(seed: u64, hours: u32, (steps, counts): &(u64, witness::Counts)) {
    println!("seed {seed}: {hours} h, {steps} steps, {counts:?}");
    counts.assert_eventful(hours);
}
