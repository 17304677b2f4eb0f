//! The caching algorithms, one file each.
