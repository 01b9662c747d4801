//! Where a connection is served. The porch is a thread of its own for those on which nobody was let in yet, or somebody takes more than
//! they may; another one is for those that send a large body, for as long as it takes to read and answer it. Both stand back behind those
//! that serve.
//!
//! ```text
//!                  let in
//!   accept --> Porch ----> Inside: where the server runs
//!                ^  |         |  ^
//!                |  |         |  |   a large body, from its headers to its answer
//!                |  +--> Large <-+
//!                +------------+  refused at a limit of their own
//! ```
//! So whoever has no credential takes turns with others who have none, and gets what those leave who have one; and so does, for a
//! moment, who has used up what they may take. Invariant: a connection and what was begun for it outside go where they belong
//! at their next turn; what was begun inside ends there.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::rt::Executor;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio_rustls::server::TlsStream;
use tracing::debug;

use super::background::{Background, give_way};
use super::stranger::Standing;

/// How far the threads stand back.
const NICENESS: i32 = 10;

/// Where a connection is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    Porch,
    Large,
    #[default]
    Inside,
}

thread_local! {
    static HERE: Cell<Place> = const { Cell::new(Place::Inside) };
}

/// Where this thread serves.
pub(super) fn here() -> Place {
    HERE.get()
}

/// The two threads.
#[derive(Clone, Debug)]
pub struct Outside {
    porch: Arc<Background>,
    large: Arc<Background>,
}

impl Outside {
    /// Starts them.
    ///
    /// # Errors
    /// When the system has none to give.
    pub fn start() -> io::Result<Outside> {
        let start = |name, place| Background::start(name, NICENESS, move || HERE.set(place)).map(Arc::new);
        Ok(Outside { porch: start("porch", Place::Porch)?, large: start("large-bodies", Place::Large)? })
    }

    /// Where the porch's tasks run.
    #[must_use]
    pub fn porch(&self) -> &Handle {
        self.porch.handle()
    }
}

/// Starts the tasks of one connection where they belong.
#[derive(Clone, Debug)]
pub(super) struct Tasks {
    pub(super) standing: Arc<Standing>,
    pub(super) outside: Outside,
    pub(super) inside: Handle,
}

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        if here() == Place::Inside && self.standing.place() == Place::Inside {
            drop(self.inside.spawn(task));
        } else {
            self.place(Placed { task: Some(Box::pin(task)), tasks: self.clone() });
        }
    }
}

impl Tasks {
    /// Starts a task where the connection stands now.
    fn place(&self, task: impl Future<Output = ()> + Send + 'static) {
        let place = match self.standing.place() {
            Place::Porch => self.outside.porch.handle(),
            Place::Large => self.outside.large.handle(),
            Place::Inside => &self.inside,
        };
        drop(place.spawn(task));
    }
}

/// A task that goes where its connection belongs.
struct Placed<F> {
    task: Option<Pin<Box<F>>>,
    tasks: Tasks,
}

impl<F: Future<Output: Send> + Send + 'static> Future for Placed<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        give_way();
        let Placed { task, tasks } = &mut *self;
        if tasks.standing.place() != here()
            && let Some(task) = task.take()
        {
            tasks.place(Placed { task: Some(task), tasks: tasks.clone() });
        }
        match task {
            Some(task) => task.as_mut().poll(context).map(drop),
            None => Poll::Ready(()),
        }
    }
}

/// A socket that can be served by another thread than it was begun by.
pub(super) trait Moves {
    /// Has the thread that runs this told of what comes.
    fn come_here(&mut self);
}

impl Moves for TcpStream {
    fn come_here(&mut self) {
        let moved = self.as_fd().try_clone_to_owned().map(std::net::TcpStream::from).and_then(TcpStream::from_std);
        match moved {
            Ok(moved) => *self = moved,
            // It is served all the same: the other thread passes on what comes.
            Err(error) => debug!(%error, "a connection is still waited for elsewhere"),
        }
    }
}

impl<S: Moves> Moves for TlsStream<S> {
    fn come_here(&mut self) {
        self.get_mut().0.come_here();
    }
}

#[cfg(test)]
impl Moves for tokio::io::DuplexStream {
    fn come_here(&mut self) {}
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;

    /// Runs `task` on a porch, as the first of a connection.
    fn begin(outside: &Outside, standing: &Arc<Standing>, task: impl Future<Output = ()> + Send + 'static) {
        let tasks = Tasks { standing: Arc::clone(standing), outside: outside.clone(), inside: Handle::current() };
        outside.porch().spawn(async move { tasks.execute(task) });
    }

    #[tokio::test]
    async fn a_task_goes_where_its_connection_stands() {
        let (outside, standing) = (Outside::start().unwrap(), Arc::new(Standing::default()));
        let (say, mut said) = mpsc::unbounded_channel();
        let of_task = Arc::clone(&standing);
        begin(&outside, &standing, async move {
            let say = async || {
                say.send(here()).unwrap();
                tokio::task::yield_now().await;
            };
            say().await;
            say().await;
            of_task.let_in();
            tokio::task::yield_now().await;
            say().await;
            let (large, larger) = (of_task.begin_large(), of_task.begin_large());
            tokio::task::yield_now().await;
            drop(larger);
            say().await;
            drop(large);
            tokio::task::yield_now().await;
            say().await;
            of_task.set_back();
            tokio::task::yield_now().await;
            say().await;
        });
        let mut places = Vec::new();
        while let Some(place) = said.recv().await {
            places.push(place);
        }
        let expected = [Place::Porch, Place::Porch, Place::Inside, Place::Large, Place::Inside, Place::Porch];
        assert_eq!(places, expected, "it goes on to its end once");
    }

    #[tokio::test]
    async fn who_is_known_from_the_start_is_inside_from_the_start() {
        let (outside, standing) = (Outside::start().unwrap(), Arc::new(Standing::default()));
        standing.let_in();
        let (say, mut said) = mpsc::unbounded_channel();
        begin(&outside, &standing, async move { say.send(here()).unwrap() });
        assert_eq!(said.recv().await, Some(Place::Inside));
    }

    #[tokio::test]
    async fn a_socket_that_came_here_hears_what_comes_without_the_porch() {
        let outside = Outside::start().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let accepted = accepted.into_std().unwrap();
        let registered = outside.porch().spawn(async move {
            let mut stream = TcpStream::from_std(accepted).unwrap();
            stream.read_u8().await.unwrap();
            stream
        });
        peer.write_u8(1).await.unwrap();
        let mut stream = registered.await.unwrap();
        stream.come_here();
        drop(outside);
        // Time for the thread to be gone, and with it all that it passed on.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        peer.write_u8(2).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), 2);
        stream.write_u8(3).await.unwrap();
        assert_eq!(peer.read_u8().await.unwrap(), 3);
    }
}
