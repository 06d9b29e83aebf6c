//! The channels to brokers, as the node's router wants them.

use actix::{ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use p2p_core::node::{BrokerConfig, ChannelId, RouterAct};
use p2p_core::signal::link::{Event, FailReason, Login};
use tracing::debug;

use super::NodeActor;
use crate::drive::now;
use crate::signal::{self, Bind, Broker, ChannelConfig, Endpoint, FromChannel, Tls};

impl NodeActor {
    pub(super) fn on_router(&mut self, act: RouterAct, ctx: &mut Context<Self>) {
        match act {
            RouterAct::Open { channel, url, configured } => {
                let brokers = &self.driven.machine().config().brokers;
                // A peer's broker has no login of ours.
                let known = configured.and_then(|place| brokers.get(place)).cloned();
                self.open(channel, &known.unwrap_or_else(|| BrokerConfig::new(url)), ctx);
            }
            RouterAct::Publish { channel, ticket, topic, payload, until } => {
                let published = self.channels.get(&channel);
                let published = published.map(|known| known.publish(ticket, topic, payload, until));
                if let Some(Err(error)) = published {
                    let failed = Event::Failed { ticket, reason: FailReason::NotTaken(error) };
                    self.node().handle_channel(channel, failed, now());
                }
            }
            RouterAct::Check { channel } => {
                self.channels.get(&channel).into_iter().for_each(signal::Channel::check);
            }
            RouterAct::Close { channel } => match self.channels.remove(&channel) {
                Some(known) => {
                    let farewell = known.farewell().into_actor(self);
                    ctx.spawn(farewell.map(move |(), actor, ctx| {
                        actor.feed(|node, now| node.handle_channel_closed(channel, now), ctx);
                    }));
                }
                None => self.node().handle_channel_closed(channel, now()),
            },
        }
    }

    fn open(&mut self, channel: ChannelId, config: &BrokerConfig, ctx: &mut Context<Self>) {
        let broker = match (config.url.port(), &self.memory) {
            (Some(port), _) => Broker::Mqtt(endpoint(config, port)),
            (None, Some(memory)) => Broker::Memory(memory.clone()),
            (None, None) => return debug!(url = %config.url, "there is no in-process broker"),
        };
        let topic = self.driven.machine().config().identity.id().topic();
        let config = ChannelConfig { id: channel.0, broker, topic, seed: self.seed.fork("channel") };
        self.channels.insert(channel, signal::open(config, ctx.address().recipient()));
    }
}

fn endpoint(config: &BrokerConfig, port: u16) -> Endpoint {
    let (url, login) = (&config.url, config.login.clone());
    Endpoint {
        host: url.host().to_string(),
        port,
        tls: url.is_tls().then(|| Tls { ca_file: config.ca_file.clone() }),
        protocol: url.version(),
        login: login.map(|(user, password)| Login { user, password }),
        bind: Bind { address: config.bind, device: None },
    }
}

impl Handler<FromChannel> for NodeActor {
    type Result = ();

    fn handle(&mut self, FromChannel { channel, what }: FromChannel, ctx: &mut Context<Self>) {
        self.feed(|node, now| node.handle_channel(ChannelId(channel), what, now), ctx);
    }
}
