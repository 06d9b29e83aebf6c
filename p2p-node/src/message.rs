//! Messages over pipes, for programs that do not want a byte stream.
//!
//! It is a thin convenience. [`Node::on_message`] accepts connections and calls a handler for each message.
//! [`Pipe::into_messages`] is the other end.

use std::fmt;
use std::future::Future;
use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use p2p_core::node::ConnectionInfo;
use p2p_core::peer::PeerId;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::codec::{
    AnyDelimiterCodec, AnyDelimiterCodecError, Decoder, Encoder, Framed, LengthDelimitedCodec,
};
use tracing::debug;

use crate::node::Node;
use crate::pipe::Pipe;

/// The most replies of one pipe that wait to be sent. A handler with more waits.
const QUEUED: usize = 16;

/// The rule by which messages are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// A message ends at a newline (0x0A), which is not part of it. It can hold anything else.
    Lines,
    /// Four bytes in front of a message tell its length in bytes, the most significant first.
    Length,
}

/// The framing of messages, and their bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MessageOptions {
    /// The rule by which messages are told apart.
    pub framing: Framing,
    /// The longest message, in bytes, in either direction. A pipe that brings a longer one is closed. Default 1 MiB,
    /// and never more than 4 GiB - 1.
    pub most_bytes: usize,
    /// The most pipes served at once by one [`Node::on_message`]; more wait in the node's backlog. Default 256.
    pub most_pipes: usize,
}

impl From<Framing> for MessageOptions {
    fn from(framing: Framing) -> Self {
        Self { framing, most_bytes: 1024 * 1024, most_pipes: 256 }
    }
}

impl MessageOptions {
    /// Returns the options with this framing and the default bounds.
    pub fn new(framing: Framing) -> Self {
        framing.into()
    }
}

p2p_core::setters!(MessageOptions {
    with_framing(framing: Framing);
    with_most_bytes(most_bytes: usize);
    with_most_pipes(most_pipes: usize);
});

impl MessageOptions {
    fn check(self, message: &[u8]) -> Result<()> {
        if message.len() > self.most_bytes {
            let why = format!("a message of {} bytes: {} at most", message.len(), self.most_bytes);
            return Err(Error::new(ErrorKind::InvalidInput, why));
        }
        if self.framing == Framing::Lines && message.contains(&b'\n') {
            let why = "a message framed as a line cannot hold a newline: use Framing::Length";
            return Err(Error::new(ErrorKind::InvalidInput, why));
        }
        Ok(())
    }

    fn codec(self) -> Codec {
        match self.framing {
            Framing::Lines => Codec::Lines(AnyDelimiterCodec::new_with_max_length(
                b"\n".to_vec(),
                b"\n".to_vec(),
                self.most_bytes,
            )),
            Framing::Length => {
                let most = self.most_bytes.min(u32::MAX as usize);
                Codec::Length(LengthDelimitedCodec::builder().max_frame_length(most).new_codec())
            }
        }
    }
}

enum Codec {
    Lines(AnyDelimiterCodec),
    Length(LengthDelimitedCodec),
}

fn too_long(error: AnyDelimiterCodecError) -> Error {
    match error {
        AnyDelimiterCodecError::MaxChunkLengthExceeded => {
            Error::new(ErrorKind::InvalidData, "the peer sent a longer line than is allowed")
        }
        AnyDelimiterCodecError::Io(error) => error,
    }
}

impl Decoder for Codec {
    type Item = Bytes;
    type Error = Error;

    fn decode(&mut self, from: &mut BytesMut) -> Result<Option<Bytes>> {
        match self {
            Self::Lines(codec) => codec.decode(from).map_err(too_long),
            Self::Length(codec) => Ok(codec.decode(from)?.map(BytesMut::freeze)),
        }
    }

    fn decode_eof(&mut self, from: &mut BytesMut) -> Result<Option<Bytes>> {
        match self {
            // A last line without its newline is a line.
            Self::Lines(codec) => codec.decode_eof(from).map_err(too_long),
            Self::Length(codec) => Ok(codec.decode_eof(from)?.map(BytesMut::freeze)),
        }
    }
}

impl Encoder<Bytes> for Codec {
    type Error = Error;

    fn encode(&mut self, message: Bytes, into: &mut BytesMut) -> Result<()> {
        match self {
            Self::Lines(_) => {
                into.reserve(message.len() + 1);
                into.extend_from_slice(&message);
                into.extend_from_slice(b"\n");
                Ok(())
            }
            Self::Length(codec) => codec.encode(message, into),
        }
    }
}

/// A message from a proven peer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Message {
    /// The peer that sent it.
    pub peer: PeerId,
    /// The bytes of the message.
    pub bytes: Bytes,
    /// The history of the connection it came over.
    pub how: Arc<ConnectionInfo>,
}

/// A handle that answers over the pipe a message came from. It may be cloned and kept. The pipe stays open until the
/// peer has ended its direction and every replier is dropped.
#[derive(Clone, Debug)]
pub struct Replier {
    options: MessageOptions,
    queue: mpsc::Sender<Bytes>,
}

