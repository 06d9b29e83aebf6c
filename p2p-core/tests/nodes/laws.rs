//! The laws of every machine, for whole nodes.

use p2p_core::sim::node::NodeSubject;

p2p_core::machine_laws!(node: NodeSubject);
