//! Training of cache routers.
