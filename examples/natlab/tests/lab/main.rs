//! Tests of labs with real kernels and namespaces, and the simulator's NATs between them.
//!
//! These tests print the reason and count as skipped where labs cannot be made, unless `P2P_LAB=require`.

mod accuracy;
mod agreement;
mod cleanup;
mod judge;
mod life;
mod linux;
mod nat;
mod punching;
mod readme;
mod support;
mod unprivileged;
mod upnp;
