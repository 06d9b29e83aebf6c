//! The ways to TURN servers.

#[cfg_attr(not(test), expect(dead_code, reason = "no actor drives a TURN client yet"))]
pub(crate) mod link;
