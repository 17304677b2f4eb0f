//! x
pub(crate) fn run(_options: &crate::arguments::InspectOptions) -> anyhow::Result<()> { Ok(()) }
