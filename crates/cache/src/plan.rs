//! The table `[step][site]` of actions.

/// A plan: what every site does at every step.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {}
