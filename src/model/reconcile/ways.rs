//! The guard for the way in, as the loop keeps it: what has to be read for it, and when it refuses.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use super::Machine;
use crate::model::{
    desired::Desired,
    guard::{self, Guarded, Question},
    observed::{Observed, Scope},
    plan,
    ports::Operation,
    service::{CUT_CONFIRM, Failure, FailureKind},
    status::Finding,
};

impl Machine {
    /// Adds to `scope` what [`Self::cut`] needs.
    pub fn watch(&self, scope: &mut Scope, desired: &Desired, present: &[Guarded]) {
        scope.ways = self.ways(desired, &self.guarded(desired, present));
    }

    /// Whom the plan's operations for `desired` would cut off, if `observed` was read as [`Self::watch`] says.
    pub fn cut(
        &self,
        desired: &Desired,
        observed: &Observed,
        operations: &[Operation],
        present: &[Guarded],
    ) -> Vec<Finding> {
        let guarded = self.guarded(desired, present);
        if guarded.is_empty() {
            return Vec::new();
        }
        let question = Question {
            guarded: &guarded,
            ways: &self.ways(desired, &guarded),
            endpoints: &plan::endpoints(desired, &self.names.addresses()),
        };
        guard::cut(&question, observed, desired, operations)
    }

    /// The destinations around which routes matter: whoever is guarded, endpoints, and gateways.
    fn ways(&self, desired: &Desired, guarded: &[Guarded]) -> BTreeSet<IpAddr> {
        if guarded.is_empty() {
            return BTreeSet::new();
        }
        let resolved = self.names.addresses();
        let states = self.live.iter().map(|live| &*live.desired).chain([desired]);
        let endpoints = states.flat_map(|state| plan::endpoints(state, &resolved).into_values());
        let devices = self.observed.iter().flat_map(|observed| observed.wireguard.values());
        let roamed = devices.flat_map(|device| device.peers.values().filter_map(|peer| peer.endpoint));
        let hops = desired.routes.values().flat_map(|route| &route.nexthops);
        let gateways = hops.filter(|hop| hop.device.is_none()).filter_map(|hop| hop.via);
        let others = endpoints.chain(roamed.map(|endpoint| endpoint.ip())).chain(gateways);
        guard::destinations(guarded, others.map(|address: IpAddr| address.to_canonical()))
    }

    fn guarded(&self, desired: &Desired, present: &[Guarded]) -> Vec<Guarded> {
        let live = self.live.as_ref().map(|live| &*live.desired);
        let networks = guard::management(desired, live);
        present.iter().cloned().chain(networks).collect()
    }

    /// Why the job must not begin: it would cut somebody off, and nobody said that it may. If somebody did, it has
    /// to be confirmed.
    pub(super) fn refusal(&mut self, operations: &[Operation]) -> Option<Failure> {
        let submission = self.job.as_ref()?.asked()?;
        let (observed, may_cut) = (self.observed.as_ref()?, submission.may_cut);
        let cut = self.cut(&submission.desired, observed, operations, &submission.present);
        if cut.is_empty() {
            return None;
        }
        if may_cut {
            let time = Duration::from_secs(CUT_CONFIRM.into());
            self.job.as_mut()?.on_trial(cut, time);
            return None;
        }
        let message = "it would cut off whoever reaches this appliance now, so nothing was changed; \
                       next: --may-cut --confirm TIME, and 'tunneld confirm' by the new way";
        Some(Failure {
            findings: cut,
            ..Failure::new(FailureKind::WouldCut, message)
        })
    }
}
