//! One actor per network interface.
