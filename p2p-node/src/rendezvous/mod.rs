//! A rendezvous in one process: MQTT broker, STUN server.

pub mod stun;
