//! Messages between two nodes in one process, on loopback, signalling through memory.

use std::io::ErrorKind;
use std::sync::Arc;

use p2p_node::{
    BrokerConfig, Config, Framing, MemoryBroker, Message, MessageOptions, Messages, Node, Replier, Role,
};
use tokio::io::AsyncWriteExt;
use tokio::sync::{Barrier, mpsc};

async fn pair() -> (Node, Node) {
    let broker = MemoryBroker::new();
    let config = || {
        let mut config = Config::loopback();
        config.brokers = vec![BrokerConfig::new("memory://here".parse().unwrap())];
        config.memory = Some(broker.clone());
        config
    };
    (Node::bind(config()).await.unwrap(), Node::bind(config()).await.unwrap())
}

async fn call(anna: &Node, bert: &Node, options: impl Into<MessageOptions>) -> Messages {
    anna.connect(&bert.addr().unwrap()).await.unwrap().into_messages(options)
}

async fn shout(message: Message, replier: Replier) {
    // The caller may be gone.
    let _ = replier.send(message.bytes.to_ascii_uppercase()).await;
}

fn small(framing: Framing) -> MessageOptions {
    let mut options = MessageOptions::from(framing);
    options.most_bytes = 100;
    options
}

#[tokio::test]
async fn messages_are_answered_in_either_framing() {
    for framing in [Framing::Lines, Framing::Length] {
        let (anna, bert) = pair().await;
        let _guard = bert.on_message(framing, shout);
        let mut pipe = call(&anna, &bert, framing).await;
        for text in ["hello", "", "two words", &"x".repeat(1_000_000)] {
            pipe.send(text.to_owned()).await.unwrap();
            assert_eq!(pipe.next().await.unwrap().unwrap(), text.to_uppercase());
        }
        pipe.finish().await.unwrap();
        assert!(pipe.next().await.is_none());
    }
}

#[tokio::test]
async fn a_handler_knows_who_speaks_and_how() {
    let (anna, bert) = pair().await;
    let (tell, mut told) = mpsc::channel(1);
    let _guard = bert.on_message(Framing::Lines, move |message, _| {
        let tell = tell.clone();
        async move { tell.send((message.peer, message.how.role)).await.unwrap() }
    });
    let mut pipe = call(&anna, &bert, Framing::Lines).await;
    pipe.send("who am I?").await.unwrap();
    assert_eq!(told.recv().await.unwrap(), (anna.id(), Role::Answerer));
    assert_eq!(pipe.pipe().peer(), bert.id());
}

#[tokio::test]
async fn length_carries_any_byte_and_lines_refuse_a_newline() {
    let (anna, bert) = pair().await;
    let _guard = bert.on_message(Framing::Length, shout);
    let mut pipe = call(&anna, &bert, Framing::Length).await;
    let every: Vec<u8> = (0..=u8::MAX).filter(|byte| !byte.is_ascii_lowercase()).collect();
    pipe.send(every.clone()).await.unwrap();
    assert_eq!(pipe.next().await.unwrap().unwrap(), every);

    let mut lines = call(&anna, &bert, Framing::Lines).await;
    assert_eq!(lines.send("a\nb").await.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn what_is_too_long_is_not_sent_and_not_taken() {
    for framing in [Framing::Lines, Framing::Length] {
        let (anna, bert) = pair().await;
        let _guard = bert.on_message(small(framing), shout);
        let mut bounded = call(&anna, &bert, small(framing)).await;
        assert_eq!(bounded.send(vec![b'x'; 101]).await.unwrap_err().kind(), ErrorKind::InvalidInput);
        bounded.send(vec![b'x'; 100]).await.unwrap();
        assert_eq!(bounded.next().await.unwrap().unwrap(), vec![b'X'; 100]);

        let mut unbounded = call(&anna, &bert, framing).await;
        unbounded.send(vec![b'x'; 101]).await.unwrap();
        // The pipe is cut: an error or the end, but no answer.
        assert!(!matches!(unbounded.next().await, Some(Ok(_))));
    }
}

#[tokio::test]
async fn an_endless_line_is_cut() {
    let (anna, bert) = pair().await;
    let _guard = bert.on_message(small(Framing::Lines), shout);
    let mut pipe = anna.connect(&bert.addr().unwrap()).await.unwrap();
    let cut = async {
        loop {
            if pipe.write_all(&[b'x'; 4096]).await.is_err() || pipe.flush().await.is_err() {
                return;
            }
        }
    };
    cut.await;
}

#[tokio::test]
async fn pipes_are_served_at_the_same_time() {
    let (anna, bert) = pair().await;
    let meeting = Arc::new(Barrier::new(3));
    let _guard = bert.on_message(Framing::Lines, move |_, replier| {
        let meeting = Arc::clone(&meeting);
        async move {
            meeting.wait().await;
            let _ = replier.send("all here").await;
        }
    });
    let mut pipes = Vec::new();
    for _ in 0..3 {
        let mut pipe = call(&anna, &bert, Framing::Lines).await;
        pipe.send("here").await.unwrap();
        pipes.push(pipe);
    }
    for pipe in &mut pipes {
        assert_eq!(pipe.next().await.unwrap().unwrap(), "all here");
    }
}

#[tokio::test]
async fn no_more_pipes_than_allowed_are_served_at_once() {
    let (anna, bert) = pair().await;
    let mut options = MessageOptions::from(Framing::Lines);
    options.most_pipes = 1;
    let _guard = bert.on_message(options, shout);
    let mut first = call(&anna, &bert, Framing::Lines).await;
    first.send("one").await.unwrap();
    assert_eq!(first.next().await.unwrap().unwrap(), "ONE");
    let mut second = call(&anna, &bert, Framing::Lines).await;
    second.send("two").await.unwrap();
    // The first is still answered, the second only after it.
    tokio::select! {
        biased;
        _ = second.next() => panic!("two pipes are served"),
        answer = async { first.send("one more").await.unwrap(); first.next().await } => {
            assert_eq!(answer.unwrap().unwrap(), "ONE MORE");
        }
    }
    drop(first);
    assert_eq!(second.next().await.unwrap().unwrap(), "TWO");
}

#[tokio::test]
async fn dropping_the_guard_stops_it_all() {
    let (anna, bert) = pair().await;
    let guard = bert.on_message(Framing::Lines, shout);
    let mut pipe = call(&anna, &bert, Framing::Lines).await;
    pipe.send("hello").await.unwrap();
    assert_eq!(pipe.next().await.unwrap().unwrap(), "HELLO");
    drop(guard);
    assert!(!matches!(pipe.next().await, Some(Ok(_))));
    let addr = bert.addr().unwrap();
    let (called, accepted) = tokio::join!(anna.connect(&addr), bert.accept());
    assert_eq!((called.unwrap().peer(), accepted.unwrap().peer()), (bert.id(), anna.id()));
}

#[tokio::test]
async fn a_replier_may_be_kept_for_later() {
    let (anna, bert) = pair().await;
    let (keep, mut kept) = mpsc::channel(1);
    let _guard = bert.on_message(Framing::Lines, move |_, replier| {
        let keep = keep.clone();
        async move { keep.send(replier).await.unwrap() }
    });
    let mut pipe = call(&anna, &bert, Framing::Lines).await;
    pipe.send("later, please").await.unwrap();
    pipe.finish().await.unwrap();
    let replier = kept.recv().await.unwrap();
    replier.send("now").await.unwrap();
    assert_eq!(pipe.next().await.unwrap().unwrap(), "now");
    drop(replier);
    assert!(pipe.next().await.is_none());
}
