//! The shared parts of the examples. Each program in `src/bin` is one example:
//!
//! | program | what it shows |
//! |---|---|
//! | `hello` | two nodes, an address, a pipe |
//! | `tunnel` | a TCP port here that leads to a service beside a peer |
//! | `nat` | what the network is, for people and for programs |
//! | `embed` | the actors inside a program that already runs an actix `System` |

pub mod tunnel;
