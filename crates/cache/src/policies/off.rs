//! No caching: everything computes, and the report still counts and times it.

use std::sync::Arc;

use super::Descriptor;
use crate::{Action, Ask, CacheError, Policy, RunHeader, Site, Step};

pub(super) const DESCRIPTOR: Descriptor = Descriptor {
    name: "off",
    summary: "compute everything; the output is that of the model alone, bit for bit",
    options: &[],
    parse: |_| Ok(Arc::new(|| Box::new(Off))),
};

/// The policy that computes everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Off;

impl Policy for Off {
    fn name(&self) -> String {
        DESCRIPTOR.name.to_string()
    }

    fn start(&mut self, _header: &RunHeader) -> Result<(), CacheError> {
        Ok(())
    }

    fn decide(&mut self, _ask: &Ask<'_>) -> Action {
        Action::Compute
    }

    fn history_depth(&self, _site: Site, _step: Step) -> usize {
        0
    }
}
