//! TCP hole punching.

mod agree;
mod budget;
mod fire;
mod gather;
mod machine;
mod message;
mod plan;
pub mod side;
mod terms;

pub use agree::{Agree, AgreeAct, AgreeEvent};
pub use budget::{Budget, Limits, Share};
pub use fire::{Fire, FireAct, FireConfig, FireEvent, Socket, Tally, Wave};
pub use machine::{Act, Event, Failed, Punch, PunchConfig, PunchReport};
pub use message::{Answer, MOST_PAIRS, MOST_WAVES, Message, Offer, Step, Timing, Update};
pub use plan::{Mode, NoPlan, Orders, Part, Plan, Shot, Tactic};
pub use side::{Ports, Side};
pub use terms::{Exchange, Stamps, Terms};
