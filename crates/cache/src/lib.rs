//! Sites, plans, policies and the feature store.
