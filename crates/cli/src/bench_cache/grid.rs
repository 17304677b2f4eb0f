//! The rivals' own grids: each hand-made policy under many settings, so that a learned router is held against the best of each.

use super::contender::Contender;

/// Settings of each hand-made policy, as `--policies` spells them.
const GRID: [&str; 31] = [
    "interval:n=2",
    "interval:n=3",
    "interval:n=4",
    "interval:n=1+model=2",
    "interval:n=1+model=3",
    "interval:n=1+model=4",
    "taylor:n=2+order=1",
    "taylor:n=3+order=1",
    "taylor:n=4+order=1",
    "taylor:n=2+order=2",
    "taylor:n=3+order=2",
    "taylor:n=5+order=2",
    "taylor:n=1+model=2+order=1",
    "taylor:n=1+model=3+order=1",
    "taylor:n=1+model=4+order=1",
    "taylor:n=1+model=2+order=2",
    "taylor:n=1+model=3+order=2",
    "taylor:n=1+model=5+order=2",
    "dbcache:threshold=0.03",
    "dbcache:threshold=0.06",
    "dbcache:threshold=0.12",
    "dbcache:threshold=0.25",
    "dbcache:threshold=0.06+order=1",
    "dbcache:threshold=0.12+order=1",
    "dbcache:threshold=0.25+order=1",
    "easycache:threshold=0.02",
    "easycache:threshold=0.05",
    "easycache:threshold=0.1",
    "easycache:threshold=0.2",
    "easycache:threshold=0.4",
    "easycache:threshold=0.8",
];

/// Every setting of the grid, and the uncached sampler with 15 to 80 % of `steps`.
pub(crate) fn contenders(steps: usize) -> anyhow::Result<Vec<Contender>> {
    let mut all = GRID.into_iter().map(Contender::parse).collect::<anyhow::Result<Vec<_>>>()?;
    for share in [0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8] {
        let fewer = Contender::Steps(((share * steps as f64).round() as usize).max(1));
        if !all.contains(&fewer) {
            all.push(fewer);
        }
    }
    Ok(all)
}
