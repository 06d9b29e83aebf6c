//! One actor per signalling channel.
