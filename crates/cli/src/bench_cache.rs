//! `refrain bench cache`
pub(crate) mod options;
pub(crate) use options::BenchCacheOptions;
pub(crate) fn run(_options: BenchCacheOptions, _verbosity: crate::events::Verbosity) -> anyhow::Result<()> { Ok(()) }
