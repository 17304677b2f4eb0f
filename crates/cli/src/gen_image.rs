//! `refrain gen image`
pub(crate) mod names;
pub(crate) mod options;
pub(crate) fn run(call: options::GenImageCall, _verbosity: crate::events::Verbosity) -> anyhow::Result<()> { println!("{call:?}"); Ok(()) }
