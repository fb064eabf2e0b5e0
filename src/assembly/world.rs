//! The ports as one: a reading passes through all, each operation goes to the one that accepts it.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::timeout;

use super::{Engines, READING, RUN};
use crate::model::{
    observed::{Observed, Scope},
    ports::{Applied, ErrorClass, ObserveError, Operation, OperationError, Port, Progress},
    types::InterfaceName,
};

/// The most operations handed to a port at once: what a small board carries out well within `RUN`.
pub const MOST_OPERATIONS: usize = 1 << 17;

/// Everything that can be observed and changed.
pub struct World {
    kernel: Box<dyn Port>,
    engines: Box<dyn Engines>,
    patience: (Duration, Duration),
    progress: Progress,
}

impl World {
    /// A world of these ports.
    pub fn new(mut kernel: Box<dyn Port>, engines: Box<dyn Engines>) -> Self {
        let progress = Progress::default();
        kernel.count_in(progress.clone());
        Self {
            kernel,
            engines,
            patience: (READING, RUN),
            progress,
        }
    }

    /// How far the operations under way have come.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Reads everything that `scope` names. The engines come after the kernel, whose links they need.
    ///
    /// # Errors
    /// When a part cannot be read, or not in time.
    pub async fn observe(&mut self, scope: &Scope) -> Result<Observed, ObserveError> {
        let mut observed = Observed::default();
        let reading = async {
            self.kernel.observe(scope, &mut observed).await?;
            self.engines.observe(scope, &mut observed).await
        };
        match timeout(self.patience.0, reading).await {
            Ok(result) => result.map(|()| observed),
            Err(_) => Err(ObserveError {
                what: "the kernel and the engines".to_owned(),
                reason: format!("no answer within {} s", self.patience.0.as_secs()),
                class: ErrorClass::Transient,
            }),
        }
    }

    /// Carries out operations in order and stops at the first failure.
    pub async fn apply(&mut self, operations: &[Operation]) -> Applied {
        self.progress.begin(operations.len());
        let applied = self.carry_out(operations).await;
        self.progress.begin(0);
        applied
    }

    async fn carry_out(&mut self, operations: &[Operation]) -> Applied {
        let mut done = 0;
        while let Some(rest) = operations.get(done..).filter(|rest| !rest.is_empty()) {
            let (run, applying) = match self.owner(rest) {
                Some(Owner::Engines(run)) => (run, self.engines.apply(run)),
                Some(Owner::Kernel(run)) => (run, self.kernel.apply(run)),
                None => {
                    let failure = rest.first().map(nobody);
                    return Applied { done, failure };
                }
            };
            let Ok(applied) = timeout(self.patience.1, applying).await else {
                // How far it came is not known; what is read next will tell.
                let failure = run.first().map(|operation| late(operation, self.patience.1));
                return Applied { done, failure };
            };
            done += applied.done;
            self.progress.reach(done);
            if applied.failure.is_some() || applied.done < run.len() {
                let failure = applied.failure;
                return Applied { done, failure };
            }
        }
        Applied { done, failure: None }
    }

    /// Whose the first operation is, with those that follow and are the same port's.
    fn owner<'a>(&self, operations: &'a [Operation]) -> Option<Owner<'a>> {
        let first = operations.first()?;
        let run = |accepts: &dyn Fn(&Operation) -> bool| {
            let same = operations.iter().take(MOST_OPERATIONS);
            let count = same.take_while(|operation| accepts(operation)).count();
            operations.get(..count).unwrap_or(operations)
        };
        if self.engines.accepts(first) {
            Some(Owner::Engines(run(&|operation| self.engines.accepts(operation))))
        } else if self.kernel.accepts(first) {
            Some(Owner::Kernel(run(&|operation| self.kernel.accepts(operation))))
        } else {
            None
        }
    }

    /// Versions of the engines that answered at the last observation.
    pub fn versions(&self) -> BTreeMap<InterfaceName, String> {
        self.engines.versions()
    }

    /// Moves the engine of `name` to the program that this daemon runs.
    ///
    /// # Errors
    /// One line with the attempt and the reason.
    pub async fn replace_engine(&mut self, name: &InterfaceName) -> Result<(), String> {
        let replaced = timeout(self.patience.1, self.engines.replace(name)).await;
        replaced.unwrap_or_else(|_| {
            let seconds = self.patience.1.as_secs();
            Err(format!("replace the engine of {name}: no answer within {seconds} s"))
        })
    }
}

