//! A rendezvous in one process: MQTT broker, STUN server.

pub mod broker;
pub mod stun;