impl Replier {
    /// Sends an answer, and waits while the peer is slow.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) when the message does not fit the framing,
    /// [`BrokenPipe`](ErrorKind::BrokenPipe) when the pipe is gone.
    pub async fn send(&self, message: impl Into<Bytes>) -> Result<()> {
        let message = message.into();
        self.options.check(&message)?;
        self.queue.send(message).await.map_err(|_| ErrorKind::BrokenPipe.into())
    }
}

/// A guard that serves messages until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it stops serving"]
pub struct MessageGuard(AbortHandle);

impl Drop for MessageGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Node {
    /// Accepts connections and calls `handler` for each message. Messages of one pipe come one after the other, those
    /// of different pipes at the same time. It serves until the guard is dropped or the node closes. Then its pipes
    /// are closed too.
    ///
    /// Connections go to whoever asks first, so this leaves none to [`Node::accept`].
    ///
    /// ```
    /// # use p2p_node::{Config, Framing, Node};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (anna, bert) = (Node::bind(Config::loopback()).await?, Node::bind(Config::loopback()).await?);
    /// let _guard = bert.on_message(Framing::Lines, |message, replier| async move {
    ///     // The peer may be gone when the answer is ready.
    ///     let _ = replier.send(message.bytes.to_ascii_uppercase()).await;
    /// });
    ///
    /// let address = bert.addr().ok_or("closed")?;
    /// let mut pipe = anna.connect(&address).await?.into_messages(Framing::Lines);
    /// pipe.send("hello").await?;
    /// assert_eq!(pipe.next().await.ok_or("ended")??, "HELLO");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn on_message<H, F>(&self, options: impl Into<MessageOptions>, handler: H) -> MessageGuard
    where
        H: Fn(Message, Replier) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send,
    {
        let (options, node, handler) = (options.into(), self.clone(), Arc::new(handler));
        let serving = tokio::spawn(async move {
            let room = Arc::new(Semaphore::new(options.most_pipes.clamp(1, Semaphore::MAX_PERMITS)));
            // The set is dropped with this task, and its tasks with it.
            let mut pipes = JoinSet::new();
            while let Ok(place) = Arc::clone(&room).acquire_owned().await {
                let Some(pipe) = node.accept().await else { break };
                while pipes.try_join_next().is_some() {}
                let handler = Arc::clone(&handler);
                pipes.spawn(async move {
                    let peer = pipe.peer();
                    if let Err(error) = serve(pipe, options, &*handler).await {
                        debug!(peer = %peer.short(), %error, "messages ended");
                    }
                    drop(place);
                });
            }
            while pipes.join_next().await.is_some() {}
        });
        MessageGuard(serving.abort_handle())
    }
}

async fn serve<H, F>(pipe: Pipe, options: MessageOptions, handler: &H) -> Result<()>
where
    H: Fn(Message, Replier) -> F + Sync,
    F: Future<Output = ()> + Send,
{
    let (peer, how) = (pipe.peer(), Arc::new(pipe.how().clone()));
    let (mut sink, mut stream) = Framed::new(pipe, options.codec()).split();
    let (queue, mut replies) = mpsc::channel(QUEUED);
    let hear = async move {
        while let Some(bytes) = stream.next().await {
            let message = Message { peer, bytes: bytes?, how: Arc::clone(&how) };
            handler(message, Replier { options, queue: queue.clone() }).await;
        }
        Ok(())
    };
    let reply = async {
        while let Some(bytes) = replies.recv().await {
            sink.send(bytes).await?;
        }
        sink.close().await
    };
    tokio::try_join!(hear, reply).map(|_| ())
}

/// A pipe that carries messages.
pub struct Messages {
    framed: Framed<Pipe, Codec>,
    options: MessageOptions,
}

impl Pipe {
    /// Turns the pipe into one of messages instead of bytes. Both ends must use the same framing.
    pub fn into_messages(self, options: impl Into<MessageOptions>) -> Messages {
        let options = options.into();
        Messages { framed: Framed::new(self, options.codec()), options }
    }
}

impl Messages {
    /// Sends a message and waits until the operating system has it.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) when the message does not fit the framing, or an error of the pipe.
    pub async fn send(&mut self, message: impl Into<Bytes>) -> Result<()> {
        let message = message.into();
        self.options.check(&message)?;
        self.framed.send(message).await
    }

    /// Returns the next message, or `None` when the peer has ended its direction. Cancelling loses nothing.
    ///
    /// # Errors
    /// A message that is too long, or an error of the pipe. Then the pipe is of no use any more.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        self.framed.next().await
    }

    /// Ends our direction, so that the peer reads the end. [`Messages::next`] still works.
    ///
    /// # Errors
    /// An error of the pipe.
    pub async fn finish(&mut self) -> Result<()> {
        SinkExt::<Bytes>::close(&mut self.framed).await
    }

    /// Returns the pipe underneath, which tells the peer and the history of the connection.
    pub fn pipe(&self) -> &Pipe {
        self.framed.get_ref()
    }
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages").field("pipe", self.pipe()).field("options", &self.options).finish()
    }
}