enum Owner<'a> {
    Kernel(&'a [Operation]),
    Engines(&'a [Operation]),
}

fn nobody(operation: &Operation) -> OperationError {
    OperationError {
        attempt: operation.attempt(),
        reason: "nothing on this host can do that".to_owned(),
        class: ErrorClass::Unsupported,
    }
}

fn late(operation: &Operation, patience: Duration) -> OperationError {
    OperationError {
        attempt: operation.attempt(),
        reason: format!("no answer within {} s", patience.as_secs()),
        class: ErrorClass::Transient,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use async_trait::async_trait;

    use super::*;
    use crate::model::{
        ports::Backend,
        types::{Mtu, TableId},
    };

    type Runs = Arc<Mutex<Vec<(Backend, usize)>>>;

    /// Accepts one backend, notes the sizes of runs, fails or hangs when asked.
    #[derive(Clone)]
    struct Recorder {
        backend: Backend,
        runs: Runs,
        hangs: bool,
    }

    #[async_trait]
    impl Port for Recorder {
        async fn observe(&mut self, _: &Scope, _: &mut Observed) -> Result<(), ObserveError> {
            if self.hangs {
                std::future::pending::<()>().await;
            }
            Ok(())
        }

        fn accepts(&self, operation: &Operation) -> bool {
            match operation {
                Operation::CreateLink { backend, .. } => *backend == self.backend,
                Operation::SetUp { .. } => self.backend == Backend::Kernel,
                _ => false,
            }
        }

        async fn apply(&mut self, operations: &[Operation]) -> Applied {
            if self.hangs {
                std::future::pending::<()>().await;
            }
            self.runs.lock().unwrap().push((self.backend, operations.len()));
            Applied {
                done: operations.len(),
                failure: None,
            }
        }
    }

    #[async_trait]
    impl Engines for Recorder {
        fn versions(&self) -> BTreeMap<InterfaceName, String> {
            BTreeMap::new()
        }

        async fn replace(&mut self, _: &InterfaceName) -> Result<(), String> {
            Ok(())
        }
    }

    fn world(hangs: bool) -> (World, Runs) {
        let runs = Runs::default();
        let port = |backend| Recorder {
            backend,
            runs: Arc::clone(&runs),
            hangs,
        };
        let (kernel, engines) = (port(Backend::Kernel), port(Backend::Userspace));
        (World::new(Box::new(kernel), Box::new(engines)), runs)
    }

    fn create(backend: Backend) -> Operation {
        Operation::CreateLink {
            name: "wg0".parse().unwrap(),
            backend,
            mtu: Mtu::ETHERNET,
        }
    }

    #[tokio::test]
    async fn operations_go_in_order_and_in_runs_to_the_port_that_accepts_them() {
        let (mut world, runs) = world(false);
        let up = Operation::SetUp {
            name: "wg0".parse().unwrap(),
        };
        let mut operations = vec![up; 2 * MOST_OPERATIONS + 50];
        operations.insert(3, create(Backend::Userspace));
        let applied = world.apply(&operations).await;
        assert_eq!((applied.done, applied.failure), (operations.len(), None));
        let (kernel, engine) = (Backend::Kernel, Backend::Userspace);
        let most = MOST_OPERATIONS;
        let expected = [(kernel, 3), (engine, 1), (kernel, most), (kernel, most), (kernel, 47)];
        assert_eq!(*runs.lock().unwrap(), expected);
    }

    #[tokio::test]
    async fn what_no_port_accepts_is_an_error_of_its_own() {
        let (mut world, _) = world(false);
        let key = crate::model::desired::RouteKey {
            table: TableId::MAIN,
            prefix: "20.20.20.0/24".parse().unwrap(),
            metric: 10,
        };
        let route = crate::model::desired::Route {
            kind: crate::model::document::RouteKind::Blackhole,
            nexthops: Vec::new(),
            mtu: None,
            source: None,
        };
        let applied = world
            .apply(&[create(Backend::Kernel), Operation::AddRoute { key, route }])
            .await;
        assert_eq!(applied.done, 1);
        assert_eq!(applied.failure.unwrap().class, ErrorClass::Unsupported);
    }

    #[tokio::test]
    async fn nobody_waits_for_ever() {
        let (mut world, _) = world(true);
        world.patience = (Duration::from_millis(10), Duration::from_millis(10));
        let applied = world.apply(&[create(Backend::Kernel)]).await;
        assert_eq!(applied.failure.unwrap().class, ErrorClass::Transient);
        let error = world.observe(&Scope::default()).await.unwrap_err();
        assert!(error.to_string().contains("no answer within"), "{error}");
    }
}
