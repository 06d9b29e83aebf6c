//! What time it is: the clock that signals are dated by, and how far it is off.

use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler};
use p2p_core::clock::ntp::Report;
use tracing::{debug, error, info};

use super::Root;
use crate::drive::now;
use crate::ntp::{FromNtp, Measure, Ntp};
use crate::shared::system_clock;
use crate::signal::SetClock;

/// How often the clock is compared with the system's, and how far they may be apart.
const MIND_THE_CLOCK: Duration = Duration::from_secs(10);
const MOST_DRIFT: Duration = Duration::from_secs(1);

/// If they move apart by more than this between two looks, what NTP servers said is void. A system that corrects its
/// clock smoothly, by 500 ppm at most, moves it 5 ms.
const MOST_STEP: Duration = Duration::from_millis(20);

impl Root {
    /// Compares the clock the node has counted on with the system's: a suspended machine does not count, and an
    /// administrator or NTP may have set the time. Signals are dated, so all who date them must agree.
    pub(super) fn mind_the_clock(&mut self, ctx: &mut Context<Self>) {
        ctx.run_later(MIND_THE_CLOCK, |this, ctx| {
            let (now, clock) = (now(), system_clock());
            let (counted, told) = (this.shared.clock.get().unix(now), clock.unix(now));
            let apart = i128::from(told.0) - i128::from(counted.0);
            let is_more_than = |micros: i128, span: Duration| micros.unsigned_abs() > span.as_micros();
            if is_more_than(apart, MOST_DRIFT) {
                info!("the clock was set, or stood still");
                this.shared.clock.set(clock);
                if let Some(router) = &this.router {
                    router.do_send(SetClock);
                }
                this.publish_address();
                this.measure_anew();
                this.apart = 0;
            } else {
                if is_more_than(apart - this.apart, MOST_STEP) {
                    this.measure_anew();
                }
                this.apart = apart;
            }
            this.mind_the_clock(ctx);
        });
    }

    /// Asks NTP servers, if there are any in the configuration.
    pub(super) fn start_ntp(&mut self, ctx: &mut Context<Self>) {
        if self.config.ntp.is_empty() {
            return;
        }
        let owner = ctx.address().downgrade().recipient();
        let families = self.config.families.iter().copied().collect();
        let (clock, seed) = (self.shared.clock.get(), self.shared.fork("ntp"));
        match Ntp::new(self.config.ntp.clone(), families, clock, seed, owner) {
            Ok(ntp) => self.ntp = Some(ntp.start()),
            Err(why) => error!(%why, "NTP is not used"),
        }
    }

    fn measure_anew(&self) {
        if let Some(ntp) = &self.ntp {
            // At once, not when the actor comes to it: nobody may rely on it any more.
            self.shared.ntp.set(None);
            ntp.do_send(Measure(self.shared.clock.get()));
        }
    }

    fn publish_time(&self, report: Report) {
        let servers = self.config.ntp.iter().cloned().zip(report.servers).collect();
        self.status.send_modify(|status| {
            status.ntp.measured = self.shared.ntp.get();
            status.ntp.servers = servers;
        });
    }
}

impl Handler<FromNtp> for Root {
    type Result = ();

    fn handle(&mut self, FromNtp(report): FromNtp, _: &mut Context<Self>) {
        if let Some(measured) = &report.measured {
            debug!(offset = %measured.offset(now()), "the true time, by NTP");
        }
        self.shared.ntp.set(report.measured);
        self.publish_time(report);
    }
}
