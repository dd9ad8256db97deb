//! Detect, decide, repair: checkers, failover rules and the loop guard of one module.

pub mod resource;
pub mod rules;
