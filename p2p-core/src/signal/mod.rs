//! (being built)

pub mod link;
